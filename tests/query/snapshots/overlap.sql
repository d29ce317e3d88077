-- overlap('cat', 'ear', min_prob=0.5)
-- $token = 2
-- $min_prob = 0.5
-- $token_2 = 4
-- $across = 4
SELECT images.image, answer.layer, answer.both, answer.either, answer.iou, answer.distance, answer.patches, images.image_id
FROM (WITH a AS (
    SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
    FROM (
      SELECT image, layer, position, rank, logprob FROM read_parquet($patch_topk)
      WHERE token = $token AND exp(logprob) >= $min_prob
    ) GROUP BY image, layer
  ), b AS (
    SELECT image, layer, list(position ORDER BY position) AS positions, max(logprob) AS logprob
    FROM (
      SELECT image, layer, position, rank, logprob FROM read_parquet($patch_topk)
      WHERE token = $token_2 AND exp(logprob) >= $min_prob
    ) GROUP BY image, layer
  ), met AS (
    SELECT image, layer::INTEGER AS layer, a.positions::INTEGER[] AS p_all, b.positions::INTEGER[] AS q_all,
      list_sort(list_intersect(p_all, q_all)) AS patches,
      list_transform(p_all, lambda patch: [patch // $across, patch % $across]::DOUBLE[]) AS p_at, list_transform(q_all, lambda patch: [patch // $across, patch % $across]::DOUBLE[]) AS q_at
    FROM a JOIN b USING (image, layer)
  )
  SELECT image, layer, len(patches) AS both, len(p_all) + len(q_all) - len(patches) AS either,
    len(patches) / either AS iou, CASE WHEN len(patches) > 0 THEN 0 ELSE list_min(list_transform(p_at, lambda p: list_min(list_transform(q_at, lambda q: list_distance(p, q))))) END AS distance, patches
  FROM met
) AS answer
JOIN read_parquet($images) AS images ON images.image_id = answer.image
ORDER BY images.image, images.image_id, answer.layer
