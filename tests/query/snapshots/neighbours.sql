-- neighbours('cat', min_images=5)
-- around is made of
-- $token = 2
SELECT image, layer, positions, grid.rows::INTEGER AS rows, grid.columns::INTEGER AS columns
FROM (
  SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
  WHERE token = $token
) AS found JOIN (SELECT image_id, width, height, transform, grid FROM read_parquet($images)) AS images ON image_id = image
-- $min_images = 5
SELECT answer.token, answer.layer, answer.piece, answer.text, answer.images, answer.patches, answer.share, answer.adjacent
FROM (SELECT token, layer, piece, text, images, patches, patches / adjacent AS share, adjacent
  FROM around WHERE images >= $min_images
) AS answer
ORDER BY answer.images DESC, answer.patches DESC, answer.token, answer.layer
