-- first_layer('cat', patches=locate('ear'))
-- $token = 2
-- $token_2 = 4
-- $last_patch = 11
-- $rank = 1
WITH mask AS MATERIALIZED (
  SELECT image, bitstring_agg(patch::INTEGER, 0, $last_patch::INTEGER) AS inside
  FROM (
    SELECT image, unnest(positions) AS patch
    FROM (
      SELECT image, positions FROM (
        SELECT image, layer::INTEGER AS layer, positions FROM (
          WITH readings AS (
            SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
            WHERE token = $token_2
          )
          SELECT image, layer, positions FROM readings
          WHERE layer = (SELECT layer FROM readings GROUP BY layer ORDER BY count(*) DESC, layer LIMIT 1)
        )
      )
    )
  ) GROUP BY image
)
SELECT images.image, answer.layer, answer.patches, answer.logprob, answer.censored, images.image_id
FROM (WITH layers AS (
    SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
    FROM (
      SELECT image, layer, position, rank, logprob FROM read_parquet($patch_topk) JOIN mask USING (image)
      WHERE token = $token AND get_bit(inside, position) = 1 AND rank <= $rank
    ) GROUP BY image, layer
  )
  SELECT image, min(layer)::INTEGER AS layer,
    arg_min(positions, layer) AS patches,
    arg_min(logprob, layer) AS logprob,
    false AS censored
  FROM layers GROUP BY image
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id
