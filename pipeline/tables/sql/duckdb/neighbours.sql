-- The images most like one image, by the cosine of their embeddings.
-- Set: key, sha256 or image (a file that need not be labelled), one is needed; shard, if the key is in several; number (10), rows
-- shown. With an index (label-images index) the answer is quick; exact=true then compares with every row all the same.
WITH found AS (
    SELECT shard, index, embedding::FLOAT[1536] AS embedding FROM labels
    WHERE (key = getvariable('key') OR sha256 = getvariable('sha256'))
      AND shard = coalesce(getvariable('shard'), shard) AND error IS NULL
    ORDER BY shard, index LIMIT 1
), asked AS (  -- one row always: what no row says is said by the error
    SELECT CASE WHEN getvariable('embedding') IS NULL THEN coalesce(any_value(shard), error(CASE
               WHEN coalesce(getvariable('key'), getvariable('sha256')) IS NULL THEN 'the query needs the setting key, sha256 or image'
               ELSE 'the query knows no image ' || coalesce(getvariable('key'), getvariable('sha256')) ||
                    coalesce(' in shard ' || getvariable('shard'), '') || ' that has an embedding' END)) END AS shard,
           any_value(index) AS index, any_value(embedding) AS embedding
    FROM (FROM found UNION ALL SELECT NULL, NULL, getvariable('embedding')::FLOAT[1536] WHERE getvariable('embedding') IS NOT NULL)
)
SELECT labels.shard, key, label, round(array_cosine_similarity(labels.embedding::FLOAT[1536], asked.embedding)::DOUBLE, 5) AS cosine
FROM labels, asked
WHERE error IS NULL AND (labels.shard, labels.index) IS DISTINCT FROM (asked.shard, asked.index)
ORDER BY cosine DESC, labels.shard, labels.index LIMIT coalesce(getvariable('number')::INTEGER, 10);
