-- Labels whose share changed most between the images labelled in two nights, of those that are still in the tables.
-- A night is the runs of one --run-name, or one run without a name.
-- Set: before, after (as throughput names nights; the last two that labelled something); number (20), rows shown.
WITH last AS (
    SELECT model_id, shard, max_by(run_id, labelled_at) AS run_id FROM shards WHERE status = 'committed' GROUP BY ALL
), named AS (
    SELECT *, coalesce(nullif(regexp_extract(run_id, '^[^-]+-(.+)-[0-9a-f]{6}$', 1), ''), run_id) AS night FROM last
), nights AS (
    SELECT night, row_number() OVER (ORDER BY min(run_id) DESC) AS ago FROM named GROUP BY night
), chosen AS (
    SELECT CASE WHEN getvariable('before') IS NULL THEN (SELECT night FROM nights WHERE ago = 2)
                ELSE (SELECT coalesce(max(night), error('the query knows no night ' || getvariable('before') || ' that labelled something'))
                      FROM nights WHERE night = getvariable('before')) END AS before,
           CASE WHEN getvariable('after') IS NULL THEN (SELECT night FROM nights WHERE ago = 1)
                ELSE (SELECT coalesce(max(night), error('the query knows no night ' || getvariable('after') || ' that labelled something'))
                      FROM nights WHERE night = getvariable('after')) END AS after
), counted AS (
    SELECT label_id, any_value(label) AS label,
           count(*) FILTER (night = before) AS images_before, count(*) FILTER (night = after) AS images_after
    FROM labels JOIN named ON named.shard = labels.shard AND named.model_id = labels.model, chosen
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
