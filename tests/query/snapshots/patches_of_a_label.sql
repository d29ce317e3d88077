-- defaults('patch', patches='dog')
-- $share = 0.9
-- $labels = ['Dog', 'dog']
-- $covered = 0.499999999
-- $last_patch = 11
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
SELECT answer.layer, answer.token, answer.piece, answer.text, answer.count, answer.share, answer.cumulative
FROM (WITH counts AS MATERIALIZED (
    SELECT layer, token, count(*) AS count
    FROM (
      SELECT layer, image, (4294967295 - max((n::UBIGINT << 32) + (4294967295 - token)) % 4294967296)::UINTEGER AS token
      FROM (
        SELECT token, image, layer, len(list_filter(positions, lambda position: get_bit(inside, position) = 1)) AS n
        FROM read_parquet($patch_top1) JOIN mask USING (image)
      ) WHERE n > 0 GROUP BY layer, image
    ) GROUP BY layer, token
  ), equal AS (
    SELECT layer, count, sum(count) AS sum FROM counts GROUP BY layer, count
  ), above AS (
    SELECT layer, count, sum(sum) OVER (PARTITION BY layer) AS total,
      sum(sum) OVER (PARTITION BY layer ORDER BY count DESC ROWS UNBOUNDED PRECEDING) - sum AS above
    FROM equal
  ), ranked AS (
    SELECT *, above + count * row_number() OVER (PARTITION BY layer, count ORDER BY token) AS so_far
    FROM counts JOIN above USING (layer, count) WHERE above / total < $share
  )
  SELECT layer::INTEGER AS layer, token, piece, text, count, count / total AS share, so_far / total AS cumulative
  FROM ranked LEFT JOIN read_parquet($vocabulary) ON id = token
  WHERE (so_far - count) / total < $share
) AS answer
ORDER BY answer.layer, answer.count DESC, answer.token
