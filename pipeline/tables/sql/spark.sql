-- Spark SQL: the tables of an output as views, and the questions of duckdb/. Put your output for s3://BUCKET/TABLES.
-- If it has labels of several models, each image counts once for each: put labels/model=MODEL for labels in the first path.
CREATE OR REPLACE TEMPORARY VIEW label_files USING parquet
OPTIONS (path 's3://BUCKET/TABLES/labels', recursiveFileLookup 'true');

CREATE OR REPLACE TEMPORARY VIEW labels AS
SELECT *, regexp_extract(input_file_name(), '.*/labels/model=([^/]+)/', 1) AS model FROM label_files;

CREATE OR REPLACE TEMPORARY VIEW shards USING parquet OPTIONS (path 's3://BUCKET/TABLES/shards');
CREATE OR REPLACE TEMPORARY VIEW run_files USING parquet OPTIONS (path 's3://BUCKET/TABLES/runs');

-- A night: the runs of one --run-name, or one run without a name. `night` is that name, or the run's id.
CREATE OR REPLACE TEMPORARY VIEW runs AS
SELECT *, coalesce(nullif(regexp_extract(run_id, '^[^-]+-(.+)-[0-9a-f]{6}$', 1), ''), run_id) AS night FROM run_files;

CREATE OR REPLACE TEMPORARY VIEW top5 AS
SELECT model, shard, index, key, place + 1 AS rank, one.label_id, one.label, one.prob
FROM labels LATERAL VIEW posexplode(top5) AS place, one;

-- labels: how many images have which label.
SELECT label_id, any_value(label) AS label, count(*) AS images, round(avg(prob), 4) AS mean_prob
FROM labels WHERE error IS NULL GROUP BY label_id ORDER BY images DESC, label_id;

-- rejects: by reason, with an example of each.
SELECT error, count(*) AS images, min(concat(shard, ' : ', key)) AS example
FROM labels WHERE error IS NOT NULL GROUP BY error ORDER BY images DESC, error;

-- drift: labels of two nights, as throughput names them.
WITH last AS (
    SELECT model_id, shard, max_by(run_id, labelled_at) AS run_id FROM shards WHERE status = 'committed' GROUP BY model_id, shard
), named AS (
    SELECT model_id, shard, coalesce(nullif(regexp_extract(run_id, '^[^-]+-(.+)-[0-9a-f]{6}$', 1), ''), run_id) AS night FROM last
)
SELECT label_id, any_value(label) AS label, count_if(night = 'night-2026-11-23') AS images_before,
       count_if(night = 'night-2026-11-24') AS images_after
FROM labels JOIN named ON named.shard = labels.shard AND named.model_id = labels.model
WHERE error IS NULL GROUP BY label_id ORDER BY label_id;

-- neighbours: of the image whose key is KEY, by cosine.
WITH unit AS (
    SELECT shard, index, key, label, transform(embedding, x -> x / sqrt(aggregate(embedding, 0D, (s, y) -> s + y * y))) AS embedding
    FROM labels WHERE error IS NULL
)
SELECT u.shard, u.key, u.label, round(aggregate(zip_with(u.embedding, a.embedding, (x, y) -> x * y), 0D, (s, x) -> s + x), 5) AS cosine
FROM unit u CROSS JOIN unit a
WHERE a.key = 'KEY' AND NOT (u.shard = a.shard AND u.index = a.index)
ORDER BY cosine DESC, u.shard, u.key LIMIT 10;

-- duplicates: images whose very bytes occur more than once.
SELECT sha256, count(*) AS images FROM labels WHERE sha256 IS NOT NULL
GROUP BY sha256 HAVING count(*) > 1 ORDER BY images DESC, sha256;

-- low_confidence: the images the network is least sure of.
SELECT shard, key, label, round(prob, 4) AS prob FROM labels
WHERE error IS NULL AND prob < 0.5 ORDER BY prob, shard, index LIMIT 20;

-- throughput: what each night did; began: the time of its first run, in UTC.
SELECT night, regexp_extract(min(run_id), '^[^-]+', 0) AS began, count(*) AS runs, sum(num_images) AS images, sum(num_failed) AS failed,
       round(sum(num_images) FILTER (WHERE seconds IS NOT NULL) / sum(seconds), 1) AS images_per_s
FROM runs GROUP BY night ORDER BY began;
