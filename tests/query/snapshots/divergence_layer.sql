-- divergence_layer(layers=(1, 3))
-- $from_layer = 1
-- $to_layer = 3
-- $min_share = 0.1
-- $site = last
-- $edge = 1
SELECT images.image, answer.layer, answer.token, answer.piece, answer.share, answer.censored, answer.corpus_layer, answer.corpus_rise, images.image_id
FROM (WITH tokens AS (
    SELECT layer, image, token
    FROM read_parquet($last_top1) WHERE layer BETWEEN $from_layer AND $to_layer
  ), shares AS (
    SELECT *, count(*) OVER (PARTITION BY layer, token) AS count, count(*) OVER (PARTITION BY layer) AS total
    FROM tokens
  ), read AS (
    SELECT image, layer, token, count / total AS share,
      count > 1 AND count / total >= $min_share AS is_default
    FROM shares
  ), ends AS (
    SELECT image, coalesce(max(layer) FILTER (is_default), -1) AS last FROM read GROUP BY image
  ), found AS (
    SELECT image, min(layer) FILTER (layer > last)::INTEGER AS layer,
      coalesce(arg_min(token, layer) FILTER (layer > last), arg_max(token, layer)) AS token,
      coalesce(arg_min(share, layer) FILTER (layer > last), arg_max(share, layer)) AS share
    FROM read JOIN ends USING (image) GROUP BY image
  ), corpus AS (
    SELECT max(rise) AS corpus_rise, arg_max(layer, (rise, -layer)) AS corpus_layer
    FROM (
      SELECT *, divergence - lag(divergence) OVER (ORDER BY layer) AS rise
      FROM (
        SELECT layer::INTEGER AS layer, mean_entropy, greatest(0, entropy_of_mean - mean_entropy) AS divergence
        FROM read_parquet($divergence) WHERE site = $site
      )
    ) WHERE rise > 0 AND layer BETWEEN $from_layer AND $to_layer
  )
  SELECT image, layer, token, piece, share, coalesce(layer = $edge, false) AS censored, corpus_layer, corpus_rise
  FROM found CROSS JOIN corpus LEFT JOIN read_parquet($vocabulary) ON id = token
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id
