-- first_layer('cat')
-- $token = 2
SELECT images.image, answer.layer, answer.patches, answer.logprob, answer.censored, images.image_id
FROM (WITH layers AS (
    SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
    WHERE token = $token
  )
  SELECT image, min(layer)::INTEGER AS layer,
    arg_min(positions, layer) AS patches,
    arg_min(logprob, layer) AS logprob,
    false AS censored
  FROM layers GROUP BY image
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id
