-- emergence('cat', layers=(1, 3), against='dog' in objects)
-- $token = 2
-- $from_layer = 1
-- $to_layer = 3
-- $value = dog
-- $counted = [1, 2, 3]
-- $label = cat
-- $low = 0.025
-- $high = 0.975
SELECT answer.token, answer.layer, answer.images, answer.new, answer.so_far, answer.patches, answer.share, answer.low, answer.high, answer.against_images, answer.against_so_far, answer.against_share, answer.against_low, answer.against_high
FROM (WITH sides AS (
    SELECT own.*, other.images AS against_images, other.so_far AS against_so_far,
      (SELECT count(*) FROM read_parquet($images) AS images
      WHERE error IS NULL AND (list_contains(list_transform(images.objects, lambda item: item.label), $value))) AS chosen, (SELECT count(*) FROM read_parquet($images) AS images
      WHERE error IS NULL AND (NOT (list_contains(list_transform(images.objects, lambda item: item.label), $value)))) AS others
    FROM (WITH readings AS MATERIALIZED (
        SELECT image, layer, n FROM read_parquet($patch_top1)
        WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer AND image IN (SELECT image_id FROM read_parquet($images) AS images WHERE list_contains(list_transform(images.objects, lambda item: item.label), $value))
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
    ) AS own JOIN (WITH readings AS MATERIALIZED (
        SELECT image, layer, n FROM read_parquet($patch_top1)
        WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer AND image IN (SELECT image_id FROM read_parquet($images) AS images WHERE NOT (list_contains(list_transform(images.objects, lambda item: item.label), $value)))
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
    ) AS other USING (place, token, layer)
  ), intervals AS (
    SELECT matched, images, min(n) FILTER (below >= $low) / images AS low, min(n) FILTER (below >= $high) / images AS high
    FROM (
      SELECT matched, images, n, sum(exp(
        lgamma(images + 1) - lgamma(n + 1) - lgamma(images - n + 1)
        + n * ln(matched / images) + (images - n) * ln(1 - matched / images)
      )) OVER (PARTITION BY matched, images ORDER BY n) AS below
      FROM (
        SELECT matched, images, unnest(range(images + 1)) AS n
        FROM (
          SELECT images AS matched, chosen AS images FROM sides UNION SELECT against_images, others FROM sides
        ) WHERE 0 < matched AND matched < images
      )
    ) GROUP BY matched, images
  )
  SELECT sides.*, sides.images / nullif(chosen, 0) AS share, coalesce(own.low, share) AS low,
    coalesce(own.high, share) AS high, against_images / nullif(others, 0) AS against_share,
    coalesce(other.low, against_share) AS against_low, coalesce(other.high, against_share) AS against_high
  FROM sides
  LEFT JOIN intervals AS own ON own.matched = sides.images AND own.images = chosen
  LEFT JOIN intervals AS other ON other.matched = against_images AND other.images = others
) AS answer
ORDER BY answer.place, answer.layer, answer.token
