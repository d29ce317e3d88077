-- (rank('▁dog', patches=[1, 2]) < rank('cat', patches=[1, 2])).where(patch > 1)
-- $token = 0
-- $patches = [1, 2]
-- $last_patch = 11
-- $beyond = 5
-- $last_rank = 16
-- $token_2 = 2
-- $value = 1
WITH mask AS MATERIALIZED (
  SELECT bitstring_agg(patch::INTEGER, 0, $last_patch::INTEGER) AS inside
  FROM (
    SELECT unnest($patches) AS patch
  )
)
SELECT images.image, answer.layer, answer.patch, answer.rank_1, answer.rank_2, images.image_id
FROM (SELECT answer.*
  FROM (WITH known AS (
      SELECT coalesce(t1.image, t2.image) AS image, coalesce(t1.layer, t2.layer) AS layer, coalesce(t1.patch, t2.patch) AS patch, t1.rank AS rank_1, t2.rank AS rank_2, CASE WHEN CASE WHEN t1.image IS NULL THEN rest1.at_most ELSE t1.at_most END < CASE WHEN t2.image IS NULL THEN rest2.at_least ELSE t2.at_least END THEN true WHEN CASE WHEN t1.image IS NULL THEN rest1.at_least ELSE t1.at_least END >= CASE WHEN t2.image IS NULL THEN rest2.at_most ELSE t2.at_most END THEN false END AS holds
      FROM (SELECT image, layer::INTEGER AS layer, position::INTEGER AS patch, rank::INTEGER AS rank, rank AS at_least, rank AS at_most
        FROM (
          SELECT image, layer, position, rank, logprob FROM read_parquet($patch_topk) CROSS JOIN mask
          WHERE token = $token AND get_bit(inside, position) = 1
        )
      ) AS t1
      FULL JOIN (SELECT image, layer::INTEGER AS layer, position::INTEGER AS patch, rank::INTEGER AS rank, rank AS at_least, rank AS at_most
        FROM (
          SELECT image, layer, position, rank, logprob FROM read_parquet($patch_topk) CROSS JOIN mask
          WHERE token = $token_2 AND get_bit(inside, position) = 1
        )
      ) AS t2 ON t1.image IS NOT DISTINCT FROM t2.image AND t1.layer IS NOT DISTINCT FROM t2.layer AND t1.patch IS NOT DISTINCT FROM t2.patch
      LEFT JOIN (SELECT * FROM (
        SELECT image, layer::INTEGER AS layer, $beyond AS at_least, $last_rank AS at_most
        FROM read_parquet($patch_rest)
      ) CROSS JOIN mask) AS rest1 ON rest1.image = coalesce(t1.image, t2.image) AND rest1.layer = coalesce(t1.layer, t2.layer) AND get_bit(rest1.inside, coalesce(t1.patch, t2.patch)) = 1
      LEFT JOIN (SELECT * FROM (
        SELECT image, layer::INTEGER AS layer, $beyond AS at_least, $last_rank AS at_most
        FROM read_parquet($patch_rest)
      ) CROSS JOIN mask) AS rest2 ON rest2.image = coalesce(t1.image, t2.image) AND rest2.layer = coalesce(t1.layer, t2.layer) AND get_bit(rest2.inside, coalesce(t1.patch, t2.patch)) = 1
    ), rest AS (
      SELECT * FROM (
        SELECT image, layer, CASE WHEN rest1.at_most < rest2.at_least THEN true WHEN rest1.at_least >= rest2.at_most THEN false END AS holds
        FROM (SELECT * FROM (
          SELECT image, layer::INTEGER AS layer, $beyond AS at_least, $last_rank AS at_most
          FROM read_parquet($patch_rest)
        ) CROSS JOIN mask) AS rest1
        FULL JOIN (SELECT * FROM (
          SELECT image, layer::INTEGER AS layer, $beyond AS at_least, $last_rank AS at_most
          FROM read_parquet($patch_rest)
        ) CROSS JOIN mask) AS rest2 USING (image, layer)
      ) CROSS JOIN mask WHERE holds
    )
    SELECT * FROM known
    UNION ALL BY NAME
    SELECT * FROM (SELECT * EXCLUDE (inside) FROM (SELECT *, unnest(range(bit_length(inside)))::INTEGER AS patch FROM rest) WHERE get_bit(inside, patch) = 1) ANTI JOIN known USING (image, layer, patch)
  ) AS answer
  JOIN read_parquet($images) AS images ON images.image_id = answer.image
  WHERE answer.patch > $value
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
WHERE answer.holds
ORDER BY answer.rank_1, answer.rank_2, images.image, images.image_id, answer.layer, answer.patch
