-- Trino, and Athena: the questions of duckdb/ to the tables of athena.sql. If the output has labels of several models, each image
-- counts once for each: add model = 'MODEL' to the conditions.
-- A night: the runs of one --run-name, or one run without a name. It is called by that name, or by the run's id.

-- labels: how many images have which label.
SELECT label_id, min(label) AS label, count(*) AS images, round(CAST(avg(prob) AS DOUBLE), 4) AS mean_prob
FROM labels WHERE error IS NULL GROUP BY label_id ORDER BY images DESC, label_id;

-- top5: images whose top five labels hold label 1, wherever it ranks.
SELECT shard, key, place, t.label, round(CAST(t.prob AS DOUBLE), 4) AS prob
FROM labels CROSS JOIN UNNEST(top5) WITH ORDINALITY AS t (label_id, label, prob, place)
WHERE t.label_id = 1 ORDER BY t.prob DESC, shard, "index" LIMIT 20;

-- rejects: by reason, with an example of each.
SELECT error, count(*) AS images, min(shard || ' : ' || key) AS example
FROM labels WHERE error IS NOT NULL GROUP BY error ORDER BY images DESC, error;

-- drift: labels of two nights, as throughput names them.
WITH last AS (
    SELECT model_id, shard, max_by(run_id, labelled_at) AS run_id FROM shards WHERE status = 'committed' GROUP BY model_id, shard
), named AS (
    SELECT model_id, shard, coalesce(nullif(regexp_extract(run_id, '^[^-]+-(.+)-[0-9a-f]{6}$', 1), ''), run_id) AS night FROM last
)
SELECT label_id, min(label) AS label, count_if(night = 'night-2026-11-23') AS images_before,
       count_if(night = 'night-2026-11-24') AS images_after
FROM labels JOIN named ON named.shard = labels.shard AND named.model_id = labels.model
WHERE error IS NULL GROUP BY label_id ORDER BY label_id;

-- neighbours: of the image whose key is KEY, by cosine.
WITH dots AS (
    SELECT u.shard, u.key, u.label,
           reduce(zip_with(u.embedding, a.embedding, (x, y) -> CAST(x AS DOUBLE) * y), 0e0, (s, x) -> s + x, s -> s) AS dot,
           reduce(u.embedding, 0e0, (s, x) -> s + CAST(x AS DOUBLE) * x, s -> s) AS one,
           reduce(a.embedding, 0e0, (s, x) -> s + CAST(x AS DOUBLE) * x, s -> s) AS other
    FROM labels u CROSS JOIN labels a
    WHERE a.key = 'KEY' AND u.error IS NULL AND a.error IS NULL AND NOT (u.shard = a.shard AND u."index" = a."index")
)
SELECT shard, key, label, round(dot / sqrt(one * other), 5) AS cosine
FROM dots ORDER BY cosine DESC, shard, key LIMIT 10;

-- duplicates: images whose very bytes occur more than once.
SELECT sha256, count(*) AS images FROM labels WHERE sha256 IS NOT NULL
GROUP BY sha256 HAVING count(*) > 1 ORDER BY images DESC, sha256;

-- low_confidence: the images the network is least sure of.
SELECT shard, key, label, round(CAST(prob AS DOUBLE), 4) AS prob FROM labels
WHERE error IS NULL AND prob < 0.5 ORDER BY labels.prob, shard, "index" LIMIT 20;

-- throughput: what each night did; began: the time of its first run, in UTC.
WITH named AS (
    SELECT *, coalesce(nullif(regexp_extract(run_id, '^[^-]+-(.+)-[0-9a-f]{6}$', 1), ''), run_id) AS night FROM runs
)
SELECT night, regexp_extract(min(run_id), '^[^-]+') AS began, count(*) AS runs, sum(num_images) AS images, sum(num_failed) AS failed,
       round(sum(num_images) FILTER (WHERE seconds IS NOT NULL) / sum(seconds), 1) AS images_per_s
FROM named GROUP BY night ORDER BY began;
