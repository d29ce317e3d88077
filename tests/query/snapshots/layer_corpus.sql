-- first_layer('cat', at='last', by='corpus')
-- $token = 2
SELECT answer.image, answer.layer, answer.patches, answer.logprob, answer.censored, answer.image_id, answer.images, answer.histogram
FROM (WITH found AS (
    SELECT images.image, image_id, answer.* EXCLUDE (image)
    FROM (WITH layers AS (
        SELECT image, layer, positions, logprob FROM read_parquet($last_top1)
        WHERE token = $token
      )
      SELECT image, min(layer)::INTEGER AS layer,
        [] AS patches,
        arg_min(logprob, layer) AS logprob,
        false AS censored
      FROM layers GROUP BY image
    ) AS answer
    JOIN read_parquet($images) AS images ON images.image_id = answer.image
  )
  SELECT image, layer, patches, logprob, censored, image_id,
    count(*) OVER (PARTITION BY layer) AS images, (SELECT histogram(layer) FROM found) AS histogram
  FROM found ORDER BY layer, image, image_id LIMIT 1
) AS answer
