"""What can go wrong, said so that a person knows what to do next.

Every error that a user can cause is a `VlqError`. The command line prints it on stderr and exits with 2; the
service answers with its `kind`; nobody shows a traceback for it.
"""

from vlq.query.pointed import pointed


class VlqError(Exception):
    """A mistake or a condition that the user can act on.

    `kind` is stable and machine-readable, `message` says what was expected and what was got, `hint` says what
    to do next. `query` and `span` (start and end offsets into it) point at the spot, where there is one.
    """

    kind = "error"

    def __init__(
        self,
        message: str,
        hint: str | None = None,
        *,
        query: str | None = None,
        span: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.query = query
        self.span = span

    def __str__(self) -> str:
        return self.told()

    def told(self, width: int | None = None) -> str:
        """What is to be said, for a terminal of so many columns: of a long query what is around the spot."""
        lines = [self.message]
        if self.query is not None and self.span is not None:
            lines += pointed(self.query, self.span, width)
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross process borders (Ray); the default would call the constructor with `args` alone.
        return _rebuild, (type(self), self.message, self.hint, self.query, self.span)


def _rebuild(
    cls: type[VlqError], message: str, hint: str | None, query: str | None, span: tuple[int, int] | None
) -> VlqError:
    return cls(message, hint, query=query, span=span)


def printable(text: str) -> str:
    """A text on one line. Names come from files: control characters would disturb the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)


class QueryError(VlqError):
    """The query's text or its names are wrong."""

    kind = "query"


class SyntaxMistake(QueryError):
    """The text is not a VLQ expression."""

    kind = "syntax"


class Unfinished(VlqError):
    """A query that is still being typed: more has to follow, or may."""

    kind = "unfinished"


class UnknownName(QueryError):
    """A function, argument or column that does not exist."""

    kind = "unknown-name"


class BadArgument(QueryError):
    """An argument of the wrong type or outside its range."""

    kind = "bad-argument"


class SqlMistake(QueryError):
    """A statement of SQL that DuckDB does not understand, or that is not for use here."""

    kind = "sql"


class LimitReached(VlqError):
    """A statement of SQL was stopped, or its answer not given: it needs more than it may take."""

    kind = "limit"


class UnknownToken(QueryError):
    """A word that the model's vocabulary does not hold as one piece."""

    kind = "unknown-token"


class CacheError(VlqError):
    """The cache is missing, broken, or of another kind than asked for."""

    kind = "cache"


class NoCache(CacheError):
    """There is no cache at the URL, or no URL was given."""

    kind = "no-cache"


class NewerFormat(CacheError):
    """The cache was written by a newer VLQ."""

    kind = "newer-format"


class OlderFormat(CacheError):
    """The cache was written by an older VLQ, in a format that is no longer read."""

    kind = "older-format"


class CacheMismatch(CacheError):
    """The cache holds another run than the one asked for."""

    kind = "cache-mismatch"


class CorruptCache(CacheError):
    """Stored bytes are not what was written."""

    kind = "corrupt-cache"


class StoreError(VlqError):
    """The storage refused: full disk, missing permission, unreachable."""

    kind = "store"


class StoreStopped(StoreError):
    """The storage is full, or credentials have expired: it does nothing until somebody sees to it."""


class InputError(VlqError):
    """The images given cannot be listed or their manifest cannot be read."""

    kind = "input"


class ModelError(VlqError):
    """The model cannot be loaded or fails a check at load."""

    kind = "model"


class RunError(VlqError):
    """The run could not go on."""

    kind = "run"


class ServiceError(VlqError):
    """A service cannot be reached, or does not answer as one."""

    kind = "service"


class BadRequest(ServiceError):
    """A request that is not one of the API's."""

    kind = "bad-request"


class NotAllowed(ServiceError):
    """A service wants a token, or another one."""

    kind = "not-allowed"


class Forbidden(NotAllowed):
    """It is for others than who asks."""

    kind = "forbidden"


class NotFound(ServiceError):
    """A service has nothing of that name."""

    kind = "not-found"


class Busy(ServiceError):
    """A service has as much to do as it takes on. Asking again later helps."""

    kind = "busy"


class Forked(VlqError):
    """A process was forked off one that had read a cache: what reads does not work in it."""

    kind = "forked"


class MissingExtra(VlqError):
    """A part of VLQ that is not installed here."""

    kind = "missing-extra"


def of_kind(kind: str) -> type[VlqError]:
    """The error that is of this kind; of one that only a later VLQ knows VlqError."""
    waiting: list[type[VlqError]] = [VlqError]
    while waiting:
        error = waiting.pop()
        if error.kind == kind:
            return error
        waiting += error.__subclasses__()
    return VlqError
