"""Scenes as files: a PNG each and a Parquet manifest with what is true of them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from vlq.workers.demo.scenes import Scene

MANIFEST = "manifest.parquet"

OBJECTS = pa.list_(pa.struct([("label", pa.string()), ("box", pa.list_(pa.float64())), ("mask_rle", pa.string())]))
"""Ground truth: each object's word, its box (x0, y0, x1, y1) in pixels, and a mask, of which scenes have none."""


def write_scenes(folder: Path, scenes: Sequence[Scene]) -> Path:
    """Put the scenes into a folder. Returns the manifest's path; it is written last.

    Its columns: image (file name), label (the background), main (the largest object's word), caption, objects.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"scene-{number:03d}.png" for number in range(len(scenes))]
    for name, scene in zip(names, scenes, strict=True):
        (folder / name).write_bytes(png(scene))
    path = folder / MANIFEST
    pq.write_table(manifest(names, scenes), path)
    return path


def manifest(names: Sequence[str], scenes: Sequence[Scene]) -> pa.Table:
    objects = [
        [
            {"label": placed.label, "box": [float(side) for side in placed.box], "mask_rle": None}
            for placed in scene.objects
        ]
        for scene in scenes
    ]
    return pa.table(
        {
            "image": pa.array(names, pa.string()),
            "label": pa.array([scene.background for scene in scenes], pa.string()),
            "main": pa.array([scene.main for scene in scenes], pa.string()),
            "caption": pa.array([scene.caption for scene in scenes], pa.string()),
            "objects": pa.array(objects, OBJECTS),
        }
    )


def png(scene: Scene) -> bytes:
    sink = io.BytesIO()
    Image.fromarray(scene.pixels).save(sink, "PNG")
    return sink.getvalue()
