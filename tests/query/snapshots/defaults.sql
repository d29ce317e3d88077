-- defaults(layers=(1, 3))
-- $from_layer = 1
-- $to_layer = 3
-- $share = 0.9
SELECT answer.layer, answer.token, answer.piece, answer.text, answer.count, answer.share, answer.cumulative
FROM (WITH counts AS (
    SELECT layer, token, sum(n)::BIGINT AS count
    FROM read_parquet($last_top1) WHERE layer BETWEEN $from_layer AND $to_layer GROUP BY layer, token
  ), ranked AS (
    SELECT *, sum(count) OVER (PARTITION BY layer) AS total,
      sum(count) OVER (PARTITION BY layer ORDER BY count DESC, token ROWS UNBOUNDED PRECEDING) AS so_far
    FROM counts
  )
  SELECT layer::INTEGER AS layer, token, piece, text, count, count / total AS share, so_far / total AS cumulative
  FROM ranked LEFT JOIN read_parquet($vocabulary) ON id = token
  WHERE (so_far - count) / total < $share
) AS answer
ORDER BY answer.layer, answer.count DESC, answer.token
