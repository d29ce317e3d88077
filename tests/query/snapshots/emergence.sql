-- emergence(['dog', 'ear'], layers=(1, 3))
-- $token = 0
-- $token_2 = 1
-- $from_layer = 1
-- $to_layer = 3
-- $token_3 = 4
-- $counted = [1, 2, 3]
-- $place = 0
-- $place_2 = 1
-- $labels = ['dog', 'ear']
SELECT answer.token, answer.layer, answer.images, answer.new, answer.so_far, answer.patches
FROM (WITH readings AS MATERIALIZED (
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
  ), counted AS (
    SELECT place, layer, n, NULL AS first FROM readings
    UNION ALL
    SELECT place, min(layer), NULL, 1 FROM readings GROUP BY place, image
    UNION ALL
    SELECT *, NULL, NULL FROM (SELECT unnest([$place, $place_2]) AS place, layer FROM (SELECT unnest($counted)::INTEGER AS layer))
  )
  SELECT place, $labels[place + 1] AS token, layer, count(n) AS images, count(first) AS new,
    sum(count(first)) OVER (PARTITION BY place ORDER BY layer)::BIGINT AS so_far, coalesce(sum(n), 0)::BIGINT AS patches
  FROM counted GROUP BY place, layer
) AS answer
ORDER BY answer.place, answer.layer, answer.token
