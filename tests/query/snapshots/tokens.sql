-- tokens('dog')
-- $ids = [0, 1, 11]
-- $site = patch
SELECT answer.token, answer.piece, answer.text, answer.readings, answer.images
FROM (WITH found AS (
    SELECT id, piece, text FROM read_parquet($vocabulary) WHERE id IN (SELECT unnest($ids::UINTEGER[]))
  ), read AS (
    SELECT token, positions::BIGINT AS readings, images
    FROM read_parquet($counts) WHERE site = $site AND layer IS NULL AND token IN (SELECT id FROM found)
  )
  SELECT id AS token, piece, text, coalesce(readings, 0) AS readings, coalesce(images, 0) AS images
  FROM found LEFT JOIN read ON token = id
) AS answer
ORDER BY answer.readings DESC, answer.token
