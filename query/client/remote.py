"""A corpus behind a service (`vlq serve`): the same questions and the same answers, over HTTP.

What is asked is checked when it is asked, as it is of a cache here; rows come as a stream of Arrow
when they are wanted.
"""

from __future__ import annotations

import json
import os
import time
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import urlsplit

from propcache.api import cached_property

from vlq.query.answers.answer import SHOWN_ROWS, Answer
from vlq.query.answers.asked import Asked, question
from vlq.query.answers.files import plot_form, write_whole
from vlq.query.arrow import rows_of
from vlq.query.client.corpus import Corpus
from vlq.query.errors import Busy, NotAllowed, NotFound, ServiceError, of_kind
from vlq.query.functions.compare import named_caches
from vlq.query.language.nodes import Node
from vlq.query.language.parse import parse
from vlq.query.limits import Limits
from vlq.query.summary import Rows, Summary, count

if TYPE_CHECKING:
    import httpx2
    import pyarrow as pa

T = TypeVar("T")

ATTEMPTS = 4
"""How often a question is asked of a service that is busy or gone, waiting longer each time."""

FIRST_WAIT = 0.25
"""Seconds until a question is asked for the second time."""

LONGEST_WAIT = 10.0
"""Seconds between two attempts at most, whatever the service asks for."""

CONNECT, READ = 10.0, 300.0
"""Seconds to wait for a connection, and for the next bytes of an answer: queries have limits of the service's own."""

ARROW = "application/vnd.apache.arrow.stream"

TOKEN = "VLQ_TOKEN"
"""The environment variable with the token that lets one in."""


class Service:
    """A service's HTTP API."""

    def __init__(self, url: str, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        token = token or os.environ.get(TOKEN)
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._connect()

    def _connect(self) -> None:
        import httpx2

        self._client = httpx2.Client(
            headers=self._headers, timeout=httpx2.Timeout(READ, connect=CONNECT), follow_redirects=True
        )
        self._process = os.getpid()
        weakref.finalize(self, self._client.close)

    def json(self, path: str, body: Mapping[str, Any] | None = None, **values: Any) -> Any:
        """What the API says at a path, to a body if there is one. Raises as the service does, and ServiceError."""

        def read(response: httpx2.Response) -> Any:
            try:
                return json.loads(response.read())
            except ValueError as error:
                raise self._no_service(response) from error

        return self._answer(path, body, values, read)

    def table(self, path: str, body: Mapping[str, Any], **values: Any) -> tuple[pa.Table, dict[str, Any]]:
        """Rows and what is said about them, which the stream's schema holds. Raises as `json` does."""
        import pyarrow as pa

        def read(response: httpx2.Response) -> pa.Table:
            if response.headers.get("content-type") != ARROW:
                raise self._no_service(response)
            stream = _Bytes(response.iter_bytes())
            try:
                found = pa.ipc.open_stream(stream).read_all()
                stream.read()  # up to its end, behind which the connection can be asked again
            except (pa.ArrowInvalid, OSError) as error:
                raise ServiceError(f"{self.url} broke off its answer.", "Ask again.") from error
            return found

        table = self._answer(path, body, values, read)
        about = json.loads(table.schema.metadata[b"vlq"])
        return table.replace_schema_metadata(None), about

    def content(self, path: str, body: Mapping[str, Any] | None = None, **values: Any) -> bytes:
        """The bytes of an answer. Raises as `json` does."""
        return self._answer(path, body, values, lambda response: bytes(response.read()))

    def _answer(
        self,
        path: str,
        body: Mapping[str, Any] | None,
        values: Mapping[str, Any],
        read: Callable[[httpx2.Response], T],
    ) -> T:
        """What is read of an answer that is no error. Whatever is asked changes nothing, so it may be asked again."""
        import httpx2

        if self._process != os.getpid():  # forked off: on one connection processes take each other's answers
            self._connect()
        attempt = 1
        while True:
            wait = FIRST_WAIT * 2 ** (attempt - 1)
            try:
                request = self._client.build_request(
                    "GET" if body is None else "POST", self.url + path, json=body, params=values or None
                )
                response = self._client.send(request, stream=True)
                try:
                    if response.status_code < 300:
                        return read(response)
                    failure = self._error(response, (body or {}).get("query") or (body or {}).get("statement"))
                finally:
                    response.close()
            except (httpx2.InvalidURL, httpx2.UnsupportedProtocol) as error:
                said = str(error).rstrip(".")
                raise ServiceError(f"{self.url} is no URL: {said}.", "Such as http://127.0.0.1:8765/demo") from error
            except httpx2.RequestError as error:
                if attempt == ATTEMPTS or isinstance(error, httpx2.ReadTimeout):
                    reason = str(error).rstrip(".") or type(error).__name__
                    message = f"{self.url} cannot be reached: {reason}."
                    raise ServiceError(message, "Is `vlq serve` running there?") from error
            else:
                if attempt == ATTEMPTS or not isinstance(failure, Busy):
                    raise failure
                asked = response.headers.get("retry-after", "")
                wait = min(LONGEST_WAIT, max(wait, float(asked) if asked.isdecimal() else 0))
            time.sleep(wait)
            attempt += 1

    def _error(self, response: httpx2.Response, query: str | None) -> Exception:
        """The error that a response tells."""
        try:
            told = json.loads(response.read())
            span = told["span"]
            return of_kind(told["kind"])(
                told["message"], told["hint"], query=query, span=None if span is None else tuple(span)
            )
        except (ValueError, KeyError, TypeError):
            if response.status_code in (429, 502, 503, 504):
                return Busy(f"{self.url} does not answer now (HTTP {response.status_code}).", "Ask again later.")
            return self._no_service(response)

    def _no_service(self, response: httpx2.Response) -> ServiceError:
        url, code = response.request.url, response.status_code
        kind = {401: NotAllowed, 403: NotAllowed, 404: NotFound}.get(code, ServiceError)
        return kind(f"{url} is not answered as by VLQ (HTTP {code}).", "Is this the address of a `vlq serve`?")


class _Bytes:
    """The parts of a body as something to read from."""

    closed = False

    def __init__(self, parts: Iterator[bytes]) -> None:
        self._parts = parts
        self._rest = b""

    def read(self, size: int = -1) -> bytes:
        while size < 0 or len(self._rest) < size:
            part = next(self._parts, None)
            if part is None:
                break
            self._rest += part
        found, self._rest = (self._rest, b"") if size < 0 else (self._rest[:size], self._rest[size:])
        return found


class RemoteCorpus(Corpus):
    """A corpus that a service answers for."""

    def __init__(self, service: Service, name: str) -> None:
        self.service = service
        self.name = name

    @classmethod
    def open(cls, url: str, token: str | None = None) -> RemoteCorpus:
        """The corpus at a service's URL: its first one, or that of the name which the URL ends with.

        Raises ServiceError if there is no service, NotFound if it has no such corpus, NotAllowed.
        """
        address = url.partition("?")[0].partition("#")[0].rstrip("/")
        service = Service(address, token)
        try:  # which may be at a path of its host's
            return cls(service, service.json("/v1/corpora")["corpora"][0]["name"])
        except NotFound:
            if not urlsplit(address).path:
                raise
            address, _, name = address.rpartition("/")
            service = Service(address, token)
        try:
            names = [corpus["name"] for corpus in service.json("/v1/corpora")["corpora"]]
        except NotFound as error:  # such as a page's address
            hint = "Give the service's own address, or that with a corpus' name behind it."
            raise NotFound(f"{url} is the address of no corpus.", hint) from error
        if name not in names:
            raise NotFound(f"{address} has no corpus {name}.", f"It has {', '.join(names)}.")
        return cls(service, name)

    @property
    def url(self) -> str:
        return f"{self.service.url}/{self.name}"

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickled, (self.service.url, self.name)  # the token is not to lie in files

    def query(self, query: str | Node | Asked) -> RemoteResult:
        return RemoteResult(self, query if isinstance(query, str) else question(query))

    def _selected(self, statement: str, limits: Limits) -> RemoteAnswer:
        from vlq.query.sql.statement import check_text

        bounds = limits.checked()
        check_text(statement)
        return RemoteAnswer(*self.service.table("/v1/sql", {"corpus": self.name, "statement": statement, **bounds}))

    def sql_tables(self) -> str:
        return str(self.service.json("/v1/sql", corpus=self.name)["text"])

    def _image_file(self, number: int, **bounds: int) -> str:
        return self.service.content(f"/v1/images/{number}/page", None, corpus=self.name, **bounds).decode()

    def annotate(self, table: Any, *, on: str | None = None, replace: bool = False) -> NoReturn:
        raise self._elsewhere("annotate")

    def info(self) -> dict[str, Any]:
        info: dict[str, Any] = self.service.json("/v1/info", corpus=self.name)
        return info

    @property
    def zarr(self) -> NoReturn:
        raise self._elsewhere("zarr")

    @property
    def cache(self) -> NoReturn:
        raise self._elsewhere("cache")

    def _elsewhere(self, what: str) -> ServiceError:
        where = f"Open the cache of {self.name} itself: vlq.open, where its folder or bucket can be read."
        return ServiceError(f"{what} is not to be had through a service.", where)

    def __repr__(self) -> str:
        (about,) = (about for about in self.service.json("/v1/corpora")["corpora"] if about["name"] == self.name)
        images, layers = count(about["images"], "image"), count(about["layers"], "layer")
        return f"<Corpus {self.url}: {images}, {about['model']}, {layers}>"


def _unpickled(service: str, name: str) -> RemoteCorpus:
    return RemoteCorpus(Service(service), name)


class RemoteAnswer(Answer):
    """Rows that a service gave, and what it said about them."""

    def __init__(self, table: pa.Table, about: Mapping[str, Any]) -> None:
        self._table = table
        self._about = about

    @property
    def query(self) -> str:
        return str(self._about["query"])

    @property
    def columns(self) -> list[str]:
        return list(self._about["columns"])

    @cached_property
    def rows(self) -> Rows:
        return rows_of(self._table)

    @property
    def is_censored(self) -> bool:
        return bool(self._about["censored"])

    @property
    def summary(self) -> Summary:
        summary: Summary = summary_of(self._about["summary"])
        return summary

    @property
    def headline(self) -> str:
        return str(self._about["headline"])

    @property
    def tokens(self) -> list[dict[str, Any]]:
        return list(self._about["tokens"])

    @property
    def notes(self) -> list[str]:
        return list(self._about["notes"])

    def arrow(self) -> pa.Table:
        return self._table


class RemoteResult(Asked):
    """What a service answers to one query. Mistakes show when it is made, the rest is asked for when it is wanted."""

    corpus: RemoteCorpus

    def __init__(self, corpus: RemoteCorpus, query: str | Node) -> None:
        self.corpus = corpus
        text = query if isinstance(query, str) else str(query)
        self.node = parse(query) if isinstance(query, str) else query
        self._text = by_names(text, corpus.service.url)
        if self._text != text:
            self.node = parse(self._text)
        self._checked = self._json("/v1/check")

    def _body(self, **values: Any) -> dict[str, Any]:
        return {"corpus": self.corpus.name, "query": self._text, **values}

    def _json(self, path: str, **values: Any) -> Any:
        return self.corpus.service.json(path, self._body(**values))

    @cached_property
    def _first(self) -> RemoteAnswer:
        """The rows that a person is shown, and what is said about all of them."""
        return RemoteAnswer(*self._table(limit=SHOWN_ROWS))

    def _table(self, **values: Any) -> tuple[pa.Table, dict[str, Any]]:
        return self.corpus.service.table("/v1/query", self._body(format="arrow", **values))

    @cached_property
    def _all(self) -> pa.Table:
        import pyarrow as pa

        if len(self) <= SHOWN_ROWS:
            return self._first.arrow()
        parts: list[pa.Table] = []
        cursor = None
        while not parts or cursor is not None:
            table, about = self._table(**({} if cursor is None else {"cursor": cursor}))
            parts.append(table)
            cursor = about["cursor"]
        return pa.concat_tables(parts)

    @property
    def columns(self) -> list[str]:
        return list(self._checked["columns"])

    @cached_property
    def rows(self) -> Rows:
        return rows_of(self._all)

    @property
    def head(self) -> Rows:
        return self._first.rows

    def __len__(self) -> int:
        return int(self._first._about["total"])

    @property
    def is_censored(self) -> bool:
        return self._first.is_censored

    @property
    def summary(self) -> Summary:
        return self._first.summary

    @property
    def headline(self) -> str:
        return self._first.headline

    @property
    def tokens(self) -> list[dict[str, Any]]:
        return list(self._checked["tokens"])

    @property
    def notes(self) -> list[str]:
        return list(self._checked["notes"])

    def arrow(self) -> pa.Table:
        return self._all

    def explain(self) -> str:
        return str(self._json("/v1/explain")["text"])

    def plot(self, path: str | os.PathLike[str] | None = None) -> Picture:
        """A picture that suits the answer, which notebooks show; written to a file too, if its name ends with .png or
        .svg. The service draws it."""
        form = "svg" if path is None else plot_form(os.fspath(path))
        data = self.corpus.service.content("/v1/query", self._body(format=form))
        if path is not None:
            write_whole(os.fspath(path), data, "--plot")
        return Picture(form, data)

    def _asked(self, node: Node) -> RemoteResult:
        return self.corpus.query(node)


class Picture:
    """A drawn answer."""

    def __init__(self, form: str, data: bytes) -> None:
        self.form = form
        self.data = data

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        return {"image/svg+xml": self.data.decode()} if self.form == "svg" else {"image/png": self.data}


def by_names(text: str, service: str) -> str:
    """A query that names corpora as a service does, of one that names some by their addresses there."""
    if f"{service}/" not in text:
        return text
    for named in reversed([*named_caches(parse(text))]):
        address, _, name = str(named.value).rstrip("/").rpartition("/")
        if address == service and named.span is not None:
            start, end = named.span
            text = f"{text[:start]}{name!r}{text[end:]}"
    return text


def summary_of(value: Any) -> Any:
    """A summary as it was before it was JSON, where layers, which histograms count by, are texts."""
    if not isinstance(value, dict):
        return value
    return {
        name: {int(layer): count for layer, count in item.items()} if name == "histogram" else summary_of(item)
        for name, item in value.items()
    }
