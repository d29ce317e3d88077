-- readings('cat', layers=2)
-- $token = 2
-- $from_layer = 2
-- $to_layer = 2
-- $rank = 1
SELECT images.image, answer.layer, answer.patch, answer.rank, answer.logprob, answer.row, answer.col, answer.box, images.image_id
FROM (SELECT image, layer, patch, rank, logprob, row, col,
    [least(greatest((col * input_width / columns - input_offset_x) / input_scale_x, 0), width), least(greatest((row * input_height / rows - input_offset_y) / input_scale_y, 0), height), least(greatest(((col + 1) * input_width / columns - input_offset_x) / input_scale_x, 0), width), least(greatest(((row + 1) * input_height / rows - input_offset_y) / input_scale_y, 0), height)] AS box
  FROM (
    SELECT *, position AS patch, position // columns AS row, position % columns AS col
    FROM (
      SELECT image, layer, position, rank, logprob FROM read_parquet($patch_topk)
      WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer AND rank <= $rank
    ) AS found JOIN (
      SELECT image_id, width, height, grid.rows::INTEGER AS rows, grid.columns::INTEGER AS columns,
        transform.width AS input_width, transform.height AS input_height, transform.scale_x AS input_scale_x, transform.scale_y AS input_scale_y, transform.offset_x AS input_offset_x, transform.offset_y AS input_offset_y
      FROM read_parquet($images)
    ) AS images ON image_id = image
  )
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id, answer.patch
