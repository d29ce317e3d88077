-- prob('dog', missing='bound')
-- $token = 0
-- $token_2 = 1
-- $number_of_tokens = 2
-- $most = 0.3333333333333333
-- $positions = 12
SELECT images.image, answer.layer, answer.patch, answer.prob, answer.at_most, images.image_id
FROM (WITH known AS (
    SELECT image, layer, patch, least(sum, 1) AS prob, prob AS at_least,
      least(sum + least(($number_of_tokens - stored) * exp(least(kth, least)), rest), 1) AS at_most
    FROM (
      SELECT image, layer::INTEGER AS layer, position::INTEGER AS patch, fsum(exp(logprob)) AS sum, count(*) AS stored, min(logprob) AS least
      FROM read_parquet($patch_topk)
      WHERE token IN ($token, $token_2)
      GROUP BY ALL
    ) JOIN read_parquet($patch_rest) USING (image, layer)
  ), rest AS (
    SELECT * FROM (
      SELECT image, layer::INTEGER AS layer, 0.0::DOUBLE AS at_least, least($number_of_tokens * exp(kth), rest, $most) AS at_most
      FROM read_parquet($patch_rest)
    )
  )
  SELECT * FROM known
  UNION ALL BY NAME
  SELECT * FROM rest CROSS JOIN (SELECT unnest(range($positions))::INTEGER AS patch) ANTI JOIN known USING (image, layer, patch)
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
WHERE answer.at_least IS NOT NULL
ORDER BY answer.layer, images.image, images.image_id, answer.patch
