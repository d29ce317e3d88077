-- first_layer('cat', rank=2, min_prob=0.5)
-- $token = 2
-- $rank = 2
-- $min_prob = 0.5
SELECT images.image, answer.layer, answer.patches, answer.logprob, answer.censored, images.image_id
FROM (WITH layers AS (
    SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
    FROM (
      SELECT image, layer, position, rank, logprob FROM read_parquet($patch_topk)
      WHERE token = $token AND rank <= $rank AND exp(logprob) >= $min_prob
    ) GROUP BY image, layer
  )
  SELECT image, min(layer)::INTEGER AS layer,
    arg_min(positions, layer) AS patches,
    arg_min(logprob, layer) AS logprob,
    false AS censored
  FROM layers GROUP BY image
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id
