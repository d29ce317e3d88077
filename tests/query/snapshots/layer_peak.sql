-- peak_layer('cat')
-- $token = 2
SELECT images.image, answer.layer, answer.patches, answer.logprob, answer.censored, images.image_id
FROM (WITH layers AS (
    SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
    WHERE token = $token
  )
  SELECT image, arg_max(layer, (logprob, -layer::INTEGER))::INTEGER AS layer,
    arg_max(positions, (logprob, -layer::INTEGER)) AS patches,
    arg_max(logprob, (logprob, -layer::INTEGER)) AS logprob,
    false AS censored
  FROM layers GROUP BY image
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id
