"""Example questions about a corpus: those that researchers have, of tokens that this corpus reads."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from vlq.query.client.local import LocalCorpus
from vlq.query.errors import VlqError
from vlq.query.language.effects import asked_of, question_of
from vlq.query.language.nodes import Call, Comparison, Name, node_of
from vlq.query.language.parse import parse
from vlq.query.language.registry import call
from vlq.query.statistics.portrait import has_objects
from vlq.service.counts import Counts

COMMON = 0.6
"""A word that a larger share of the images reads is likely what a layer reads by default."""


@dataclass(frozen=True)
class Example:
    """A question, and the query that asks it."""

    question: str
    query: str


def examples(corpus: LocalCorpus, counts: Counts) -> list[Example]:
    """The questions that can be asked of this corpus."""
    word = telling_word(corpus, counts)
    run = corpus.cache.run
    site = counts.site
    at = [] if site == "patch" else [("at", node_of(site), None)]
    found: list[tuple[str, Call]] = []
    if word is not None:
        found.append((f"Where is “{word}” first read?", call("first_layer", [word], at)))
        if site == "patch":
            found.append((f"What do patches read before “{word}”?", call("precursors", [word], [])))
            condition = parse(f"{word!r} in answer") if run.answer else None
            images = [] if condition is None else [("images", condition, None)]
            which = f"Which patches read “{word}”" + (" when the answer says so?" if run.answer else "?")
            found.append((which, call("readings", [word], images)))
    if "last" in run.positions:
        found.append(("What does the last prompt token default to?", call("defaults", [], [])))
        found.append(("Where does it become image-specific?", call("divergence_layer", [], [])))
    elif site == "patch":
        found.append(("What do patches default to?", call("defaults", [], [("at", node_of("patch"), None)])))
    found.append(("Which tokens does it read?", call("tokens", [""], at)))
    for finished in corpus.cache.snapshot().studies[-1:]:
        with suppress(VlqError):  # another VLQ's language
            found.append((question_of(finished.study), asked_of(finished.study)))
    asked = []
    for question, query in found:
        try:
            asked.append(Example(question, corpus.query(query).query))
        except VlqError:
            continue  # what this cache has no readings for
    return asked


SHORT = 40
"""Characters of a label that stands in an example."""


def two_sets(corpus: LocalCorpus, counts: Counts) -> tuple[str, str]:
    """Queries of two sets of images: of the two commonest labels, or of those that read a word and of all."""
    sets: list[Call] = []
    with suppress(VlqError):  # there may be no labels, or none that a query can name
        commonest = corpus.query(
            "images(label != None).group(label).count().sort(count, descending=True).limit(2)"
        ).rows
        labels = [node_of(row["label"]) for row in commonest if len(str(row["label"])) <= SHORT]
        sets = [call("images", [Comparison((Name("label"), label), ("==",))], []) for label in labels]
    if len(sets) == 2:
        return str(sets[0]), str(sets[1])
    word = telling_word(corpus, counts)
    at = [] if counts.site == "patch" else [("at", node_of(counts.site), None)]
    return "images()" if word is None else str(call("first_layer", [word], at)), "images()"


def telling_word(corpus: LocalCorpus, counts: Counts) -> str | None:
    """A word that many images read, but not nearly all: of what is labelled in them if anything is."""
    images = max(1, corpus.cache.snapshot().images)
    words: dict[str, int] = {}
    for id in counts.ordered:
        if not counts[id].images:
            break
        text = (counts[id].token.text or "").strip().lower()
        if corpus.vocabulary.starts_word(id) and text.isalpha() and len(text) > 2:
            words.setdefault(text, counts[id].images)
    labelled = [label.lower() for label in labels(corpus) if label.lower() in words]
    if labelled:
        return max(labelled, key=lambda word: (words[word], word))
    telling = [word for word, count in words.items() if count <= COMMON * images]
    return next(iter(telling or words), None)


def labels(corpus: LocalCorpus) -> list[str]:
    """What objects are labelled; nothing where images came without."""
    return corpus.engine.labels(corpus.cache.snapshot()) if has_objects(corpus) else []
