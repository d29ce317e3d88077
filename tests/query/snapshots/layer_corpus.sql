-- first_layer('cat', at='last', by='corpus')
-- $token = 2
-- $lowest = 0
WITH layers AS (
  SELECT image, layer, positions, logprob FROM read_parquet($last_top1) WHERE token = $token
), picked AS (
  SELECT image, min(layer) AS layer, arg_min(logprob, layer) AS logprob, arg_min(positions, layer) AS positions
  FROM layers GROUP BY image
), named AS (
  SELECT picked.* EXCLUDE (image), images.image, image_id, layer = $lowest AND $lowest > 0 AS censored
  FROM picked JOIN read_parquet($images) AS images ON image_id = picked.image
)
SELECT image, layer, [] AS patches, logprob, censored, image_id,
  count(*) OVER (PARTITION BY layer) AS images, (SELECT histogram(layer) FROM named) AS histogram
FROM named ORDER BY layer, image, image_id LIMIT 1
