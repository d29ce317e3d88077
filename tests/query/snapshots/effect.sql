-- effect(readings('rock'), 'rock', images=label == 'beach')
-- $value = beach
SELECT images.image, answer.effect, answer.before, answer.after, answer.rank_before, answer.rank_after, answer.gone, answer.answer_before, answer.answer, answer.random, answer.random_gone, answer.patches, images.image_id
FROM (WITH effects AS (
    SELECT image_id AS image, * EXCLUDE (image_id) FROM read_parquet($effects_STUDY)
  )
  SELECT image, before::DOUBLE - after::DOUBLE AS effect, before, after, rank_before::BIGINT AS rank_before, rank_after::BIGINT AS rank_after, gone, answer_before, answer, random, random_gone,
    patches::INTEGER[] AS patches
  FROM effects LEFT JOIN (
    SELECT image, fsum(before::DOUBLE - after::DOUBLE) / count(*) AS random, avg(gone::INTEGER) AS random_gone
    FROM effects WHERE kind = 'random' GROUP BY image
  ) USING (image)
  WHERE "set" = 'all' AND image IN (SELECT image_id FROM read_parquet($images) AS images WHERE images.label = $value)
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.effect DESC, images.image, images.image_id
-- effect(readings('rock'), 'rock', by='set', kind='random') > 2
-- $kind = random
-- $number = 2
SELECT images.image, answer.set, answer.effect_1, images.image_id
FROM (SELECT t1.image AS image, t1.set AS set, t1.effect AS effect_1, t1.effect > $number AS holds
  FROM (SELECT image, "set", kind, before::DOUBLE - after::DOUBLE AS effect, before, after, rank_before::BIGINT AS rank_before, rank_after::BIGINT AS rank_after, gone, answer_before, answer,
      patches::INTEGER[] AS patches
    FROM (SELECT image_id AS image, * EXCLUDE (image_id) FROM read_parquet($effects_STUDY)) AS effects
    WHERE kind = $kind
  ) AS t1
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
WHERE answer.holds
ORDER BY answer.effect_1, images.image, images.image_id, answer.set
