-- first_layer('cat', rank=2, min_prob=0.5)
-- $token = 2
-- $rank = 2
-- $min_prob = 0.5
-- $lowest = 0
WITH layers AS (
  SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
  FROM (SELECT image, layer, position, logprob FROM read_parquet($patch_topk) WHERE token = $token AND rank <= $rank AND exp(logprob) >= $min_prob
  ) GROUP BY image, layer
), picked AS (
  SELECT image, min(layer) AS layer, arg_min(logprob, layer) AS logprob, arg_min(positions, layer) AS positions
  FROM layers GROUP BY image
), named AS (
  SELECT picked.* EXCLUDE (image), images.image, image_id, layer = $lowest AND $lowest > 0 AS censored
  FROM picked JOIN read_parquet($images) AS images ON image_id = picked.image
)
SELECT image, layer, positions AS patches, logprob, censored, image_id
FROM named ORDER BY layer, image, image_id
