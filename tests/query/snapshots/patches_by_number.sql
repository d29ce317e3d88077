-- emergence('cat', patches=[1, 5], min_patches=2)
-- $patches = [1, 5]
-- $last_patch = 11
-- $token = 2
-- $min_patches = 2
-- $counted = [0, 1, 2, 3, 4]
-- $label = cat
WITH mask AS MATERIALIZED (
  SELECT bitstring_agg(patch::INTEGER, 0, $last_patch::INTEGER) AS inside
  FROM (
    SELECT unnest($patches) AS patch
  )
)
SELECT answer.token, answer.layer, answer.images, answer.new, answer.so_far, answer.patches
FROM (WITH readings AS MATERIALIZED (
    SELECT image, layer, len(positions) AS n
    FROM (
      SELECT * FROM (
        SELECT image, layer, list_filter(positions, lambda position: get_bit(inside, position) = 1) AS positions FROM read_parquet($patch_top1) CROSS JOIN mask
        WHERE token = $token
      ) WHERE len(positions) >= $min_patches
    )
  ), counted AS (
    SELECT layer, n, NULL AS first FROM readings
    UNION ALL
    SELECT min(layer), NULL, 1 FROM readings GROUP BY image
    UNION ALL
    SELECT *, NULL, NULL FROM (SELECT unnest($counted)::INTEGER AS layer)
  )
  SELECT 0 AS place, $label AS token, layer, count(n) AS images, count(first) AS new,
    sum(count(first)) OVER (ORDER BY layer)::BIGINT AS so_far, coalesce(sum(n), 0)::BIGINT AS patches
  FROM counted GROUP BY layer
) AS answer
ORDER BY answer.place, answer.layer, answer.token
