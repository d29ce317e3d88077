-- divergence(layers=(1, 3))
-- $site = last
-- $from_layer = 1
-- $to_layer = 3
SELECT answer.layer, answer.tokens, answer.token, answer.piece, answer.share, answer.top1_entropy, answer.mean_entropy, answer.divergence, answer.rise
FROM (WITH counts AS (
    SELECT layer, token, leads::BIGINT AS count
    FROM read_parquet($counts)
    WHERE site = $site AND layer IS NOT NULL AND leads > 0 AND layer BETWEEN $from_layer AND $to_layer
  ), shares AS (
    SELECT *, count / sum(count) OVER (PARTITION BY layer) AS share FROM counts
  ), layers AS (
    SELECT layer::INTEGER AS layer, count(*) AS tokens, arg_max(token, (count, -token::BIGINT)) AS token,
      max(share) AS share, fsum(share * ln(1 / share)) AS top1_entropy
    FROM shares GROUP BY layer
  )
  SELECT layer, tokens, token, piece, share, top1_entropy, mean_entropy, divergence, rise
  FROM layers LEFT JOIN read_parquet($vocabulary) ON id = token
  LEFT JOIN (
    SELECT *, divergence - lag(divergence) OVER (ORDER BY layer) AS rise
    FROM (
      SELECT layer::INTEGER AS layer, mean_entropy, greatest(0, entropy_of_mean - mean_entropy) AS divergence
      FROM read_parquet($divergence) WHERE site = $site
    )
  ) USING (layer)
) AS answer
ORDER BY answer.layer
