"""Caching runs: start one, follow it, cancel it. For operators."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from vlq.query.errors import BadRequest, Forbidden
from vlq.service.api.shared import ServedHere, json_response
from vlq.service.errors import RESPONSES, Told
from vlq.service.names import check_name
from vlq.service.runs import Run as Started
from vlq.service.served import Served

OPTIONS = {
    "limit": "--limit",
    "prompt": "--prompt",
    "prompt_column": "--prompt-column",
    "patches": "--patches",
    "k": "--k",
    "at": "--at",
    "answer": "--answer",
    "layers": "--layers",
    "track": "--track",
    "keep": "--keep",
    "lens": "--lens",
    "revision": "--revision",
    "shard_size": "--shard-size",
    "batch_size": "--batch-size",
    "workers": "--workers",
    "device": "--device",
    "dtype": "--dtype",
    "quantize": "--quantize",
    "attention": "--attention",
    "gpus_per_worker": "--gpus-per-worker",
    "device_map": "--device-map",
    "ray_address": "--ray-address",
}
"""What of `vlq run` may be said, by the names of its options."""

FLAGS = {"compile": "--compile", "skip_dead_links": "--skip-dead-links"}
"""Those that are true or false."""


async def operator(request: Request, served: ServedHere) -> None:
    """Raises Forbidden unless an operator asks."""
    if served.settings.operators_token is None:
        raise Forbidden("This service starts no runs: it has no operators' token.", "Set $VLQ_OPERATORS_TOKEN there.")
    if not request.state.operator:
        raise Forbidden("Runs are for operators.", "Send their token as Authorization: Bearer TOKEN.")


router = APIRouter(
    prefix="/v1/runs",
    tags=["runs"],
    responses={**RESPONSES, 403: {"model": Told, "description": "Not an operator."}},
    dependencies=[Depends(operator)],
)


class Asked(BaseModel):
    """A run to start. Options have the names and the meanings of `vlq run`'s."""

    model_config = ConfigDict(extra="forbid")

    images: str = Field(description="Folder, glob or manifest, as the cluster reaches it.", examples=["s3://data/coco"])
    model: str = Field(description="A hub id, or a folder.", examples=["llava-hf/llava-1.5-7b-hf"])
    cache: str = Field(description="Where its cache is or will be.", examples=["s3://data/runs/coco"])
    corpus: str = Field(description="What it is called here: it is served once it can be read.", examples=["coco"])
    options: dict[str, bool | str | int | float] = Field(
        default_factory=dict,
        description=f"Of {', '.join(OPTIONS)}; and {' and '.join(FLAGS)}, which are true or false.",
        examples=[{"k": 20, "answer": 16, "workers": 8}],
    )


class Run(BaseModel):
    """A run."""

    id: str = Field(examples=["vlq-0123456789ab"])
    corpus: str
    cache: str
    command: str = Field(description="What is run.")
    state: Literal["pending", "running", "succeeded", "failed", "stopped"]
    started: float = Field(description="Seconds since 1970.")
    ended: float | None
    message: str | None = Field(description="Why it failed.")
    progress: dict[str, Any] | None = Field(description="As `vlq status` has it: shards, images, errors, bytes.")


class All(BaseModel):
    runs: list[Run]
    since: float | None = Field(
        description="Runs from before this time, in seconds since 1970, are not known: on the service's own machine "
        "none outlives it. Null on a cluster, which knows its jobs itself."
    )


@router.post("", response_model=Run, status_code=201)
async def start(request: Request, asked: Asked, served: ServedHere) -> Response:
    """Start a caching run, or go on with one that was stopped: the same cache goes on from what it holds."""
    check_name(asked.corpus)
    if asked.corpus in served.corpora and served.corpora[asked.corpus].cache.url != asked.cache:
        raise BadRequest(f"Another cache is called {asked.corpus} here.", "Give this one another name.")
    command = ["vlq", "run", f"--model={asked.model}", f"--cache={asked.cache}"]
    for name, value in asked.options.items():
        if name not in OPTIONS | FLAGS:
            raise BadRequest(f"There is no option {name}.", f"There is {', '.join(OPTIONS | FLAGS)}.")
        if isinstance(value, bool) != (name in FLAGS):
            raise BadRequest(f"{name}: {'true or false' if name in FLAGS else 'a value'} is expected. Got {value!r}.")
        if name in OPTIONS:
            command.append(f"{OPTIONS[name]}={value}")
        elif value:
            command.append(FLAGS[name])
    command += ["--log=json", "--", asked.images]

    def work() -> dict[str, Any]:
        return served.runs.told(served.runs.start(asked.corpus, asked.cache, command))

    told, _ = await served.ask(request, work)
    response = json_response(told)
    response.status_code = 201
    return response


@router.get("", response_model=All)
async def runs(
    request: Request, served: ServedHere, limit: Annotated[int, Query(ge=1, le=1_000, description="Most.")] = 100
) -> Response:
    """The runs, the newest first: on a cluster whichever service has started them."""

    def work() -> list[dict[str, Any]]:
        return [told(served, run) for run in served.runs.latest(limit)]

    found, _ = await served.ask(request, work)
    return json_response({"runs": found, "since": served.runs.launcher.since})


@router.get("/{id}", response_model=Run)
async def run(request: Request, id: str, served: ServedHere) -> Response:
    """How a run is, and how far."""
    return json_response((await served.ask(request, lambda: told(served, served.runs.get(id))))[0])


def told(served: Served, run: Started) -> dict[str, Any]:
    found = served.runs.told(run)
    if found["progress"] is not None and found["progress"]["cached"]:
        served.add(found["corpus"], found["cache"])
    return found


@router.get("/{id}/log", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def log(
    request: Request,
    id: str,
    served: ServedHere,
    lines: Annotated[int, Query(ge=1, le=10_000, description="So many of the last ones.")] = 200,
) -> Response:
    """The end of what a run printed: a JSON object a line."""
    text, _ = await served.ask(request, lambda: served.runs.launcher.log(served.runs.get(id)))
    return Response("".join(text.splitlines(keepends=True)[-lines:]), media_type="text/plain; charset=utf-8")


@router.post("/{id}/cancel", response_model=Run)
async def cancel(request: Request, id: str, served: ServedHere) -> Response:
    """Have a run end. What is done is kept; started again, it goes on from there."""

    def work() -> dict[str, Any]:
        return served.runs.told(served.runs.cancel(id))

    return json_response((await served.ask(request, work))[0])
