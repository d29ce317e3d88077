-- last_layer('cat', layers=(1, 3), min_run=2)
-- $token = 2
-- $from_layer = 1
-- $to_layer = 3
-- $highest = 3
-- $deepest = 4
-- $more = 1
WITH layers AS (
  SELECT image, layer, positions, logprob FROM read_parquet($patch_top1) WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer
  QUALIFY lag(layer, $more) OVER (PARTITION BY image ORDER BY layer) = layer::INTEGER - $more
), picked AS (
  SELECT image, max(layer) AS layer, arg_max(logprob, layer) AS logprob, arg_max(positions, layer) AS positions
  FROM layers GROUP BY image
), named AS (
  SELECT picked.* EXCLUDE (image), images.image, image_id, layer = $highest AND $highest < $deepest AS censored
  FROM picked JOIN read_parquet($images) AS images ON image_id = picked.image
)
SELECT image, layer, positions AS patches, logprob, censored, image_id
FROM named ORDER BY layer, image, image_id
