-- What each night did: runs, images, seconds, images a second (but of killed runs, whose seconds are not known), failed shards.
-- A night is the runs of one --run-name, or one run without a name; began: the time of the first, in UTC.
SELECT night, regexp_extract(min(run_id), '^[^-]+') AS began, count(*) AS runs, sum(num_committed) AS shards, sum(num_failed) AS failed,
       sum(num_images) AS images, sum(num_rejected) AS rejected, round(sum(seconds), 1) AS seconds,
       round(sum(num_images) FILTER (seconds IS NOT NULL) / nullif(sum(seconds), 0), 1) AS images_per_s, max(device) AS device
FROM runs GROUP BY night ORDER BY min(run_id);
