-- The tables of an output as views: labels, top5, shards, runs, classes.
-- SET VARIABLE output = 's3://bucket/tables'; and, if it has labels of several models, SET VARIABLE model = '…': without it
-- each image counts once for each model. Both are taken as they stand: [*] is a * in a pattern.
-- A copy of a table under another name does not count, and a Parquet file without our columns is an error, not a row.
-- Of a Delta or Iceberg table the files that count come first: SET VARIABLE files = ['…', …];
CREATE OR REPLACE VIEW labels AS
SELECT * EXCLUDE filename, regexp_extract(filename, '.*/(labels|delta|iceberg)/model=([^/]+)/', 2) AS model
FROM read_parquet(coalesce(getvariable('files')::VARCHAR[], [
                      regexp_replace(getvariable('output'), '([*?[])', '[\1]', 'g') || '/labels/model=' ||
                      coalesce(regexp_replace(getvariable('model'), '([*?[])', '[\1]', 'g'), '*') || '/**/*.parquet']),
                  filename = true, hive_partitioning = false)
WHERE getvariable('files') IS NOT NULL
   OR parse_filename(filename, false, 'both_slash') = parse_filename(shard, false, 'both_slash') || '.parquet';

CREATE OR REPLACE VIEW top5 AS
SELECT model, shard, index, key, rank, top5[rank].label_id AS label_id, top5[rank].label AS label, top5[rank].prob AS prob
FROM (SELECT model, shard, index, key, top5, unnest(range(1, len(top5) + 1)) AS rank FROM labels WHERE error IS NULL);

-- A process that was killed while it merged files of the ledger leaves rows twice.
CREATE OR REPLACE VIEW shards AS
SELECT DISTINCT ON (run_id, shard, model_id, status) * FROM read_parquet(regexp_replace(getvariable('output'), '([*?[])', '[\1]', 'g') || '/shards/*.parquet',
                           hive_partitioning = false, union_by_name = true)
WHERE model_id = coalesce(getvariable('model'), model_id);

-- A night: the runs of one --run-name, or one run without a name. `night` is that name, or the run's id.
CREATE OR REPLACE VIEW runs AS
SELECT DISTINCT ON (run_id) *, coalesce(nullif(regexp_extract(run_id, '^[^-]+-(.+)-[0-9a-f]{6}$', 1), ''), run_id) AS night
FROM read_parquet(regexp_replace(getvariable('output'), '([*?[])', '[\1]', 'g') || '/runs/*.parquet',
                  hive_partitioning = false, union_by_name = true)
WHERE model_id = coalesce(getvariable('model'), model_id);

CREATE OR REPLACE VIEW classes AS
SELECT *, parse_filename(filename, true) AS model
FROM read_parquet(regexp_replace(getvariable('output'), '([*?[])', '[\1]', 'g') || '/classes/' ||
                  coalesce(regexp_replace(getvariable('model'), '([*?[])', '[\1]', 'g'), '*') || '.parquet',
                  filename = true, hive_partitioning = false);
