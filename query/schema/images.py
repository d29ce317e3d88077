"""The image table, and how an image's pixels lie in the model's input."""

from __future__ import annotations

from dataclasses import dataclass

IMAGE_COLUMNS = {
    "image_id": "UINTEGER",  # its number in the corpus; shards hold consecutive ones
    "image": "VARCHAR",  # its name: the path below the corpus' folder
    "uri": "VARCHAR",
    "sha256": "VARCHAR",  # of the file; null if it could not be fetched
    "width": "UINTEGER",  # upright pixels (EXIF rotation applied); null if it could not be decoded
    "height": "UINTEGER",
    "transform": "STRUCT",  # Transform below
    "grid": "STRUCT(rows, columns)",
    "error": "VARCHAR",  # why it has no readings; null if it has
}
"""The image table's first columns."""

FOLDER_HERE = "(^|::)file://.*/"

PUBLIC_URI = f"regexp_replace({{}}, '{FOLDER_HERE}', '\\1')"
"""A URI in SQL as a service tells it: of a file on its machine the name alone."""

ANSWER_COLUMNS = {
    "answer": "VARCHAR",  # what the model answered, special tokens left out; null if the image has no readings
    "answer_ids": "UINTEGER[]",  # its tokens, without the one that ends it
    "answer_logprobs": "FLOAT[]",  # how probable each was when it was chosen, in nats
}
"""Further ones of a run that has the model answer."""

PROMPT_COLUMNS = {
    "prompt_ids": "UINTEGER[]",  # the text tokens of its own prompt; null if the image has no readings
}
"""Further ones of a run with a prompt for each image."""

PATCHES_COLUMNS = {
    "patches_read": "USMALLINT[]",  # which of its patches were read, ascending; null if the image has no readings
}
"""Further ones of a run that reads some patches of each image."""

READ_COLUMNS = IMAGE_COLUMNS | PATCHES_COLUMNS | PROMPT_COLUMNS | ANSWER_COLUMNS
"""What comes of reading images; other columns are the user's, and get `_` appended if they have such a name."""


@dataclass(frozen=True)
class Transform:
    """Original upright pixels to the model's input: model = original * scale + offset, on each axis.

    Resize, crop and pad are all of this form. `width` and `height` are the model input's.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    width: int
    height: int
