-- Athena: the tables of an output. Put your output for s3://BUCKET/TABLES; folders below a partition are read too.
-- The questions are in trino.sql, which Athena (engine version 3) understands.
CREATE EXTERNAL TABLE labels (
    shard string, `index` int, key string, width int, height int, sha256 string, label_id smallint, label string, prob float,
    top5 array<struct<label_id:smallint,label:string,prob:float>>, embedding array<float>, error string)
PARTITIONED BY (model string) STORED AS PARQUET LOCATION 's3://BUCKET/TABLES/labels/';

MSCK REPAIR TABLE labels;

CREATE EXTERNAL TABLE shards (
    run_id string, shard string, source_uri string, source_size bigint, source_etag string, model_id string, status string,
    failure string, num_images bigint, num_rejected bigint, rejected array<struct<error:string,num_images:bigint>>,
    num_left_out bigint, left_out array<struct<reason:string,suffix:string,num_files:bigint,example:string>>,
    image_bytes bigint, decode_s double, label_s double, file string, file_size bigint, file_etag string, labelled_at timestamp)
STORED AS PARQUET LOCATION 's3://BUCKET/TABLES/shards/';

CREATE EXTERNAL TABLE runs (
    run_id string, status string, started_at timestamp, seconds double, input string, model_id string, device string,
    `precision` string, runner string, hardware string, versions string, config string, pending_bytes bigint, num_skipped bigint, num_committed bigint,
    num_failed bigint, num_orphans bigint, num_images bigint, num_rejected bigint,
    rejected array<struct<error:string,num_images:bigint>>, num_left_out bigint, left_out array<struct<reason:string,suffix:string,num_files:bigint,example:string>>,
    labels array<struct<label_id:smallint,num_images:bigint>>, confidence array<bigint>, images_per_s double, cpu_s double,
    gpu_s double, held_cpu_s double, held_gpu_s double, cost double)
STORED AS PARQUET LOCATION 's3://BUCKET/TABLES/runs/';
