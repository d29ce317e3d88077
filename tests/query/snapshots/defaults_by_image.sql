-- defaults('patch', images=label == 'beach')
-- $share = 0.9
-- $value = beach
SELECT answer.layer, answer.token, answer.piece, answer.text, answer.count, answer.share, answer.cumulative
FROM (WITH counts AS MATERIALIZED (
    SELECT layer, token, count(*) AS count
    FROM (
      SELECT layer, image, (4294967295 - max((n::UBIGINT << 32) + (4294967295 - token)) % 4294967296)::UINTEGER AS token
      FROM read_parquet($patch_top1) WHERE image IN (SELECT image_id FROM read_parquet($images) AS images WHERE images.label = $value) GROUP BY layer, image
    ) GROUP BY layer, token
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
