"""Options that several commands have, each said once. What they mean is the same wherever they stand."""

from __future__ import annotations

from typing import Annotated

import typer

from vlq.query.options import CACHE

ImagesArgument = typer.Argument(help="Folder, glob, image or manifest (.parquet, .csv, .json, .jsonl, .tar).")

MODEL = "Folder of a saved model, or a Hugging Face hub id"

QuestionOption = Annotated[
    str | None, typer.Option("--prompt", help="A question, or a whole prompt with <image> in it.")
]
RevisionOption = Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub model.")]
LensOption = Annotated[
    str, typer.Option(help="logit, head, nearest, or the folder or URL of a tuned lens (vlq lens train).")
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
DtypeOption = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
LimitOption = Annotated[int | None, typer.Option(help="Only the first so many images.", min=1)]

CacheOption = Annotated[str, typer.Option(help=CACHE)]
"""Of a cache that is there."""

MovedOption = Annotated[str | None, typer.Option(help="Where the run's model is now; default as it was.")]

WorkersOption = Annotated[int | None, typer.Option(help="Default: one per GPU, else as many as fit.", min=1)]
RayOption = Annotated[str | None, typer.Option(help="A running Ray cluster to join; default: one of its own here.")]
GpusOption = Annotated[
    float, typer.Option(help="GPUs that a worker takes: 0.5 puts two on one, 2 splits a model with --device-map.")
]
DeviceMapOption = Annotated[
    str | None, typer.Option(help="auto: spread a model that is too large for one over the worker's GPUs.")
]
