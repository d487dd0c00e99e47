-- How many images have which label (by label_id: two classes may share a name).
-- Set: number (20), rows shown.
SELECT label_id, any_value(label) AS label, count(*) AS images, round(avg(prob)::DOUBLE, 4) AS mean_prob
FROM labels WHERE error IS NULL
GROUP BY label_id ORDER BY images DESC, label_id LIMIT coalesce(getvariable('number')::INTEGER, 20);
