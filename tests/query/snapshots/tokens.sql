-- tokens('dog')
-- $text = dog
SELECT answer.token, answer.piece, answer.text, answer.readings, answer.images
FROM (WITH found AS (
    SELECT id, piece, text FROM read_parquet($vocabulary) WHERE contains(lower(coalesce(text, '')), lower($text))
  ), read AS (
    SELECT token, sum(n)::BIGINT AS readings, count(DISTINCT image) AS images
    FROM read_parquet($patch_top1) WHERE token IN (SELECT id FROM found) GROUP BY token
  )
  SELECT id AS token, piece, text, coalesce(readings, 0) AS readings, coalesce(images, 0) AS images
  FROM found LEFT JOIN read ON token = id
) AS answer
ORDER BY answer.readings DESC, answer.token
