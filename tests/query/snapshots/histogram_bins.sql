-- first_layer('cat').histogram(logprob)
-- $token = 2
-- $bins = 20
-- $huge = 8.988465674311579e+307
SELECT answer.low, answer.high, answer.count
FROM (WITH rows AS (
    SELECT CASE WHEN isfinite(answer.logprob) THEN answer.logprob END AS value
    FROM (WITH layers AS (
        SELECT image, layer, positions, logprob FROM read_parquet($patch_top1)
        WHERE token = $token
      )
      SELECT image, min(layer)::INTEGER AS layer,
        arg_min(positions, layer) AS patches,
        arg_min(logprob, layer) AS logprob,
        false AS censored
      FROM layers GROUP BY image
    ) AS answer
    JOIN read_parquet($images) AS images ON images.image_id = answer.image
  ), spread AS (
    SELECT min(value) AS first, max(value) AS final, first::DOUBLE AS least, final::DOUBLE AS most,
      bool_and(value = round(value)) AS is_whole,
      greatest(CASE WHEN most > least THEN most / $bins - least / $bins ELSE 1 END,
        1e-12 * greatest(abs(most), abs(least))) AS about,
      CASE WHEN is_whole THEN greatest(floor(log10(about)), 0) ELSE floor(log10(about)) END::INTEGER AS lowest
    FROM rows WHERE abs(value::DOUBLE) <= $huge
  ), sizes AS (
    SELECT first, final, least, most, digit, lowest + more AS power, digit * 10.0::DOUBLE ** power AS size
    FROM spread, (SELECT unnest([1, 2, 5]) AS digit), (SELECT unnest([0, 1, 2]) AS more)
    WHERE least IS NOT NULL AND size > 0 AND isfinite(size)
  ), edges AS (
    SELECT size, TRY_CAST((step * digit) || 'e' || power AS DOUBLE) AS edge1, TRY_CAST(((step + 1) * digit) || 'e' || power AS DOUBLE) AS edge2
    FROM sizes, LATERAL (
      SELECT unnest(range(floor(least / size)::BIGINT - 1, floor(most / size)::BIGINT + 2)) AS step
    ) WHERE edge2 > first AND edge1 <= final
  ), bins AS (
    SELECT edge1, edge2 FROM edges
    WHERE size = (SELECT size FROM edges GROUP BY size HAVING count(*) <= $bins ORDER BY size LIMIT 1)
  )
  SELECT edge1 AS low, edge2 AS high, sum(n)::BIGINT AS count
  FROM (
    SELECT edge1, edge2, 0 AS n FROM bins
    UNION ALL
    SELECT edge1, edge2, 1 AS n FROM rows LEFT JOIN bins ON value >= edge1 AND value < edge2
  ) GROUP BY edge1, edge2
) AS answer
ORDER BY answer.low, answer.high
