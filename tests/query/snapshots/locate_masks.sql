-- locate('cat', layer=1)
-- found is made of
-- $token = 2
-- $from_layer = 1
-- $to_layer = 1
SELECT found.*, grid.rows::INTEGER AS rows, grid.columns::INTEGER AS columns
FROM (
  SELECT image, layer::INTEGER AS layer, positions FROM (
    SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
    WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer
  )
) AS found JOIN (SELECT image_id, width, height, transform, grid FROM read_parquet($images)) AS images ON image_id = image
-- masks is made of
-- $labels = ['cat']
-- $token = 2
-- $from_layer = 1
-- $to_layer = 1
SELECT * FROM (
  SELECT image, layer::INTEGER AS layer, positions FROM (
    SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
    WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer
  )
) JOIN (
  SELECT image_id AS image, image AS name, width, height, transform, grid, object.label, object.mask_rle
  FROM (
    SELECT image_id, image, width, height, transform, grid, unnest(objects) AS object
    FROM read_parquet($images) WHERE error IS NULL
  ) AS images
  WHERE object.mask_rle IS NOT NULL AND object.label IN (SELECT unnest($labels::VARCHAR[]))
  ORDER BY image_id
) USING (image) ORDER BY image
-- $labels = ['cat']
SELECT images.image, answer.layer, answer.patches, answer.box, answer.row, answer.col, answer.regions, answer.iou, answer.pointing, images.image_id
FROM (WITH placed AS (
    SELECT image, avg(row) AS row, avg(col) AS col, CASE WHEN bool_or(shows) THEN [min(x0) FILTER (shows), min(y0) FILTER (shows), max(x1) FILTER (shows), max(y1) FILTER (shows)] END AS box
    FROM (
      -- What a patch shows of the padding is no part of the image.
      SELECT *, x0 < x1 AND y0 < y1 AS shows
      FROM (
        SELECT image, row, col, least(greatest((col * input_width / columns - input_offset_x) / input_scale_x, 0), width) AS x0, least(greatest((row * input_height / rows - input_offset_y) / input_scale_y, 0), height) AS y0, least(greatest(((col + 1) * input_width / columns - input_offset_x) / input_scale_x, 0), width) AS x1, least(greatest(((row + 1) * input_height / rows - input_offset_y) / input_scale_y, 0), height) AS y1
        FROM (
          SELECT *, patch // columns AS row, patch % columns AS col
          FROM (SELECT image, unnest(positions)::INTEGER AS patch FROM found)
          JOIN (
            SELECT image_id, width, height, grid.rows::INTEGER AS rows, grid.columns::INTEGER AS columns,
              transform.width AS input_width, transform.height AS input_height, transform.scale_x AS input_scale_x, transform.scale_y AS input_scale_y, transform.offset_x AS input_offset_x, transform.offset_y AS input_offset_y
            FROM read_parquet($images)
          ) AS images ON image_id = image
        )
      )
    ) GROUP BY image
  ), truth AS (
    SELECT image_id AS image, transform, grid, object.box AS truth
    FROM (SELECT image_id, transform, grid, unnest(objects) AS object FROM read_parquet($images))
    WHERE object.label IN (SELECT unnest($labels::VARCHAR[])) AND NOT isnan((object.box[1] + object.box[2] + object.box[3] + object.box[4])::DOUBLE) AND object.mask_rle IS NULL
  ), judged AS (
    SELECT image, coalesce(max(iou), 0) AS iou, bool_or(inside) AS pointing
    FROM (
      SELECT image, iou, inside FROM masks
      UNION ALL
      SELECT image, shared / (area + true_area - shared) AS iou, inside
      FROM (
        SELECT image, (box[3] - box[1]) * (box[4] - box[2]) AS area,
          (truth[3] - truth[1]) * (truth[4] - truth[2]) AS true_area,
          greatest(least(box[3], truth[3]) - greatest(box[1], truth[1]), 0)
            * greatest(least(box[4], truth[4]) - greatest(box[2], truth[2]), 0) AS shared,
          ((col + 0.5) * transform.width / grid.columns::INTEGER - transform.offset_x) / transform.scale_x BETWEEN truth[1] AND truth[3] AND ((row + 0.5) * transform.height / grid.rows::INTEGER - transform.offset_y) / transform.scale_y BETWEEN truth[2] AND truth[4] AS inside
        FROM placed JOIN truth USING (image)
      )
    ) GROUP BY image
  )
  SELECT found.image, layer, positions AS patches, box, row, col, regions,
    iou, pointing
  FROM found AS found JOIN placed USING (image) LEFT JOIN judged USING (image)
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY images.image, images.image_id
