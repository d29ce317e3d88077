-- divergence_layer('patch', by='corpus')
-- $min_share = 0.1
-- $site = patch
SELECT answer.layer, answer.rise, answer.images, answer.median, answer.histogram
FROM (WITH tokens AS (
    SELECT layer, image, (4294967295 - max((n::UBIGINT << 32) + (4294967295 - token)) % 4294967296)::UINTEGER AS token
    FROM read_parquet($patch_top1) GROUP BY layer, image
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
    ) WHERE rise > 0
  )
  SELECT corpus_layer AS layer, corpus_rise AS rise,
    count(layer) AS images, median(layer) AS median, histogram(layer) AS histogram
  FROM found CROSS JOIN corpus GROUP BY corpus_layer, corpus_rise
) AS answer
