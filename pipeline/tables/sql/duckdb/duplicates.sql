-- Images whose very bytes occur more than once.
-- Set: number (20), rows shown.
SELECT sha256, count(*) AS images, list(shard || ' : ' || key ORDER BY shard, index)[:5] AS first_of_them
FROM labels WHERE sha256 IS NOT NULL
GROUP BY sha256 HAVING count(*) > 1
ORDER BY images DESC, sha256 LIMIT coalesce(getvariable('number')::INTEGER, 20);
