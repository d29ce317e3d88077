-- rank('dog', layers=2)
-- $token = 0
-- $token_2 = 1
-- $from_layer = 2
-- $to_layer = 2
SELECT images.image, answer.layer, answer.patch, answer.rank, answer.at_least, images.image_id
FROM (SELECT image, layer::INTEGER AS layer, position::INTEGER AS patch, rank::INTEGER AS rank, rank AS at_least, rank AS at_most
  FROM (
    SELECT image, layer, position, min(rank) AS rank, least(coalesce(ln(nullif(fsum(exp(logprob)), 0)), max(logprob)), 0) AS logprob
    FROM read_parquet($patch_topk) WHERE token IN ($token, $token_2) AND layer BETWEEN $from_layer AND $to_layer
    GROUP BY image, layer, position
  )
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
WHERE answer.at_least IS NOT NULL
ORDER BY answer.layer, images.image, images.image_id, answer.patch
