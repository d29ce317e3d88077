-- emergence(['dog', 'ear'], layers=(1, 3))
-- $token = 0
-- $token_2 = 1
-- $from_layer = 1
-- $to_layer = 3
-- $place = 0
-- $token_3 = 4
-- $place_2 = 1
-- $labels = ['dog', 'ear']
-- $counted = [1, 2, 3]
SELECT answer.token, answer.layer, answer.images, answer.new, answer.so_far, answer.patches
FROM (WITH readings AS (
    SELECT $place AS place, * FROM (
      SELECT image, layer, sum(n) AS n
      FROM (
        SELECT image, layer, n FROM read_parquet($patch_top1)
        WHERE token IN ($token, $token_2) AND layer BETWEEN $from_layer AND $to_layer
      ) GROUP BY image, layer
    )
    UNION ALL
    SELECT $place_2 AS place, * FROM (
      SELECT image, layer, n FROM read_parquet($patch_top1)
      WHERE token = $token_3 AND layer BETWEEN $from_layer AND $to_layer
    )
  ), counts AS (
    SELECT place, layer, count(*) AS images, count(*) FILTER (layer = first) AS new, sum(n)::BIGINT AS positions
    FROM (SELECT *, min(layer) OVER (PARTITION BY place, image) AS first FROM readings)
    GROUP BY place, layer
  ), tokens AS (
    SELECT unnest($labels) AS token, generate_subscripts($labels, 1) - 1 AS place
  ), layers AS (
    SELECT unnest($counted)::INTEGER AS layer
  )
  SELECT place, token, layer, coalesce(images, 0) AS images, coalesce(new, 0) AS new,
    sum(coalesce(new, 0)) OVER (PARTITION BY place ORDER BY layer)::BIGINT AS so_far, coalesce(positions, 0) AS patches
  FROM tokens CROSS JOIN layers LEFT JOIN counts USING (place, layer)
) AS answer
ORDER BY answer.place, answer.layer, answer.token
