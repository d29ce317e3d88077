-- last_layer('cat', layers=(1, 3), min_run=2)
-- $token = 2
-- $from_layer = 1
-- $to_layer = 3
-- $more = 1
-- $edge = 3
SELECT images.image, answer.layer, answer.patches, answer.logprob, answer.censored, images.image_id
FROM (WITH layers AS (
    SELECT * FROM (
      SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
      WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer
    ) QUALIFY lag(layer, $more) OVER (PARTITION BY image ORDER BY layer) = layer::INTEGER - $more
  )
  SELECT image, max(layer)::INTEGER AS layer,
    arg_max(positions, layer) AS patches,
    arg_max(logprob, layer) AS logprob,
    max(layer) IN ($edge) AS censored
  FROM layers GROUP BY image
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id
