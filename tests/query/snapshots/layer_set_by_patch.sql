-- first_layer('dog', by='patch')
-- $token_0 = 0
-- $token_1 = 1
-- $rank = 1
-- $lowest = 0
WITH layers AS (
  SELECT image, layer, position, least(ln(fsum(exp(logprob))), 0) AS logprob
  FROM read_parquet($patch_topk) WHERE token IN ($token_0, $token_1)
  GROUP BY image, layer, position HAVING min(rank) <= $rank
), picked AS (
  SELECT image, position, min(layer) AS layer, arg_min(logprob, layer) AS logprob
  FROM layers GROUP BY image, position
), named AS (
  SELECT picked.* EXCLUDE (image), images.image, image_id, layer = $lowest AND $lowest > 0 AS censored
  FROM picked JOIN read_parquet($images) AS images ON image_id = picked.image
)
SELECT image, position AS patch, layer, [position] AS patches, logprob, censored, image_id
FROM named ORDER BY layer, image, image_id, patch
