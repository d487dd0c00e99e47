-- What each night did: runs, images, seconds, images a second (but of killed runs, whose seconds are not known), failed shards.
SELECT started_at::DATE AS night, count(*) AS runs, sum(num_committed) AS shards, sum(num_failed) AS failed,
       sum(num_images) AS images, sum(num_rejected) AS rejected, round(sum(seconds), 1) AS seconds,
       round(sum(num_images) FILTER (seconds IS NOT NULL) / nullif(sum(seconds), 0), 1) AS images_per_s, max(device) AS device
FROM runs GROUP BY night ORDER BY night;
