-- first_layer('cat', images=label != 'snow').group([label, objects]).median()
-- $token = 2
-- $value = snow
SELECT answer.label, answer.objects, answer.median, answer.count, answer.missing
FROM (SELECT part1 AS label, part2 AS objects, median(value::DOUBLE) AS median, count(*) AS count, count(*) - count(value) AS missing
  FROM (
    SELECT images.label AS part1, part2.item AS part2, answer.layer AS value
    FROM (WITH layers AS (
        SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
        WHERE token = $token AND image IN (SELECT image_id FROM read_parquet($images) AS images WHERE images.label <> $value)
      )
      SELECT image, min(layer)::INTEGER AS layer,
        arg_min(positions, layer) AS patches,
        arg_min(logprob, layer) AS logprob,
        false AS censored
      FROM layers GROUP BY image
    ) AS answer
    JOIN read_parquet($images) AS images ON images.image_id = answer.image
    CROSS JOIN LATERAL (SELECT unnest(coalesce(nullif(list_distinct(list_transform(images.objects, lambda item: item.label)), []), [NULL])) AS item) AS part2
  ) GROUP BY part1, part2
) AS answer
ORDER BY answer.label, answer.objects
