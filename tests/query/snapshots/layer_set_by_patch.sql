-- first_layer('dog', by='patch')
-- $token = 0
-- $token_2 = 1
-- $rank = 1
SELECT images.image, answer.patch, answer.layer, answer.patches, answer.logprob, answer.censored, images.image_id
FROM (WITH layers AS (
    SELECT image, layer, position, min(rank) AS rank, least(coalesce(ln(nullif(fsum(exp(logprob)), 0)), max(logprob)), 0) AS logprob
    FROM read_parquet($patch_topk) WHERE token IN ($token, $token_2) AND (image, layer, position) IN (
      SELECT image, layer, position FROM read_parquet($patch_topk) WHERE token IN ($token, $token_2) AND rank = $rank
    )
    GROUP BY image, layer, position HAVING min(rank) <= $rank
  )
  SELECT image, position AS patch, min(layer)::INTEGER AS layer,
    [position] AS patches,
    arg_min(logprob, layer) AS logprob,
    false AS censored
  FROM layers GROUP BY image, position
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id, answer.patch
