-- prob('▁dog', layers=2) > prob('cat', layers=2)
-- $token = 0
-- $from_layer = 2
-- $to_layer = 2
-- $number_of_tokens = 1
-- $most = 0.2
-- $token_2 = 2
-- $positions = 12
SELECT images.image, answer.layer, answer.patch, answer.prob_1, answer.prob_2, images.image_id
FROM (WITH known AS (
    SELECT coalesce(t1.image, t2.image) AS image, coalesce(t1.layer, t2.layer) AS layer, coalesce(t1.patch, t2.patch) AS patch, t1.prob AS prob_1, t2.prob AS prob_2, CASE WHEN CASE WHEN t2.image IS NULL THEN rest2.at_most ELSE t2.at_most END < CASE WHEN t1.image IS NULL THEN rest1.at_least ELSE t1.at_least END THEN true WHEN CASE WHEN t2.image IS NULL THEN rest2.at_least ELSE t2.at_least END >= CASE WHEN t1.image IS NULL THEN rest1.at_most ELSE t1.at_most END THEN false END AS holds
    FROM (SELECT image, layer::INTEGER AS layer, position::INTEGER AS patch, exp(logprob) AS prob, prob AS at_least, prob AS at_most
      FROM read_parquet($patch_topk)
      WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer
    ) AS t1
    FULL JOIN (SELECT image, layer::INTEGER AS layer, position::INTEGER AS patch, exp(logprob) AS prob, prob AS at_least, prob AS at_most
      FROM read_parquet($patch_topk)
      WHERE token = $token_2 AND layer BETWEEN $from_layer AND $to_layer
    ) AS t2 ON t1.image IS NOT DISTINCT FROM t2.image AND t1.layer IS NOT DISTINCT FROM t2.layer AND t1.patch IS NOT DISTINCT FROM t2.patch
    LEFT JOIN (SELECT image, layer::INTEGER AS layer, 0.0::DOUBLE AS at_least, least($number_of_tokens * exp(kth), rest, $most) AS at_most
      FROM read_parquet($patch_rest)
      WHERE layer BETWEEN $from_layer AND $to_layer
    ) AS rest1 ON rest1.image = coalesce(t1.image, t2.image) AND rest1.layer = coalesce(t1.layer, t2.layer)
    LEFT JOIN (SELECT image, layer::INTEGER AS layer, 0.0::DOUBLE AS at_least, least($number_of_tokens * exp(kth), rest, $most) AS at_most
      FROM read_parquet($patch_rest)
      WHERE layer BETWEEN $from_layer AND $to_layer
    ) AS rest2 ON rest2.image = coalesce(t1.image, t2.image) AND rest2.layer = coalesce(t1.layer, t2.layer)
  ), rest AS (
    SELECT * FROM (
      SELECT image, layer, CASE WHEN rest2.at_most < rest1.at_least THEN true WHEN rest2.at_least >= rest1.at_most THEN false END AS holds
      FROM (SELECT image, layer::INTEGER AS layer, 0.0::DOUBLE AS at_least, least($number_of_tokens * exp(kth), rest, $most) AS at_most
        FROM read_parquet($patch_rest)
        WHERE layer BETWEEN $from_layer AND $to_layer
      ) AS rest1
      FULL JOIN (SELECT image, layer::INTEGER AS layer, 0.0::DOUBLE AS at_least, least($number_of_tokens * exp(kth), rest, $most) AS at_most
        FROM read_parquet($patch_rest)
        WHERE layer BETWEEN $from_layer AND $to_layer
      ) AS rest2 USING (image, layer)
    ) WHERE holds
  )
  SELECT * FROM known
  UNION ALL BY NAME
  SELECT * FROM rest CROSS JOIN (SELECT unnest(range($positions))::INTEGER AS patch) ANTI JOIN known USING (image, layer, patch)
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
WHERE answer.holds
ORDER BY answer.prob_1, answer.prob_2, images.image, images.image_id, answer.layer, answer.patch
