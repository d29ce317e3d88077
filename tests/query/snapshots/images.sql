-- images(label == 'beach')
-- $value = beach
SELECT images.image, answer.width, answer.height, answer.label, answer."a b", answer.order, images.image_id
FROM (SELECT image_id AS image, images.width AS width, images.height AS height, images.label AS label, images."a b" AS "a b", images.order AS order
  FROM read_parquet($images) AS images
  WHERE error IS NULL AND (images.label = $value)
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY images.image, images.image_id
