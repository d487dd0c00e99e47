-- The tables of an output as views: labels, top5, shards, runs, classes.
-- SET VARIABLE output = 's3://bucket/tables'; and, if it has labels of several models, SET VARIABLE model = '…';
CREATE OR REPLACE VIEW labels AS
SELECT * EXCLUDE filename, regexp_extract(filename, '/labels/model=([^/]+)/', 1) AS model
FROM read_parquet(getvariable('output') || '/labels/model=' || coalesce(getvariable('model'), '*') || '/**/*.parquet',
                  filename = true, hive_partitioning = false);

CREATE OR REPLACE VIEW top5 AS
SELECT model, shard, index, key, rank, top5[rank].label_id AS label_id, top5[rank].label AS label, top5[rank].prob AS prob
FROM (SELECT model, shard, index, key, top5, unnest(range(1, len(top5) + 1)) AS rank FROM labels WHERE error IS NULL);

CREATE OR REPLACE VIEW shards AS
SELECT * FROM read_parquet(getvariable('output') || '/shards/*.parquet', hive_partitioning = false, union_by_name = true)
WHERE model_id LIKE coalesce(getvariable('model'), '%');

CREATE OR REPLACE VIEW runs AS
SELECT * FROM read_parquet(getvariable('output') || '/runs/*.parquet', hive_partitioning = false, union_by_name = true)
WHERE model_id LIKE coalesce(getvariable('model'), '%');

CREATE OR REPLACE VIEW classes AS
SELECT *, parse_filename(filename, true) AS model
FROM read_parquet(getvariable('output') || '/classes/' || coalesce(getvariable('model'), '*') || '.parquet', filename = true);
