-- (first_layer('cat') < first_layer('rock')).group(label).mean()
-- $token = 2
-- $token_2 = 3
SELECT answer.label, answer.mean, answer.count, answer.missing
FROM (SELECT part1 AS label, favg(value) AS mean, count(*) AS count, count(*) - count(value) AS missing
  FROM (
    SELECT images.label AS part1, answer.holds::INTEGER AS value
    FROM (SELECT t1.image AS image, t1.layer AS layer_1, t2.layer AS layer_2, t1.layer < t2.layer AS holds
      FROM (WITH layers AS (
          SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
          WHERE token = $token
        )
        SELECT image, min(layer)::INTEGER AS layer,
          arg_min(positions, layer) AS patches,
          arg_min(logprob, layer) AS logprob,
          false AS censored
        FROM layers GROUP BY image
      ) AS t1
      JOIN (WITH layers AS (
          SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
          WHERE token = $token_2
        )
        SELECT image, min(layer)::INTEGER AS layer,
          arg_min(positions, layer) AS patches,
          arg_min(logprob, layer) AS logprob,
          false AS censored
        FROM layers GROUP BY image
      ) AS t2 ON t1.image IS NOT DISTINCT FROM t2.image
    ) AS answer
    JOIN read_parquet($images) AS images ON images.image_id = answer.image
  ) GROUP BY part1
) AS answer
ORDER BY answer.label
