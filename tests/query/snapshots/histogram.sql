-- first_layer('cat').group(label).histogram()
-- $token = 2
-- $every_layer = [0, 1, 2, 3, 4]
SELECT answer.label, answer.layer, answer.count
FROM (WITH rows AS (
    SELECT images.label AS part1, answer.layer AS value
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
  ), bins AS (
    SELECT unnest($every_layer)::BIGINT AS edge1 UNION SELECT value FROM rows WHERE value IS NOT NULL
  )
  SELECT part1 AS label, edge1 AS layer, sum(n)::BIGINT AS count
  FROM (
    SELECT part1, edge1, 0 AS n FROM (SELECT DISTINCT part1 FROM rows) CROSS JOIN bins
    UNION ALL
    SELECT part1, edge1, 1 AS n FROM rows LEFT JOIN bins ON value = edge1
  ) GROUP BY part1, edge1
) AS answer
ORDER BY answer.label, answer.layer
