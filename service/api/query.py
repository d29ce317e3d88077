"""Questions in the language: answers as JSON, CSV, JSON lines, an Arrow stream, or drawn."""

from __future__ import annotations

import base64
import binascii
import io
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Annotated, Any, Literal

import pyarrow as pa
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from vlq.query.answers.answer import Answer
from vlq.query.answers.render import as_json, csv_rows, jsonl_rows, plain
from vlq.query.answers.result import Result
from vlq.query.arrow import rows_of
from vlq.query.client.local import LocalCorpus
from vlq.query.errors import BadRequest, LimitReached
from vlq.query.language.groups import Grouped
from vlq.query.language.typed import check_typed
from vlq.query.limits import shown_size
from vlq.query.schema import digest_of, to_json
from vlq.service.answers import Kept, Packed, beginning_of
from vlq.service.api.shared import CorpusHere, ServedHere, headers_of, json_response, sent, tag_of, unchanged
from vlq.service.errors import RESPONSES
from vlq.service.served import Served, Times

router = APIRouter(prefix="/v1", tags=["query"], responses=RESPONSES)

ARROW = "application/vnd.apache.arrow.stream"

FORMS = {
    "json": "application/json",
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "arrow": ARROW,
    "svg": "image/svg+xml",
    "png": "image/png",
}

JSON_ROWS = 1_000
"""Rows of an answer as JSON unless more are asked for: what a page can show."""

ROWS_AT_ONCE = 16_384
"""Rows of a part of a stream."""

EXAMPLE = "first_layer(token='dog')"

Form = Literal["json", "jsonl", "csv", "arrow", "svg", "png"]


class Checked(BaseModel):
    """A query that can be answered, before it is."""

    query: str = Field(description="The query as VLQ writes it.", examples=["first_layer('dog')"])
    columns: list[str] = Field(examples=[["image", "layer"]])
    tokens: list[dict[str, Any]] = Field(examples=[[{"id": 62, "piece": "▁dog", "text": " dog"}]])
    notes: list[str] = Field(description="What an answer cannot know, or rests on.")


class Question(BaseModel):
    """A question to a corpus."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(description="A query of the language.", examples=[EXAMPLE], max_length=100_000)
    corpus: str | None = Field(None, description="A corpus' name; by default the first one's.", examples=[None])
    format: Form = Field("json", description="Rows as JSON, JSON lines, CSV or an Arrow stream, or a picture of them.")
    limit: int | None = Field(
        None,
        ge=0,
        description=f"So many rows at most: {JSON_ROWS:,} of JSON by default, else as many as the service allows.",
        examples=[100],
    )
    cursor: str | None = Field(None, description="Where to go on: what the answer before has as its `cursor`.")


class Typed(BaseModel):
    """A query that is to be checked."""

    model_config = ConfigDict(extra="forbid")

    query: str = Field(description="A query of the language.", examples=[EXAMPLE], max_length=100_000)
    corpus: str | None = Field(None, description="A corpus' name; by default the first one's.", examples=[None])
    typing: bool = Field(
        False,
        description="Whether it is still being typed, up to its end: what may become right when it goes on is of kind "
        "`unfinished`, and mistakes before that are told first.",
        examples=[False],
    )


class Told(BaseModel):
    """An answer as JSON. In an Arrow stream the same, but for the rows, is JSON in the schema's metadata, as `vlq`."""

    query: str = Field(description="The question as VLQ writes it.", examples=["first_layer('dog')"])
    corpus: str = Field(description="The name of the corpus that was asked.", examples=["demo"])
    headline: str = Field(description="The answer as one sentence.", examples=["dog: read in 61 of 300 images"])
    tokens: list[dict[str, Any]] = Field(
        description="The tokens that were asked for.", examples=[[{"id": 62, "piece": "▁dog", "text": " dog"}]]
    )
    notes: list[str] = Field(description="What the answer cannot know, or rests on.")
    columns: list[str] = Field(examples=[["image", "layer"]])
    rows: list[dict[str, Any]] = Field(examples=[[{"image": "0007.png", "layer": 5}]])
    summary: dict[str, Any] = Field(description="The answer in a few figures, of all rows.")
    censored: bool = Field(description="Whether any row is at the edge of the layers that were looked at.")
    total: int = Field(description="How many rows there are.", examples=[61])
    truncated: bool = Field(description="Whether more rows follow these.")
    cursor: str | None = Field(description="What to ask with for the rows that follow.")
    sql: str = Field(description="What DuckDB was asked.")
    parameters: dict[str, Any] = Field(description="The values of the SQL's parameters.")
    timing: dict[str, float] = Field(description="Milliseconds: `waited` for its turn, and `took`.")


# --- the routes ------------------------------------------------------------------------------------------------


@router.post("/query", response_model=Told, response_description="The answer; or another format of it.")
async def post_query(request: Request, question: Question, served: ServedHere) -> Response:
    """The answer to a query.

    JSON has the rows that fit into `limit` and a `cursor` where more follow. CSV, JSON lines and Arrow are streamed.
    """
    return await _answer(request, question, served)


@router.get("/query", response_model=Told)
async def get_query(
    request: Request,
    served: ServedHere,
    query: Annotated[str, Query(description="A query of the language.", examples=[EXAMPLE], max_length=8_000)],
    corpus: str | None = None,
    format: Form = "json",
    limit: Annotated[int | None, Query(ge=0)] = None,
    cursor: str | None = None,
) -> Response:
    """The same by a link, which browsers keep as long as the cache is as it was."""
    question = Question(query=query, corpus=corpus, format=format, limit=limit, cursor=cursor)
    return await _answer(request, question, served)


@router.post("/check", response_model=Checked)
async def check(request: Request, typed: Typed, served: ServedHere) -> Response:
    """Whether a query can be answered, without answering it: its columns and tokens, or the mistake in it."""
    corpus = served.corpus(typed.corpus)

    def work() -> dict[str, Any]:
        result = check_typed(typed.query, corpus.query) if typed.typing else corpus.query(typed.query)
        # Of groups it is not said yet what is wanted of each.
        columns = [] if isinstance(result.table, Grouped) else result.columns
        return {"query": result.query, "columns": columns, "tokens": result.tokens, "notes": result.notes}

    return json_response((await served.ask(request, work))[0])


@router.post("/explain")
async def explain(request: Request, question: Question, served: ServedHere) -> dict[str, str]:
    """A query's tokens, SQL, files and DuckDB's plan, as `vlq --explain` prints them."""
    corpus = served.corpus(question.corpus)
    text, _ = await served.ask(request, lambda: corpus.query(question.query).explain())
    return {"text": served.hidden(text)}


class Statement(BaseModel):
    """A statement of SQL, and what it may take: no more than the service allows."""

    model_config = ConfigDict(extra="forbid")

    statement: str = Field(examples=["SELECT count(*) FROM images"], max_length=100_000)
    corpus: str | None = Field(None, examples=[None])
    timeout: float | None = Field(None, gt=0, description="Seconds.", examples=[10])
    memory: int | None = Field(None, gt=0, description="Bytes.", examples=[10**9])
    temp: int | None = Field(None, ge=0, description="Bytes on disk for what does not fit.", examples=[0])
    max_rows: int | None = Field(None, gt=0, examples=[1000])
    threads: int | None = Field(None, gt=0, examples=[1])


@router.get("/sql")
def sql_tables(corpus: CorpusHere) -> dict[str, str]:
    """The tables that SQL can read, as `vlq sql` prints them."""
    return {"text": corpus.sql_tables()}


@router.post("/sql", response_description="The rows.", responses={200: {"content": {ARROW: {}}}})
async def sql(request: Request, statement: Statement, served: ServedHere) -> Response:
    """The rows that a SELECT gives, as an Arrow stream. It runs in a process of its own, which can do nothing else."""
    corpus, settings = served.corpus(statement.corpus), served.settings

    def work() -> Answer:
        try:
            return corpus.sql(
                statement.statement,
                timeout=min(statement.timeout or settings.timeout, settings.timeout),
                memory=min(statement.memory or settings.memory, settings.memory),
                temp=settings.temp if statement.temp is None else min(statement.temp, settings.temp),
                max_rows=min(statement.max_rows or settings.most_rows, settings.most_rows),
                threads=statement.threads,
            )
        except LimitReached as error:
            disk = f"{shown_size(settings.temp)} of disk" if settings.temp else "no disk"
            most = f"{settings.timeout:g} seconds, {shown_size(settings.memory)} of memory, {disk}"
            hint = f"{error.hint}\nThis service gives a statement {most} and {settings.most_rows:,} rows at most."
            raise LimitReached(error.message, hint) from error

    answer, _ = await served.ask(request, work)
    table, stream = answer.arrow(), ArrowStream()
    about = {**told(answer), "censored": False, "total": table.num_rows, "truncated": False, "cursor": None}
    parts = [stream.begin(table.schema, about), *map(stream.part, table.to_batches()), stream.end()]
    return Response(b"".join(parts), media_type=ARROW)


# --- an answer -------------------------------------------------------------------------------------------------


def told(answer: Answer) -> dict[str, Any]:
    """What is said about an answer's rows."""
    return {
        "query": answer.query,
        "headline": answer.headline,
        "tokens": answer.tokens,
        "notes": answer.notes,
        "columns": answer.columns,
        "summary": answer.summary,
    }


MOST_ROWS = 2**48
"""More rows than any answer has: no cursor starts behind them."""


@dataclass(frozen=True)
class Cursor:
    """How many rows of an answer were given, and of which answer: none of a cache that is another by now."""

    start: int
    of: str

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(f"{self.start}.{self.of}".encode()).decode().rstrip("=")

    @classmethod
    def read(cls, text: str | None, of: str) -> Cursor:
        """Raises BadRequest if it is no cursor of this answer."""
        if text is None:
            return cls(0, of)
        try:
            start, _, was_of = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition(".")
            cursor = cls(int(start), was_of)
        except (ValueError, binascii.Error) as error:
            raise BadRequest("That is no cursor.", "Give the one of the answer before, or none.") from error
        if was_of != of or not 0 <= cursor.start < MOST_ROWS:
            raise BadRequest("That is a cursor of another answer, or the cache has grown since.", "Begin again.")
        return cursor


def identity(result: Result) -> str:
    """What an answer's cursors are of: the query, and the caches as they are."""
    return digest_of(to_json([[snapshot.digest for snapshot in result.snapshots], result.query]))[:16]


async def _answer(request: Request, question: Question, served: Served) -> Response:
    corpus = served.corpus(question.corpus)
    asked = (served.name_of(corpus), await served.digest(corpus), repr(question))
    if (known := served.answers.get(asked)) is not None:
        return unchanged(request, known.tag) or sent(request, known, FORMS["json"])
    made, times = await served.ask(request, lambda: _made(request, question, served, corpus))
    if isinstance(made, Page):
        if made.is_kept:
            served.answers.put(asked, made.given(NO_TIME))
        return sent(request, made.given(times), FORMS["json"])
    if isinstance(made, Response):
        return made
    return await _streamed(request, question, served, made, times)


@dataclass(frozen=True)
class Page:
    """An answer as JSON, but for what it took, which stands at its end: it is compressed once, to be sent and kept."""

    body: Packed | bytes
    tag: str
    is_kept: bool

    @classmethod
    def of(cls, about: Mapping[str, Any], tag: str, is_kept: bool) -> Page:
        return cls(beginning_of(as_json(about)[:-1]), tag, is_kept)

    def given(self, times: Times) -> Kept:
        return Kept.ending(self.body, b',"timing":%s}' % as_json(timing(times)), self.tag)


@dataclass(frozen=True)
class Begun:
    """An answer whose rows are to be streamed."""

    result: Result
    about: dict[str, Any]
    start: int
    count: int
    tag: str


def _made(request: Request, question: Question, served: Served, corpus: LocalCorpus) -> Page | Begun | Response:
    """An answer, as far as it is made in one turn."""
    result, form, most = corpus.query(question.query), question.format, served.settings.most_rows
    of = identity(result)
    tag = tag_of(of, form, question.limit, question.cursor)
    if (known := unchanged(request, tag)) is not None:
        return known
    cursor = Cursor.read(question.cursor, of)
    if form in ("svg", "png"):
        return Response(drawn(result, form), 200, headers_of(tag), FORMS[form])
    usual = JSON_ROWS if form == "json" else most
    limit = min(most, usual if question.limit is None else question.limit)
    total = len(result)
    if form in ("csv", "jsonl") and question.limit is None and total > cursor.start + most:
        message = f"The answer has more than {most:,} rows."
        raise LimitReached(message, "Add .limit(...), or ask for parts with limit and cursor.")
    follows = total > cursor.start + limit
    about = {
        **told(result),
        "corpus": served.name_of(result.corpus),
        "censored": result.is_censored,
        "total": total,
        "truncated": follows,
        "cursor": str(Cursor(cursor.start + limit, of)) if follows else None,
        "sql": result.statement.sql,
        "parameters": result.statement.parameters,
    }
    if form != "json":
        return Begun(result, about, cursor.start, limit, tag)
    # An answer that reads one cache alone is decided by that.
    return Page.of({**about, "rows": result.part(cursor.start, limit)[0]}, tag, len(result.snapshots) == 1)


async def _streamed(request: Request, question: Question, served: Served, begun: Begun, times: Times) -> Response:
    batches = begun.result.batches(begun.start, begun.count, ROWS_AT_ONCE)
    # Mistakes that show when rows are made are told as such: the first batch is made before anything is sent.
    first, _ = await served.ask(request, lambda: next(batches))

    async def parts() -> AsyncIterator[bytes]:
        stream, batch = STREAMS[question.format](), first
        yield stream.begin(first.schema, {**begun.about, "timing": timing(times)})
        while batch is not None:
            yield stream.part(batch)
            batch, _ = await served.ask(request, lambda: next(batches, None))
        yield stream.end()

    cursor = begun.about["cursor"]
    headers = headers_of(begun.tag) | ({"X-VLQ-Cursor": cursor} if cursor else {})
    return StreamingResponse(parts(), 200, headers, FORMS[question.format])


NO_TIME = Times(0, 0)
"""What an answer takes that was given before."""


def timing(times: Times) -> dict[str, float]:
    return {"waited": round(times.waited, 2), "took": round(times.took, 2)}


class Stream:
    """An answer as text in parts; of CSV and JSON lines the rows alone."""

    def begin(self, schema: pa.Schema, about: Mapping[str, Any]) -> bytes:
        return b""

    def part(self, batch: pa.RecordBatch) -> bytes:
        raise NotImplementedError

    def end(self) -> bytes:
        return b""


class CsvStream(Stream):
    def begin(self, schema: pa.Schema, about: Mapping[str, Any]) -> bytes:
        return csv_rows([schema.names]).encode()

    def part(self, batch: pa.RecordBatch) -> bytes:
        return csv_rows(row.values() for row in rows_of(pa.Table.from_batches([batch]))).encode()


class JsonlStream(Stream):
    def part(self, batch: pa.RecordBatch) -> bytes:
        return jsonl_rows(rows_of(pa.Table.from_batches([batch]))).encode()


class ArrowStream(Stream):
    """What is said about the rows is in the schema's metadata."""

    def begin(self, schema: pa.Schema, about: Mapping[str, Any]) -> bytes:
        self._sink = io.BytesIO()
        said = json.dumps(plain(about), ensure_ascii=False, allow_nan=False)
        self._writer = pa.ipc.new_stream(self._sink, schema.with_metadata({"vlq": said}))
        return self._taken()

    def part(self, batch: pa.RecordBatch) -> bytes:
        self._writer.write_batch(batch)
        return self._taken()

    def end(self) -> bytes:
        self._writer.close()
        return self._taken()

    def _taken(self) -> bytes:
        data = self._sink.getvalue()
        self._sink.seek(0)
        self._sink.truncate()
        return data


STREAMS: Mapping[str, type[Stream]] = {"csv": CsvStream, "jsonl": JsonlStream, "arrow": ArrowStream}


DRAWING = Lock()
"""Matplotlib draws one figure at a time."""


def drawn(result: Result, form: str) -> bytes:
    """A picture of an answer. Raises MissingExtra, BadArgument if there is nothing to draw."""
    with DRAWING:
        figure = result.plot()
        from vlq.query.plots.style import written

        return written(figure, form)
