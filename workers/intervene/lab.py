"""One image at a time: its model's attention cut, states put into it, and what its logits are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from propcache.api import cached_property

from vlq.query.client.local import LocalCorpus
from vlq.query.client.one import OneImage, one_image
from vlq.query.errors import BadArgument, NotFound, ServiceError
from vlq.query.language.effects import SEEING, layers_said, usual_answer, window_phrase
from vlq.query.language.nodes import col
from vlq.query.language.tokens import TokenSet
from vlq.query.schema import TO
from vlq.query.studies.chosen import Written, chosen, numbered, target_of, tokens_of
from vlq.workers.intervene.asked import SAME_SHAPE, other_grid
from vlq.workers.intervene.attribution import attribution
from vlq.workers.intervene.changes import Change
from vlq.workers.intervene.findings import Findings
from vlq.workers.intervene.knockout import knocked_out, windows
from vlq.workers.intervene.patching import lengths, patched, positions_of, steered
from vlq.workers.intervene.prompted import Outcome, Prompted, Target
from vlq.workers.intervene.shards import text_of
from vlq.workers.intervene.single import Changed, Source, read_again
from vlq.workers.upkeep.rerun import model_of

if TYPE_CHECKING:
    from vlq.query.client.corpus import Corpus
    from vlq.workers.models.base import LensModel

STRENGTHS = (0.0, 0.5, 1.0, 2.0)
"""How long a steering direction is, in lengths of the states that it is added to."""


class Lab:
    """A cache's images with the model that they were read with, loaded.

    Raises ModelError if it cannot be loaded, CacheMismatch if `model`, where it is now, is another one, ServiceError of
    a service's corpus.
    """

    def __init__(self, corpus: Corpus, model: str | None = None, device: str | None = None) -> None:
        if not isinstance(corpus, LocalCorpus):
            message = "A model is run where its cache can be read, not through a service."
            raise ServiceError(message, "Open the cache itself: vlq.Lab(vlq.open(FOLDER_OR_URL))")
        self.corpus: LocalCorpus = corpus
        self._where = model, device
        self._prompted: dict[tuple[int, str | None], Prompted] = {}

    @cached_property
    def model(self) -> LensModel:
        name, device = self._where
        return model_of(self.corpus.cache.run, name, self.corpus.url, device)

    # --- what is asked -----------------------------------------------------------------------------------------

    def knockout(
        self,
        image: int | str,
        patches: str | Sequence[int],
        target: str | int,
        *,
        to: str = "last",
        layers: tuple[int, int] | None = None,
        window: int | None = None,
        others: bool = False,
        prompt: str | None = None,
        answer: int | None = None,
    ) -> Findings:
        """What becomes of the answer where `to`, one of TO, no longer sees some patches, or with `others` all but
        these: in layers `layers` (both ends included; all), or in windows of so many that slide over them. `prompt` is
        asked instead of the run's.

        A row for each window: the target's log-probability at the answer's first token before and after, in nats, its
        rank, and the answer. Raises BadArgument, UnknownToken, and what else a query may.
        """
        if to not in TO:
            raise BadArgument(f"to is one of {', '.join(TO)}. Got {to!r}.")
        one, prompted = self._image(image, prompt)
        some, ids = self._patches(one, patches), self._target(target, prompt)
        found = windows(prompted.model.layers, window, layers)
        changes = [knocked_out(prompted, some, to, where, others=others) for where in found]
        plain, *outcomes = self._run(prompted, [Change(), *changes], ids, prompt, answer)
        rows: list[dict[str, Any]] = [
            {
                "layers": window_phrase(where),
                "before": plain.logprob[0],
                "after": outcome.logprob[0],
                "effect": plain.logprob[0] - outcome.logprob[0],
                "rank": outcome.rank[0],
                "answer": text_of(self.model, outcome),
            }
            for where, outcome in zip(found, outcomes, strict=True)
        ]
        effects = [row["effect"] for row in rows]
        gains = max(effects) < 0
        most = min(effects) if gains else max(effects)
        which = f"all but {_count(some)}" if others else _count(some)
        said = (
            f"{one.name}: {SEEING[to]} cut off from {which}, {ids.label} {'gains' if gains else 'loses'} most in "
            f"{layers_said(found[effects.index(most)])}: {abs(most):.3f} nats"
        )
        return self._findings(f"knockout of {patches} in {one.name}", said, rows, ids, prompt, plain, {"patches": some})

    def patch(
        self,
        image: int | str,
        source: int | str,
        target: str | int,
        *,
        at: str | Sequence[int] = "last",
        layers: Sequence[int] | None = None,
        prompt: str | None = None,
        answer: int | None = None,
    ) -> Findings:
        """What becomes of an image's answer with another image's states put into its run, layer by layer: at its last
        prompt token, at all `patches`, or at some of them, in the same places of both. `prompt` is asked of both
        instead of the run's.

        A row for each layer. `share` is how far the target's log-probability went from the image's own to the source's.
        Raises BadArgument if the two have other grids or prompts where that counts.
        """
        one, prompted = self._image(image, prompt)
        other, giver = self._image(source, prompt)
        spots = self._spots(one, at)
        if spots is not None and one.grid != other.grid:
            raise BadArgument(other_grid(one.name, one.grid, other.name, other.grid), SAME_SHAPE)
        places, theirs = positions_of(prompted, spots), positions_of(giver, spots)
        ids, wanted = self._target(target, prompt), self._layers(layers)
        states = giver.states(wanted)
        changes = [patched(states[layer][theirs], places, layer) for layer in wanted]
        plain, *outcomes = self._run(prompted, [Change(), *changes], ids, prompt, answer)
        (given,) = self._run(giver, [Change()], ids, prompt, answer)
        between = given.logprob[0] - plain.logprob[0]
        rows: list[dict[str, Any]] = []
        for layer, outcome in zip(wanted, outcomes, strict=True):
            moved = outcome.logprob[0] - plain.logprob[0]
            rows.append(
                {
                    "layer": layer,
                    "before": plain.logprob[0],
                    "after": outcome.logprob[0],
                    "source": given.logprob[0],
                    "share": moved / between if between else None,
                    "rank": outcome.rank[0],
                    "answer": text_of(self.model, outcome),
                }
            )
        half = next((row["layer"] for row in rows if row["share"] is not None and row["share"] >= 0.5), None)
        reached = "at no layer half" if half is None else f"from layer {half} on half"
        said = f"{one.name} with states of {other.name} at {_where(at)}: {reached} of the way to its {ids.label}"
        more = {"answer_source": text_of(self.model, given)}
        return self._findings(f"{other.name} into {one.name}", said, rows, ids, prompt, plain, more)

    def steer(
        self,
        image: int | str,
        token: str | int,
        *,
        at: str | Sequence[int] = "last",
        layers: Sequence[int] | None = None,
        strengths: Sequence[float] = STRENGTHS,
        prompt: str | None = None,
        answer: int | None = None,
    ) -> Findings:
        """What becomes of an image's answer where a token's own direction is added to states, at some layers together:
        as long as `strengths` times the states there. `prompt` is asked instead of the run's.

        A row for each strength.
        """
        one, prompted = self._image(image, prompt)
        ids, wanted = self._target(token, prompt), self._layers(layers)
        added = self._tokens(token)
        places = positions_of(prompted, self._spots(one, at))
        strengths = lengths(strengths)
        changes = [steered(prompted, added.ids, places, wanted, strength) for strength in strengths]
        plain, *outcomes = self._run(prompted, [Change(), *changes], ids, prompt, answer)
        rows: list[dict[str, Any]] = [
            {
                "strength": float(strength),
                "before": plain.logprob[0],
                "after": outcome.logprob[0],
                "rank": outcome.rank[0],
                "answer": text_of(self.model, outcome),
            }
            for strength, outcome in zip(strengths, outcomes, strict=True)
        ]
        first = next((row["strength"] for row in rows if row["rank"] == 1 < plain.rank[0]), None)
        what = "the answer begins with it anyway" if plain.rank[0] == 1 else "the answer does not begin with it"
        said = f"{one.name} steered to {ids.label} at {_where(at)}: " + (
            what if first is None else f"from strength {first:g} on the answer begins with it"
        )
        return self._findings(f"{ids.label} added to {one.name}", said, rows, ids, prompt, plain, {})

    def attribute(
        self, image: int | str, target: str | int, *, at: str | int = "last", prompt: str | None = None
    ) -> Findings:
        """How much each layer's attention and MLP write towards a token, at the last prompt token or at a patch.
        `prompt` is asked instead of the run's.

        A row for each layer, layer 0 the embedding, in logits above the vocabulary's mean; they add up to the token's.
        Of several tokens it is of the one with the highest logit there.
        """
        one, prompted = self._image(image, prompt)
        ids = self._target(target, prompt) if at == "last" else self._tokens(target)
        (place,) = positions_of(prompted, self._spots(one, at if at == "last" else [_number(at)]))
        best = max(attribution(prompted, ids.ids, place), key=lambda found: found.total)
        rows: list[dict[str, Any]] = [{"layer": 0, "attention": None, "mlp": None, "sum": best.embedding}]
        for write in best.writes:
            whole = write.attention + write.mlp + write.tower
            rows.append({"layer": write.layer, "attention": write.attention, "mlp": write.mlp, "sum": whole})
        most = max(best.writes, key=lambda write: write.attention + write.mlp)
        piece = self.corpus.vocabulary.token(best.token)
        said = (
            f"{one.name} at {_where(at)}: {best.total:.3f} logits towards {piece.piece or piece.id} above the mean, "
            f"most of it from layer {most.layer}"
        )
        known = ["Layer 0 is the embedding; the norm in front of the head is taken as what it does to this state."]
        if any(write.tower for write in best.writes):
            known.append("The sum of a layer holds what the tower adds behind it.")
        if len(ids.ids) > 1:
            known.append(f"Of the {len(ids.ids)} tokens it is of the one with the highest logit there.")
        more = {"total": best.total, "bias": best.bias, "token": best.token}
        return Findings(
            f"attribution of {ids.label} in {one.name}",
            said,
            rows,
            [asdict(token) for token in ids.tokens],
            more,
            known,
        )

    # --- how it is found out -----------------------------------------------------------------------------------

    def _image(self, image: int | str, prompt: str | None) -> tuple[OneImage, Prompted]:
        """An image by its number or its name, asked what the run asked it, or something else. Raises NotFound if there
        is none or several have the name, Changed if its file is another one now or not there, ModelError if the prompt
        cannot be asked, RunError if the image cannot be read."""
        number = self._number_of(image)
        one = one_image(self.corpus, number)
        key = number, prompt
        if key not in self._prompted:
            run = self.corpus.cache.run
            if prompt is not None:
                self.model.full_prompt(self.model.processor, prompt)
            elif run.prompt_column is not None:
                (row,) = self.corpus.images(col("image_id") == number).rows
                prompt = row[run.prompt_column]
            try:
                encoded = read_again(self.model, Source(one.uri, one.sha256, prompt))
            except Changed as error:
                raise Changed(f"{one.name}: {error.message}", f"Bring {one.uri} back.") from error
            self._prompted = {key: Prompted(self.model, encoded), **dict([*self._prompted.items()][:3])}
        return one, self._prompted[key]

    def _number_of(self, image: int | str) -> int:
        try:
            return self.corpus.image(image).number
        except NotFound:
            if isinstance(image, str) and image.isdecimal():  # as one types it
                return self.corpus.image(int(image)).number
            raise

    def _patches(self, one: OneImage, patches: str | Sequence[int]) -> list[int]:
        written = Written.of(patches) if isinstance(patches, str) else numbered(patches)
        rows = chosen(self.corpus, written, Written.of(f"image_id == {one.number}")).to_pylist()
        return list(rows[0]["patches"])

    def _tokens(self, token: str | int) -> TokenSet:
        return tokens_of(self.corpus, Written.word(str(token)))

    def _target(self, target: str | int, prompt: str | None) -> TokenSet:
        """The tokens that say it where the answer begins."""
        return target_of(self.corpus, Written.word(str(target)), prompt)

    def _spots(self, one: OneImage, at: str | int | Sequence[int]) -> list[int] | None:
        """The patches at which states change; None: at the last token."""
        if at == "last":
            return None
        assert not isinstance(at, int)
        return [*range(one.patches)] if at == "patches" else self._patches(one, at)

    def _layers(self, layers: Sequence[int] | None) -> list[int]:
        count = self.corpus.cache.run.layers
        found = list(range(count)) if layers is None else sorted({*layers})
        if not found or found[0] < 0 or found[-1] >= count:
            raise BadArgument(f"Layers are 0 (the embedding) to {count - 1}. Got {layers}.")
        return found

    def _run(
        self, prompted: Prompted, changes: Sequence[Change], ids: TokenSet, prompt: str | None, answer: int | None
    ) -> list[Outcome]:
        most = answer if answer is not None else usual_answer(self.corpus.cache.run, prompt)
        return prompted.outcomes(changes, [Target(ids.ids, ids.only_first)], most)

    def _findings(
        self,
        asked: str,
        said: str,
        rows: list[dict[str, Any]],
        ids: TokenSet,
        prompt: str | None,
        plain: Outcome,
        more: dict[str, Any],
    ) -> Findings:
        own = {"before": plain.logprob[0], "rank_before": plain.rank[0], "answer_before": text_of(self.model, plain)}
        to_what = "" if prompt is None else f" {prompt!r} with"
        known = [
            f"The plain run answers{to_what} {own['answer_before']!r}; {ids.label} has rank {plain.rank[0]} there."
        ]
        return Findings(asked, said, rows, [asdict(token) for token in ids.tokens], {**own, **more}, known)


def _count(patches: Sequence[int]) -> str:
    return f"{len(patches)} patch{'' if len(patches) == 1 else 'es'}"


def _where(at: str | int | Sequence[int]) -> str:
    if at == "last":
        return "the last token"
    if at == "patches":
        return "all patches"
    return f"patch {at}" if isinstance(at, int) or (isinstance(at, str) and at.isdecimal()) else f"patches {at}"


def _number(at: str | int) -> int:
    if isinstance(at, int) or at.isdecimal():
        return int(at)
    raise BadArgument(f"at: expected last, or a patch's number. Got {at!r}.")
