-- compare('small', 'deep', first_layer('▁dog'))
-- $token = 0
-- $token_2 = 5
-- $last_layer = 4
-- $last_layer_2 = 7
SELECT images.image, answer.layer_a, answer.layer_b, answer.depth_a, answer.depth_b, answer.difference, answer.patches_a, answer.patches_b, answer.logprob_a, answer.logprob_b, answer.censored_a, answer.censored_b, images.image_id
FROM (WITH matched AS (
    SELECT a.image_id AS a, b.image_id AS b, a.sha256 <> b.sha256 AS changed
    FROM (
      SELECT image_id, image, sha256 FROM read_parquet($images) AS images
      WHERE error IS NULL
    ) AS a JOIN (
      SELECT image_id, image, sha256 FROM read_parquet($other2_images) AS images
      WHERE error IS NULL
    ) AS b USING (image)
  ),
  a AS (
    SELECT matched.a AS image, answer.layer AS layer, answer.patches AS patches, answer.logprob AS logprob, answer.censored AS censored
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
    JOIN matched ON matched.a = answer.image
  ),
  b AS (
    SELECT matched.a AS image, answer.layer AS layer, answer.patches AS patches, answer.logprob AS logprob, answer.censored AS censored
    FROM (WITH layers AS (
        SELECT image, layer, positions, logprob FROM read_parquet($other1_patch_top1)
        WHERE token = $token_2
      )
      SELECT image, min(layer)::INTEGER AS layer,
        arg_min(positions, layer) AS patches,
        arg_min(logprob, layer) AS logprob,
        false AS censored
      FROM layers GROUP BY image
    ) AS answer
    JOIN read_parquet($other2_images) AS images ON images.image_id = answer.image
    JOIN matched ON matched.b = answer.image
  )
  SELECT coalesce(a.image, b.image) AS image, a.layer AS layer_a, b.layer AS layer_b, a.layer / nullif($last_layer, 0) AS depth_a, b.layer / nullif($last_layer_2, 0) AS depth_b, b.layer - a.layer AS difference, a.patches AS patches_a, b.patches AS patches_b, a.logprob AS logprob_a, b.logprob AS logprob_b, a.censored AS censored_a, b.censored AS censored_b
  FROM a FULL JOIN b ON a.image IS NOT DISTINCT FROM b.image
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.difference, images.image, images.image_id
