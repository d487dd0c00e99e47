-- Images whose top five labels hold a label, wherever it ranks.
-- Set: label_id; number (20), rows shown.
SELECT shard, key, rank, label, round(prob::DOUBLE, 4) AS prob
FROM top5 WHERE label_id = getvariable('label_id')::SMALLINT
ORDER BY prob DESC, shard, index LIMIT coalesce(getvariable('number')::INTEGER, 20);
