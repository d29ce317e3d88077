-- defaults(layers=(1, 3))
-- $share = 0.9
-- $site = last
-- $from_layer = 1
-- $to_layer = 3
SELECT answer.layer, answer.token, answer.piece, answer.text, answer.count, answer.share, answer.cumulative
FROM (WITH counts AS MATERIALIZED (
    SELECT layer, token, leads::BIGINT AS count
    FROM read_parquet($counts)
    WHERE site = $site AND layer IS NOT NULL AND leads > 0 AND layer BETWEEN $from_layer AND $to_layer
  ), equal AS (
    SELECT layer, count, sum(count) AS sum FROM counts GROUP BY layer, count
  ), above AS (
    SELECT layer, count, sum(sum) OVER (PARTITION BY layer) AS total,
      sum(sum) OVER (PARTITION BY layer ORDER BY count DESC ROWS UNBOUNDED PRECEDING) - sum AS above
    FROM equal
  ), ranked AS (
    SELECT *, above + count * row_number() OVER (PARTITION BY layer, count ORDER BY token) AS so_far
    FROM counts JOIN above USING (layer, count) WHERE above / total < $share
  )
  SELECT layer::INTEGER AS layer, token, piece, text, count, count / total AS share, so_far / total AS cumulative
  FROM ranked LEFT JOIN read_parquet($vocabulary) ON id = token
  WHERE (so_far - count) / total < $share
) AS answer
ORDER BY answer.layer, answer.count DESC, answer.token
