-- peak_layer('cat')
-- $token = 2
-- $lowest = 0
-- $highest = 4
-- $deepest = 4
WITH layers AS (
  SELECT image, layer, positions, logprob FROM read_parquet($patch_top1) WHERE token = $token
), picked AS (
  SELECT image, arg_max(layer, (logprob, -layer::INTEGER)) AS layer, arg_max(logprob, (logprob, -layer::INTEGER)) AS logprob, arg_max(positions, (logprob, -layer::INTEGER)) AS positions
  FROM layers GROUP BY image
), named AS (
  SELECT picked.* EXCLUDE (image), images.image, image_id, (layer = $lowest AND $lowest > 0) OR (layer = $highest AND $highest < $deepest) AS censored
  FROM picked JOIN read_parquet($images) AS images ON image_id = picked.image
)
SELECT image, layer, positions AS patches, logprob, censored, image_id
FROM named ORDER BY layer, image, image_id
