-- Labels whose share changed most between the images labelled in two nights, of those that are still in the tables.
-- Set: before, after (dates; the last two nights that labelled something); number (20), rows shown.
WITH last AS (
    SELECT model_id, shard, max_by(labelled_at::DATE, labelled_at) AS night
    FROM shards WHERE status = 'committed' GROUP BY ALL
), nights AS (
    SELECT coalesce(getvariable('before')::DATE, (SELECT max(night) FROM last WHERE night < (SELECT max(night) FROM last))) AS before,
           coalesce(getvariable('after')::DATE, (SELECT max(night) FROM last)) AS after
), counted AS (
    SELECT label_id, any_value(label) AS label,
           count(*) FILTER (night = before) AS images_before, count(*) FILTER (night = after) AS images_after
    FROM labels JOIN last ON last.shard = labels.shard AND last.model_id = labels.model, nights
    WHERE error IS NULL GROUP BY label_id
), shared AS (
    SELECT *, images_before / nullif(sum(images_before) OVER (), 0) AS share_before,
           images_after / nullif(sum(images_after) OVER (), 0) AS share_after
    FROM counted
)
SELECT label_id, label, images_before, images_after, round(share_before, 4) AS share_before,
       round(share_after, 4) AS share_after, round(share_after - share_before, 4) AS change
FROM shared WHERE images_before + images_after > 0
ORDER BY abs(share_after - share_before) DESC, label_id LIMIT coalesce(getvariable('number')::INTEGER, 20);
