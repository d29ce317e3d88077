-- (prob('▁dog', patches='dog') > 0.5).count()
-- $token = 0
-- $labels = ['Dog', 'dog']
-- $covered = 0.499999999
-- $last_patch = 11
-- $number_of_tokens = 1
-- $most = 0.2
-- $number = 0.5
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
            AND NOT isnan((object.box[1] + object.box[2] + object.box[3] + object.box[4])::DOUBLE)
        )
      )
    )
    WHERE x0 < x1 AND y0 < y1 AND (least(col + 1, x1) - greatest(col, x0)) * (least(row + 1, y1) - greatest(row, y0))
      >= $covered
      * (least(col + 1, high_x) - greatest(col, low_x)) * (least(row + 1, high_y) - greatest(row, low_y))
  ) GROUP BY image
)
SELECT answer.count
FROM (SELECT coalesce(sum(weight), 0)::BIGINT AS count
  FROM (
    SELECT answer.weight AS weight
    FROM (WITH known AS (
        SELECT t1.image AS image, t1.layer AS layer, t1.patch AS patch, t1.prob AS prob_1, CASE WHEN $number < t1.at_least THEN true WHEN $number >= t1.at_most THEN false END AS holds
        FROM (SELECT image, layer::INTEGER AS layer, position::INTEGER AS patch, exp(logprob) AS prob, prob AS at_least, prob AS at_most
          FROM read_parquet($patch_topk) JOIN mask USING (image)
          WHERE token = $token AND get_bit(inside, position) = 1
        ) AS t1
      ), rest AS (
        SELECT * FROM (
          SELECT image, layer, CASE WHEN $number < rest1.at_least THEN true WHEN $number >= rest1.at_most THEN false END AS holds
          FROM (SELECT * FROM (
            SELECT image, layer::INTEGER AS layer, 0.0::DOUBLE AS at_least, least($number_of_tokens * exp(kth), rest, $most) AS at_most
            FROM read_parquet($patch_rest)
          ) JOIN mask USING (image)) AS rest1
        ) JOIN mask USING (image) WHERE holds
      )
      SELECT *, 1 AS weight FROM known
      UNION ALL BY NAME
      SELECT * FROM (
        SELECT rest.* EXCLUDE (inside), bit_count(inside) - coalesce(cells, 0) AS weight
        FROM rest LEFT JOIN (SELECT image, layer, count(*) AS cells FROM known JOIN mask USING (image) WHERE get_bit(inside, patch) = 1 GROUP BY image, layer) USING (image, layer)
      ) WHERE weight > 0
    ) AS answer
    JOIN read_parquet($images) AS images ON images.image_id = answer.image
    WHERE answer.holds
  )
) AS answer
