-- readings('cat', layers=2)
-- $token = 2
-- $from_layer = 2
-- $to_layer = 2
-- $rank = 1
SELECT images.image, answer.layer, answer.patch, answer.rank, answer.logprob, answer.row, answer.col, answer.box, images.image_id
FROM (SELECT image, layer, position AS patch, rank, logprob,
    position // grid.columns::INTEGER AS row, position % grid.columns::INTEGER AS col,
    [least(greatest(((position % grid.columns::INTEGER) * transform.width / grid.columns::INTEGER - transform.offset_x) / transform.scale_x, 0), images.width), least(greatest(((position // grid.columns::INTEGER) * transform.height / grid.rows::INTEGER - transform.offset_y) / transform.scale_y, 0), images.height), least(greatest(((position % grid.columns::INTEGER + 1) * transform.width / grid.columns::INTEGER - transform.offset_x) / transform.scale_x, 0), images.width), least(greatest(((position // grid.columns::INTEGER + 1) * transform.height / grid.rows::INTEGER - transform.offset_y) / transform.scale_y, 0), images.height)] AS box
  FROM (
    SELECT image, layer, position, rank, logprob FROM read_parquet($patch_topk)
    WHERE token = $token AND layer BETWEEN $from_layer AND $to_layer AND rank <= $rank
  ) AS found JOIN (SELECT image_id, width, height, transform, grid FROM read_parquet($images)) AS images ON image_id = image
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY answer.layer, images.image, images.image_id, answer.patch
