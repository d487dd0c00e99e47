-- The images most like one image, by the cosine of their embeddings.
-- Set: key, or sha256 (of the image asked about, needed); shard, if the key is in several; number (10), rows shown.
WITH found AS (
    SELECT shard, index, embedding::FLOAT[1536] AS embedding FROM labels
    WHERE (key = getvariable('key') OR sha256 = getvariable('sha256'))
      AND shard = coalesce(getvariable('shard'), shard) AND error IS NULL
    ORDER BY shard, index LIMIT 1
), asked AS (  -- one row always: what no row says is said by the error
    SELECT coalesce(any_value(shard), error(CASE
               WHEN coalesce(getvariable('key'), getvariable('sha256')) IS NULL THEN 'the query needs the setting key, or sha256'
               ELSE 'the query knows no image ' || coalesce(getvariable('key'), getvariable('sha256')) ||
                    coalesce(' in shard ' || getvariable('shard'), '') || ' that has an embedding' END)) AS shard,
           any_value(index) AS index, any_value(embedding) AS embedding
    FROM found
)
SELECT labels.shard, key, label, round(array_cosine_similarity(labels.embedding::FLOAT[1536], asked.embedding)::DOUBLE, 5) AS cosine
FROM labels, asked
WHERE error IS NULL AND (labels.shard, labels.index) != (asked.shard, asked.index)
ORDER BY cosine DESC, labels.shard, labels.index LIMIT coalesce(getvariable('number')::INTEGER, 10);
