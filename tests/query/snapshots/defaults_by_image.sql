-- defaults('patch')
-- $share = 0.9
SELECT answer.layer, answer.token, answer.piece, answer.text, answer.count, answer.share, answer.cumulative
FROM (WITH counts AS (
    SELECT layer, token, count(*) AS count
    FROM (
      SELECT layer, image, (4294967295 - max((n::UBIGINT << 32) + (4294967295 - token)) % 4294967296)::UINTEGER AS token
      FROM read_parquet($patch_top1) GROUP BY layer, image
    ) GROUP BY layer, token
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
