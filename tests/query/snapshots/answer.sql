-- answer('dog', images=label == 'beach')
-- $value = beach
-- $tokens = [0, 1, 11]
-- $first = [11]
SELECT images.image, answer.answer, answer.position, answer.prob, images.image_id
FROM (SELECT image, answer, position::INTEGER AS position, exp(answer_logprobs[position + 1]) AS prob
  FROM (
    SELECT image_id AS image, answer, answer_logprobs,
      list_position(list_transform(answer_ids, lambda id, place: list_contains($tokens::UINTEGER[], id) AND (place = 1 OR NOT list_contains($first::UINTEGER[], id))), true) - 1 AS position
    FROM read_parquet($images) AS images WHERE error IS NULL AND (images.label = $value) AND list_has_any(answer_ids, $tokens::UINTEGER[])
  ) AS images WHERE position IS NOT NULL
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY images.image, images.image_id
