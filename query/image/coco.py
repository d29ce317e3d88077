"""What COCO's annotation files tell of images, as a table: a row each, with its objects, its captions, or both.

The form is that of Lin et al., "Microsoft COCO: Common Objects in Context" (2014), https://cocodataset.org/#format-data,
in which many other data sets come, LVIS among them, and which tools for labelling write.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from vlq.query.extras import missing_extra

Annotation = Mapping[str, Any]

LEAST = 6
"""Numbers of a polygon: three corners."""

BOX = pa.list_(pa.float64())


def is_coco(about: Any) -> bool:
    """Whether a JSON file's value is such a file's."""
    images = about.get("images") if isinstance(about, Mapping) else None
    return isinstance(images, list) and all(isinstance(image, Mapping) for image in images)


def table_of(about: Mapping[str, Any]) -> pa.Table:
    """Columns file_name; objects, where there are categories: lists of `label`, `box` [x0, y0, x1, y1] in pixels and,
    where some have a segmentation, `mask_rle`; captions, where there are some: a line each.

    An image without annotations has an empty list, or text. Raises ValueError if something is missing, MissingExtra if
    there are masks and pycocotools is not installed.
    """
    try:
        return _table_of(about)
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from error
    except (AttributeError, TypeError, IndexError) as error:
        raise ValueError(f"it has something else than COCO's files have ({error})") from error


def _table_of(about: Mapping[str, Any]) -> pa.Table:
    images = {image["id"]: image for image in about["images"]}
    labels = {category["id"]: category["name"] for category in about.get("categories") or ()}
    objects: dict[Any, list[Any]] = {number: [] for number in images}
    captions: dict[Any, list[str]] = {number: [] for number in images}
    for annotation in about.get("annotations") or ():
        number = annotation["image_id"]
        if number not in images:
            raise ValueError(f"it has an annotation of image {number}, which is none of its images")
        if "caption" in annotation:
            captions[number].append(annotation["caption"])
        else:
            objects[number].append(_object(annotation, labels, images[number]))
    columns = {"file_name": pa.array([_file_name(image) for image in images.values()], pa.string())}
    if labels:
        fields = {"label": pa.string(), "box": BOX, "mask_rle": pa.string()}
        if not any(one["mask_rle"] for some in objects.values() for one in some):
            del fields["mask_rle"]
        columns["objects"] = pa.array(list(objects.values()), pa.list_(pa.struct(list(fields.items()))))
    if any(captions.values()):
        columns["captions"] = pa.array(["\n".join(lines) for lines in captions.values()], pa.string())
    return pa.table(columns)


def _file_name(image: Mapping[str, Any]) -> str:
    """LVIS tells where an image is alone."""
    name = image.get("file_name") or image["coco_url"].rpartition("/")[2]
    return str(name)


def _object(annotation: Annotation, labels: Mapping[Any, str], image: Mapping[str, Any]) -> dict[str, Any]:
    category = annotation["category_id"]
    if category not in labels:
        raise ValueError(f"it has an annotation of category {category}, which is none of its categories")
    box = None
    if annotation.get("bbox"):
        x, y, width, height = annotation["bbox"]
        box = [x, y, x + width, y + height]
    return {"label": labels[category], "box": box, "mask_rle": _run_lengths(annotation.get("segmentation"), image)}


def _run_lengths(segmentation: Any, image: Mapping[str, Any]) -> str | None:
    """The text of run lengths for polygons, lists of run lengths, or such a text; None where there is no area."""
    if isinstance(segmentation, Mapping):
        if isinstance(segmentation["counts"], str):
            return segmentation["counts"]
        return _encoded(segmentation, *segmentation["size"])
    # Of lists of four numbers pycocotools would make boxes.
    polygons = [polygon for polygon in segmentation or () if len(polygon) >= LEAST]
    return _encoded(polygons, image["height"], image["width"]) if polygons else None


def _encoded(shape: Mapping[str, Any] | Sequence[Sequence[float]], height: int, width: int) -> str:
    try:
        from pycocotools import mask
    except ModuleNotFoundError as error:
        raise missing_extra(error) or error from error
    found = mask.frPyObjects(shape, height, width)
    whole = found if isinstance(shape, Mapping) else mask.merge(found)
    return str(whole["counts"], "ascii")
