-- prominence(['rock', 'sky'], layers=(1, 2), images=label == 'beach')
-- placed is made of
-- $value = beach
-- $objects = ['rock']
-- $labels = ['ROCK']
SELECT image_id AS image, name, object, width, height, item.label AS label,
  item.box::DOUBLE[] AS box, NULL AS mask_rle
FROM (
  SELECT image_id, image AS name, width, height, unnest(objects) AS item
  FROM read_parquet($images) AS images WHERE error IS NULL AND (images.label = $value)
) JOIN (
  SELECT unnest($objects::VARCHAR[]) AS object, unnest($labels::VARCHAR[]) AS label
) ON item.label = label
ORDER BY image_id, object
-- $token = 3
-- $token_2 = 6
-- $from_layer = 1
-- $to_layer = 2
-- $value = beach
-- $objects = ['rock', 'sky']
-- $tokens = [3, 6]
-- $object = rock
SELECT images.image, answer.object, answer.first, answer.area, answer.read_by, answer.mention, answer.effect, answer.patches, images.image_id
FROM (WITH areas AS (
    SELECT image, object, area FROM placed
  ),
  reads AS (
    SELECT image, object, list(DISTINCT position ORDER BY position)::INTEGER[] AS patches
    FROM (
      SELECT image, token, unnest(positions) AS position FROM read_parquet($patch_top1) WHERE token IN ($token, $token_2) AND layer BETWEEN $from_layer AND $to_layer AND image IN (SELECT image_id FROM read_parquet($images) AS images WHERE images.label = $value)
    ) JOIN (
      SELECT unnest($objects::VARCHAR[]) AS object, unnest($tokens::UINTEGER[]) AS token
    ) USING (token) GROUP BY image, object
  ),
  mentions AS (
    SELECT image, object, min(place) / any_value(tokens) AS mention
    FROM (
      SELECT image_id AS image, unnest(answer_ids) AS token, unnest(range(len(answer_ids))) AS place,
        len(answer_ids) AS tokens
      FROM read_parquet($images) AS images WHERE error IS NULL AND (images.label = $value)
    ) JOIN (
      SELECT unnest($objects::VARCHAR[]) AS object, unnest($tokens::UINTEGER[]) AS token
    ) USING (token) GROUP BY image, object
  ),
  effects AS (
    SELECT * FROM (
      SELECT image_id AS image, $object AS object, before::DOUBLE - after::DOUBLE AS effect
      FROM read_parquet($effects_STUDY) WHERE "set" = 'all'
    )
    WHERE image IN (SELECT image_id FROM read_parquet($images) AS images WHERE images.label = $value)
  ),
  found AS (
    SELECT image, object FROM areas
    UNION
    SELECT image, object FROM reads
    UNION
    SELECT image, object FROM mentions
    UNION
    SELECT image, object FROM effects
  ), told AS (
    SELECT found.image, found.object, areas.area, reads.patches, mentions.mention, effects.effect
    FROM found
    LEFT JOIN areas USING (image, object)
    LEFT JOIN reads USING (image, object)
    LEFT JOIN mentions USING (image, object)
    LEFT JOIN effects USING (image, object)
  )
  SELECT *, coalesce(len(patches), 0)::INTEGER AS read_by, CASE
      WHEN bool_or(effect IS NOT NULL) OVER image AND NOT bool_or(effect IS NULL AND mention IS NOT NULL) OVER image
        THEN row_number() OVER (
          image ORDER BY effect DESC NULLS LAST, mention NULLS LAST, area DESC NULLS LAST, object
        ) = 1
      WHEN bool_or(mention IS NOT NULL) OVER image
        THEN row_number() OVER (image ORDER BY mention NULLS LAST, area DESC NULLS LAST, object) = 1
      ELSE false
    END AS first
  FROM told
  WINDOW image AS (PARTITION BY image)
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY images.image, images.image_id, answer.first DESC, answer.object
