-- neighbours('cat', min_images=5)
-- $token = 2
-- $rows = 3
-- $columns = 4
-- $steps = [-1, 0, 1]
-- $min_images = 5
SELECT answer.token, answer.layer, answer.piece, answer.text, answer.images, answer.patches, answer.share, answer.adjacent
FROM (WITH patches AS (
    SELECT image, layer, unnest(positions)::INTEGER AS position FROM (
      SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
      WHERE token = $token
    )
  ), around AS (
    SELECT DISTINCT image, layer, (position // $columns + down) * $columns + position % $columns + across AS position
    FROM patches, (SELECT unnest($steps) AS down), (SELECT unnest($steps) AS across)
    WHERE position // $columns + down BETWEEN 0 AND $rows - 1
      AND position % $columns + across BETWEEN 0 AND $columns - 1
  ), adjacent AS (
    SELECT * FROM around ANTI JOIN patches USING (image, layer, position)
  ), read AS (
    SELECT token, image, layer, unnest(positions) AS position
    FROM read_parquet($patch_top1) SEMI JOIN adjacent USING (image, layer)
  ), counts AS (
    SELECT token, layer, count(DISTINCT image) AS images, count(*) AS patches,
      sum(count(*)) OVER (PARTITION BY layer)::BIGINT AS adjacent
    FROM adjacent JOIN read USING (image, layer, position) GROUP BY token, layer
  )
  SELECT token, layer::INTEGER AS layer, piece, text, images, patches, patches / adjacent AS share, adjacent
  FROM counts LEFT JOIN read_parquet($vocabulary) ON id = token
  WHERE images >= $min_images
) AS answer
ORDER BY answer.images DESC, answer.patches DESC, answer.token, answer.layer
