-- (prob('▁dog') > 0.5).where(layer >= 2).group(label).mean()
-- $token = 0
-- $number_of_tokens = 1
-- $most = 0.2
-- $number = 0.5
-- $positions = 12
-- $value = 2
SELECT answer.label, answer.mean, answer.count, answer.missing
FROM (SELECT part1 AS label, fsum(value * weight) / sum(weight) FILTER (value IS NOT NULL) AS mean, coalesce(sum(weight), 0)::BIGINT AS count, coalesce(sum(weight), 0)::BIGINT - coalesce(sum(weight) FILTER (value IS NOT NULL), 0)::BIGINT AS missing
  FROM (
    SELECT images.label AS part1, answer.holds::INTEGER AS value, answer.weight AS weight
    FROM (SELECT answer.*
      FROM (WITH known AS (
          SELECT t1.image AS image, t1.layer AS layer, t1.patch AS patch, t1.prob AS prob_1, CASE WHEN $number < t1.at_least THEN true WHEN $number >= t1.at_most THEN false END AS holds
          FROM (SELECT image, layer::INTEGER AS layer, position::INTEGER AS patch, exp(logprob) AS prob, prob AS at_least, prob AS at_most
            FROM read_parquet($patch_topk)
            WHERE token = $token
          ) AS t1
        ), rest AS (
          SELECT * FROM (
            SELECT image, layer, CASE WHEN $number < rest1.at_least THEN true WHEN $number >= rest1.at_most THEN false END AS holds
            FROM (SELECT image, layer::INTEGER AS layer, 0.0::DOUBLE AS at_least, least($number_of_tokens * exp(kth), rest, $most) AS at_most
              FROM read_parquet($patch_rest)
            ) AS rest1
          )
        )
        SELECT *, 1 AS weight FROM known
        UNION ALL BY NAME
        SELECT * FROM (
          SELECT rest.*, $positions - coalesce(cells, 0) AS weight
          FROM rest LEFT JOIN (SELECT image, layer, count(*) AS cells FROM known GROUP BY image, layer) USING (image, layer)
        ) WHERE weight > 0
      ) AS answer
      JOIN read_parquet($images) AS images ON images.image_id = answer.image
      WHERE answer.layer >= $value
    ) AS answer
    JOIN read_parquet($images) AS images ON images.image_id = answer.image
  ) GROUP BY part1
) AS answer
ORDER BY answer.label
