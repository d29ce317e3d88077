-- first_layer('cat', images=bright, against='dog' in objects)
-- $token = 2
-- $value = dog
SELECT images.image, answer.layer, answer.patches, answer.logprob, answer.censored, images.image_id
FROM (WITH layers AS (
    SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
    WHERE token = $token AND image IN (SELECT image_id FROM read_parquet($images) AS images WHERE (images.bright) AND (list_contains(list_transform(images.objects, lambda item: item.label), $value)))
  )
  SELECT image, min(layer)::INTEGER AS layer,
    arg_min(positions, layer) AS patches,
    arg_min(logprob, layer) AS logprob,
    false AS censored
  FROM layers GROUP BY image
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id
