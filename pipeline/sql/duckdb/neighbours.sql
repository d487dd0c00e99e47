-- The images most like one image, by the cosine of their embeddings.
-- Set: key, or sha256 (of the image asked about); shard, if the key is in several; number (10), rows shown.
WITH asked AS (
    SELECT shard, index, embedding::FLOAT[1536] AS embedding FROM labels
    WHERE (key = getvariable('key') OR sha256 = getvariable('sha256'))
      AND shard LIKE coalesce(getvariable('shard'), '%') AND error IS NULL
    ORDER BY shard, index LIMIT 1
)
SELECT labels.shard, key, label, round(array_cosine_similarity(labels.embedding::FLOAT[1536], asked.embedding)::DOUBLE, 5) AS cosine
FROM labels, asked
WHERE error IS NULL AND (labels.shard, labels.index) != (asked.shard, asked.index)
ORDER BY cosine DESC, labels.shard, labels.index LIMIT coalesce(getvariable('number')::INTEGER, 10);
