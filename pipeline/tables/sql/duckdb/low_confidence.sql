-- The images the network is least sure of: a queue for people to look at.
-- Set: below (0.5), of the probability; number (20), rows shown.
SELECT shard, key, label, round(prob::DOUBLE, 4) AS prob, top5[2].label AS second, round(top5[2].prob::DOUBLE, 4) AS second_prob
FROM labels WHERE error IS NULL AND prob < coalesce(getvariable('below')::DOUBLE, 0.5)
ORDER BY labels.prob, shard, index LIMIT coalesce(getvariable('number')::INTEGER, 20);
