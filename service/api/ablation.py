"""What taking patches from an image does to the model's answer, where a model is loaded with the service."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from vlq.query.errors import BadRequest, Forbidden, NotFound
from vlq.query.language.tokens import TokenSet
from vlq.query.studies.chosen import Written, target_of
from vlq.service.api.images import Number
from vlq.service.api.shared import ServedHere, json_response
from vlq.service.errors import RESPONSES, Told
from vlq.service.images import described, found_image
from vlq.service.models import Models
from vlq.service.served import Served

if TYPE_CHECKING:
    from vlq.workers.intervene.single import LoadedModel, Without

router = APIRouter(
    prefix="/v1/images",
    tags=["interventions"],
    responses={**RESPONSES, 403: {"model": Told, "description": "Not an operator."}},
)

Rings = Literal[0, 1, 2]
Mode = Literal["mean", "zero"]


def may_intervene(request: Request, served: Served) -> bool:
    """Whether who asks is offered interventions: of a service with tokens operators alone are, for they take time of
    the model's machine."""
    settings = served.settings
    has_tokens = settings.readers_token is not None or settings.operators_token is not None
    return served.models is not None and (request.state.operator or not has_tokens)


async def models_of(request: Request, served: ServedHere) -> Models:
    """Raises NotFound if no model is loaded here, Forbidden if it is for others."""
    if served.models is None:
        raise NotFound("This service loads no model to intervene in.", "Start it so: vlq serve --intervene")
    if not may_intervene(request, served):
        raise Forbidden("Interventions are for operators.", "Send their token as Authorization: Bearer TOKEN.")
    return served.models


class Asked(BaseModel):
    """Patches to take from an image, and a word to measure that by."""

    model_config = ConfigDict(extra="forbid")

    patches: list[int] = Field(
        description="By their numbers, row by row from 0.", examples=[[1, 2]], min_length=1, max_length=65_536
    )
    target: str = Field(
        description="A word, a piece or an id, or what else means tokens in queries.",
        examples=["dog"],
        min_length=1,
        max_length=200,
    )
    mode: Mode = Field(
        "mean", description="What stands where the patches were: the mean patch, or zeros.", examples=["mean"]
    )
    buffer: Rings = Field(0, description="So many rings of neighbours are taken, too.", examples=[1])
    corpus: str | None = Field(None, examples=[None])


class Measured(BaseModel):
    """A token that is measured."""

    id: int = Field(examples=[62])
    piece: str | None = Field(examples=["▁dog"])
    text: str | None = Field(examples=[" dog"])


class Ablation(BaseModel):
    """What came of it. Log-probabilities and ranks are at the answer's first token; of several tokens the sum of their
    probabilities, and the best rank."""

    tokens: list[Measured] = Field(description="What the target means.")
    patches: list[int] = Field(description="Those that were taken, neighbours included.", examples=[[1, 2]])
    mean_of: Literal["corpus", "image"] | None = Field(
        description="Whose mean patch stands in their places: the corpus' where the cache has it stored, else the "
        "image's own. Null: zeros do.",
        examples=["image"],
    )
    before: float = Field(description="The target's log-probability, in nats, with all patches there.", examples=[-0.1])
    after: float = Field(description="The same with the patches taken.", examples=[-3.2])
    effect: float = Field(description="before - after: positive where the patches speak for it.", examples=[3.1])
    rank_before: int = Field(description="From 1.", examples=[1])
    rank_after: int = Field(examples=[4])
    answer_before: str = Field(description="The most probable token each time.", examples=["dog"])
    answer: str = Field(description="The same with the patches taken.", examples=["cat"])
    gone: bool | None = Field(
        description="Whether the answer held the target and does no more; null where it never did.", examples=[True]
    )


@router.post("/{id}/ablation", response_model=Ablation)
async def ablation(
    request: Request, served: ServedHere, models: Annotated[Models, Depends(models_of)], id: Number, asked: Asked
) -> Response:
    """What the model answers without some of an image's patches: their embeddings are replaced before the decoder sees
    them. The first time a corpus is asked of, its model is loaded."""
    corpus = served.corpus(asked.corpus)

    def look() -> tuple[TokenSet, Callable[[LoadedModel, Callable[[], bool]], Without]]:
        found, run = found_image(corpus, id), corpus.cache.run
        target = target_of(corpus, Written.word(asked.target))
        if beyond := [patch for patch in asked.patches if not 0 <= patch < found.patches]:
            said = f"This image has {found.patches} patches, from 0 to {found.patches - 1}."
            raise BadRequest(f"There is no patch {beyond[0]}.", said)
        own = None if run.prompt_column is None else described(corpus, id)["columns"][run.prompt_column]
        shards = sorted(commit.shard for commit in corpus.cache.snapshot().commits)

        def work(model: LoadedModel, is_stopped: Callable[[], bool]) -> Without:
            from vlq.workers.intervene.prompted import Target
            from vlq.workers.intervene.single import Changed, Source

            image, store = Source(found.uri, found.sha256, own), corpus.cache.store
            word = Target(target.ids, target.only_first)
            try:
                return model.without(image, asked.patches, asked.buffer, word, asked.mode, store, shards, is_stopped)
            except Changed as error:
                raise NotFound(
                    f"{found.name} is not where it was, or no longer the same.",
                    "Only the very image that was read can be run again.",
                ) from error

        return target, work

    (target, work), _ = await served.ask(request, look)
    found = await models.ask(request, corpus, work)
    before, after = found.before.logprob[0], found.after.logprob[0]
    told: dict[str, Any] = {
        "tokens": [asdict(token) for token in target.tokens],
        "patches": found.taken,
        "mean_of": found.mean_of,
        "before": before,
        "after": after,
        "effect": before - after,
        "rank_before": found.before.rank[0],
        "rank_after": found.after.rank[0],
        "answer_before": found.answer_before,
        "answer": found.answer,
        "gone": found.gone,
    }
    return json_response(told)
