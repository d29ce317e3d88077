-- precursors('cat', min_images=2)
-- before is made of
-- $token = 2
SELECT image, patch, layer, grid.rows::INTEGER * grid.columns::INTEGER AS patches
FROM (
  SELECT image, position AS patch, min(layer) AS layer FROM (
    SELECT image, layer, unnest(positions) AS position FROM (
      SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
      WHERE token = $token
    )
  ) GROUP BY image, position
) AS found JOIN (SELECT image_id, width, height, transform, grid FROM read_parquet($images)) AS images ON image_id = image

SELECT answer.layer, answer.token, answer.piece, answer.text, answer.images, answer.patches, answer.share, answer.others, answer.difference, answer.low, answer.high, answer.compared
FROM (SELECT layer, token, piece, text, images, patches, share, others, difference, low, high, compared
  FROM before
) AS answer
ORDER BY answer.difference DESC, answer.layer, answer.token
