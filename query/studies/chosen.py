"""Which images a study is of, and which patches of them: those that a query's rows name, a label's objects, or some by
number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa

from vlq.query.answers.result import scope_of
from vlq.query.cache.studies import PLANNED
from vlq.query.errors import VlqError
from vlq.query.image.geometry import COLUMNS, ROWS
from vlq.query.language.compile import Compiler, indented, quoted
from vlq.query.language.effects import made_by
from vlq.query.language.nodes import Literal, Node
from vlq.query.language.parameters import AnswerTokens, Images, Tokens
from vlq.query.language.parse import parse
from vlq.query.language.patches import Patches
from vlq.query.language.tokens import TokenSet
from vlq.query.mistakes.ablation import NO_IMAGES, NO_PATCHES, NONE_CHOSEN
from vlq.query.schema import EVERY, LAST

if TYPE_CHECKING:
    from vlq.query.client.local import LocalCorpus
    from vlq.query.language.bind import Scope
    from vlq.query.schema import Run, Study

PROMPT = "prompt"
"""The column of what an image is asked, where images have prompts of their own."""

IMAGE = "<image>"
"""Where a whole prompt has its image; a text without it is a question."""

CHOSEN = pa.schema(
    [
        ("image_id", pa.uint32()),
        ("image", pa.string()),
        ("uri", pa.string()),
        ("sha256", pa.string()),
        ("rows", pa.uint16()),  # of its grid
        ("columns", pa.uint16()),
        (PROMPT, pa.string()),  # null: the run's
        ("patches", pa.list_(pa.uint16())),  # ascending
    ]
)
"""The images that a study is about, and the chosen patches of each."""


@dataclass(frozen=True)
class Written:
    """A part of a question with the text that it was written as, in which mistakes are pointed at."""

    node: Node
    text: str

    @classmethod
    def of(cls, text: str) -> Written:
        """A query, or a condition. Raises QueryError."""
        return cls(parse(text), text)

    @classmethod
    def word(cls, text: str) -> Written:
        """A word as it is; a token that is written as in a query: a number, a quoted piece, a list, a call."""
        bare = text.strip()
        as_in_queries = bare.isdigit() or bare[:1] in ("'", '"', "[") or bare.endswith(")")
        return cls.of(text) if as_in_queries else cls(Literal(bare, span=(0, len(text))), text)

    @classmethod
    def place(cls, text: str) -> Written:
        """Where states are changed: LAST, EVERY, or a query that names patches. Raises QueryError."""
        bare = text.strip()
        return cls(Literal(bare, span=(0, len(text))), text) if bare in (LAST, EVERY) else cls.of(text)

    def __str__(self) -> str:
        return str(self.node)

    def scope(self, corpus: LocalCorpus) -> Scope:
        return scope_of(corpus, corpus.cache.snapshot(), self.text, True)


def tokens_of(corpus: LocalCorpus, token: Written, name: str = "target") -> TokenSet:
    """The tokens that a word means, as queries read it. Raises UnknownToken, BadArgument."""
    found: TokenSet = Tokens().bind(token.node, name, token.scope(corpus))
    return found


def target_of(corpus: LocalCorpus, target: Written, prompt: str | None = None) -> TokenSet:
    """The same of one that is measured where the answer to a prompt, by default the run's, begins: where it may begin
    without a space, the word is looked for without one, too."""
    # How a question becomes a prompt the run's shows; one with its image is a prompt.
    run = corpus.cache.run
    asked = (prompt,) if prompt is not None and IMAGE in prompt else (run.prompt, run.prompt_ids)
    kind = AnswerTokens() if corpus.vocabulary.is_open(*asked) else Tokens()
    found: TokenSet = kind.bind(target.node, "target", target.scope(corpus))
    return found


def chosen(corpus: LocalCorpus, patches: Written, images: Written | None = None, limit: int | None = None) -> pa.Table:
    """The patches of each image that has any (CHOSEN), by the images' numbers: of those for which a condition on their
    columns holds, and of these so many at most.

    `patches` is what `patches=` takes in a query. Raises QueryError where it does not choose patches, or none.
    """
    scope = patches.scope(corpus)
    found = Patches().bind(patches.node, "patches", scope)
    if found is None:
        raise NO_PATCHES.error(patches.text, None, got=patches.node)
    compiler = Compiler()
    cells = f"(\n  {indented(found.cells(compiler))}\n) AS cells"
    on = "image_id = cells.image" if found.by_image else "true"
    where = f"patch < {ROWS} * {COLUMNS} AND {_which(corpus, images, compiler)}"
    sql = f"""\
SELECT {_image(scope.run)},
  list(DISTINCT patch ORDER BY patch) AS patches
FROM {compiler.table("images")} AS images JOIN {cells} ON {on}
WHERE {where}
GROUP BY ALL ORDER BY image_id"""
    table = _rows(corpus, compiler, sql)
    if not table.num_rows:
        which = "" if images is None else f" for which {images} holds"
        raise NONE_CHOSEN.error(None, None, got=patches.node, which=which)
    return table.slice(0, table.num_rows if limit is None else limit)


def gone_on_with(corpus: LocalCorpus, study: Study, plan: pa.Table) -> str | None:
    """The command that goes on with a study of such a plan (`studies.PLANNED`); None where it would come to another one
    now, as images were added or labels corrected, or where the study is written in another VLQ's language."""
    try:
        patches = Written.of(study.patches)
        choose = chosen if study.intervention in ("ablate", "knockout") else placed
        found = choose(corpus, patches, None if study.images is None else Written.of(study.images))
        command = made_by(study, corpus.cache)
    except VlqError:
        return None
    count = plan.num_rows
    if found.select(PLANNED).slice(0, count).to_pylist() != plan.to_pylist():
        return None
    return command if found.num_rows == count else f"{command} --limit {count}"


def placed(corpus: LocalCorpus, where: Written, images: Written | None = None, limit: int | None = None) -> pa.Table:
    """The same of the places where states are changed: of LAST no patches, of EVERY all of them."""
    place = where.node.value if isinstance(where.node, Literal) else None
    if place not in (LAST, EVERY):
        return chosen(corpus, where, images, limit)
    compiler, run = Compiler(), corpus.cache.run
    patches = "[]" if place == LAST else f"range({ROWS} * {COLUMNS})"
    sql = f"""\
SELECT {_image(run)}, {patches} AS patches FROM {compiler.table("images")} AS images
WHERE {_which(corpus, images, compiler)} ORDER BY image_id"""
    table = _rows(corpus, compiler, sql)
    if not table.num_rows:
        raise NO_IMAGES.error(None, None, which="" if images is None else f" for which {images} holds")
    return table.slice(0, table.num_rows if limit is None else limit)


def _image(run: Run) -> str:
    """SELECT list of what a study must know of an image: CHOSEN without the patches."""
    own = run.prompt_column
    prompt = "NULL::VARCHAR" if own is None else f"images.{quoted(own)}::VARCHAR"
    return f"image_id, images.image, uri, sha256, {ROWS} AS rows, {COLUMNS} AS columns, {prompt} AS {PROMPT}"


def _which(corpus: LocalCorpus, images: Written | None, compiler: Compiler) -> str:
    """SQL: whether an image has readings, and is one of those for which a condition holds."""
    condition = None if images is None else Images().bind(images.node, "images", images.scope(corpus))
    return "error IS NULL" if condition is None else f"error IS NULL AND ({condition.sql(compiler)})"


def _rows(corpus: LocalCorpus, compiler: Compiler, sql: str) -> pa.Table:
    table = corpus.engine.arrow(compiler.ask(sql), corpus.cache.snapshot(), [])
    return pa.table([table[field.name].cast(field.type) for field in CHOSEN], schema=CHOSEN)


def numbered(numbers: Sequence[int]) -> Written:
    """Patches by number."""
    return Written.of(f"[{', '.join(map(str, numbers))}]")


def labelled(label: str) -> Written:
    """The patches that objects of a label cover."""
    return Written(Literal(label, span=(0, len(label))), label)
