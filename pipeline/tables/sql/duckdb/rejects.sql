-- Rejected images by reason, with an example of each.
SELECT error, count(*) AS images, round(count(*) / (SELECT count(*) FROM labels), 6) AS share,
       min(shard || ' : ' || key) AS example
FROM labels WHERE error IS NOT NULL
GROUP BY error ORDER BY images DESC, error;
