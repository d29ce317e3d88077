-- first_layer('dog', patches='cat')
-- covered is made of
-- $labels = ['cat']
SELECT image_id AS image, image AS name, width, height, transform, grid, object.label, object.mask_rle
FROM (
  SELECT image_id, image, width, height, transform, grid, unnest(objects) AS object
  FROM read_parquet($images) WHERE error IS NULL
) AS images
WHERE object.mask_rle IS NOT NULL AND object.label IN (SELECT unnest($labels::VARCHAR[]))
ORDER BY image_id
-- $token = 0
-- $token_2 = 1
-- $labels = ['cat']
-- $covered = 0.499999999
-- $last_patch = 11
-- $rank = 1
WITH mask AS MATERIALIZED (
  SELECT image, bitstring_agg(patch::INTEGER, 0, $last_patch::INTEGER) AS inside
  FROM (
    SELECT image, row * grid.columns::INTEGER + col AS patch
    FROM (
      SELECT *, unnest(range(TRY_CAST(floor(x0) AS INTEGER), TRY_CAST(ceil(x1) AS INTEGER))) AS col FROM (
        SELECT *, unnest(range(TRY_CAST(floor(y0) AS INTEGER), TRY_CAST(ceil(y1) AS INTEGER))) AS row FROM (
          -- The image and the box, as far as they lie in the grid.
          SELECT image_id AS image, grid,
            greatest(((0) * transform.scale_x + transform.offset_x) * grid.columns::INTEGER / transform.width, 0) AS low_x, least(((images.width) * transform.scale_x + transform.offset_x) * grid.columns::INTEGER / transform.width, grid.columns::INTEGER) AS high_x,
            greatest(((0) * transform.scale_y + transform.offset_y) * grid.rows::INTEGER / transform.height, 0) AS low_y, least(((images.height) * transform.scale_y + transform.offset_y) * grid.rows::INTEGER / transform.height, grid.rows::INTEGER) AS high_y,
            greatest(((object.box[1]) * transform.scale_x + transform.offset_x) * grid.columns::INTEGER / transform.width, low_x) AS x0, least(((object.box[3]) * transform.scale_x + transform.offset_x) * grid.columns::INTEGER / transform.width, high_x) AS x1,
            greatest(((object.box[2]) * transform.scale_y + transform.offset_y) * grid.rows::INTEGER / transform.height, low_y) AS y0, least(((object.box[4]) * transform.scale_y + transform.offset_y) * grid.rows::INTEGER / transform.height, high_y) AS y1
          FROM (
            SELECT image_id, width, height, transform, grid, unnest(objects) AS object
            FROM read_parquet($images) WHERE error IS NULL
          ) AS images
          WHERE object.label IN (SELECT unnest($labels::VARCHAR[]))
            AND NOT isnan((object.box[1] + object.box[2] + object.box[3] + object.box[4])::DOUBLE) AND object.mask_rle IS NULL
        )
      )
    )
    WHERE x0 < x1 AND y0 < y1 AND (least(col + 1, x1) - greatest(col, x0)) * (least(row + 1, y1) - greatest(row, y0))
      >= $covered
      * (least(col + 1, high_x) - greatest(col, low_x)) * (least(row + 1, high_y) - greatest(row, low_y))
    UNION ALL
    SELECT image, patch FROM covered
  ) GROUP BY image
)
SELECT images.image, answer.layer, answer.patches, answer.logprob, answer.censored, images.image_id
FROM (WITH layers AS (
    SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
    FROM (
      SELECT image, layer, position, min(rank) AS rank, least(coalesce(ln(nullif(fsum(exp(logprob)), 0)), max(logprob)), 0) AS logprob
      FROM read_parquet($patch_topk) JOIN mask USING (image) WHERE token IN ($token, $token_2) AND get_bit(inside, position) = 1 AND (image, layer, position) IN (
        SELECT image, layer, position FROM read_parquet($patch_topk) JOIN mask USING (image) WHERE token IN ($token, $token_2) AND get_bit(inside, position) = 1 AND rank = $rank
      )
      GROUP BY image, layer, position HAVING min(rank) <= $rank
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
