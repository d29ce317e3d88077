-- emergence('cat', patches=[1, 5], min_patches=2)
-- $patches = [1, 5]
-- $last_patch = 11
-- $token = 2
-- $min_patches = 2
-- $place = 0
-- $labels = ['cat']
-- $counted = [0, 1, 2, 3, 4]
WITH mask AS MATERIALIZED (
  SELECT bitstring_agg(patch::INTEGER, 0, $last_patch::INTEGER) AS inside
  FROM (
    SELECT unnest($patches) AS patch
  )
)
SELECT answer.token, answer.layer, answer.images, answer.new, answer.so_far, answer.patches
FROM (WITH readings AS (
    SELECT $place AS place, * FROM (
      SELECT image, layer, len(positions) AS n
      FROM (
        SELECT * FROM (
          SELECT image, layer, list_filter(positions, lambda position: get_bit(inside, position) = 1) AS positions FROM read_parquet($patch_top1) CROSS JOIN mask
          WHERE token = $token
        ) WHERE len(positions) >= $min_patches
      )
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
