-- Images whose top five labels hold a label, wherever it ranks.
-- Set: label_id (needed); number (20), rows shown.
SELECT shard, key, rank, label, round(prob::DOUBLE, 4) AS prob
FROM top5 WHERE label_id = coalesce(getvariable('label_id')::SMALLINT, error('the query needs the setting label_id'))
ORDER BY prob DESC, shard, index LIMIT coalesce(getvariable('number')::INTEGER, 20);
