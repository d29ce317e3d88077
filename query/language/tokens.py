"""Which tokens a word means: text -> ids of the cache's vocabulary.

A lens brings its own vocabulary table; beyond this module an id is only a number.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from propcache.api import cached_property

from vlq.query.errors import VlqError
from vlq.query.language.nodes import Arithmetic, Call, Literal, Logic, Name, Node, Sequence
from vlq.query.language.parameters import Tokens, whole
from vlq.query.language.registry import functions
from vlq.query.mistakes.calls import UNQUOTED
from vlq.query.mistakes.table import Mistake
from vlq.query.mistakes.tokens import (
    EMPTY_WORD,
    INSIDE_ONLY,
    MEANT,
    NO_ID,
    NO_MATCH,
    NO_PATTERN,
    NO_PIECE,
    NO_TOKENIZER,
    NO_WORD,
    NOT_SPELLED,
    ONLY_BY_NUMBER,
    SEVERAL_PIECES,
    WORD_LENGTH,
)
from vlq.query.mistakes.values import EXPECTED, LIST

if TYPE_CHECKING:
    import duckdb

    from vlq.query.language.bind import Scope

WORD_START = ("▁", "Ġ")
"""What tokenizers put before a piece that begins a word: SentencePiece's mark and byte-level BPE's."""

NEAREST = 3
"""How many words are offered for one that is not there."""

LONGEST_COMPARED = 40
"""Longer words are not compared with the vocabulary's."""


@dataclass(frozen=True)
class Token:
    """A row of the vocabulary. Without a tokenizer's piece, as in padded vocabularies, there is only the number."""

    id: int
    piece: str | None
    text: str | None

    def __str__(self) -> str:
        return str(self.id) if self.piece is None else f"{self.piece} ({self.id})"


@dataclass(frozen=True)
class TokenSet:
    """The tokens that a query asks for, by ascending id, and what to call them."""

    label: str
    tokens: tuple[Token, ...]
    notes: tuple[str, ...] = ()
    only_first: tuple[int, ...] = ()  # of their ids those that count where an answer begins, and nowhere else

    @property
    def ids(self) -> tuple[int, ...]:
        return tuple(token.id for token in self.tokens)

    @property
    def anywhere(self) -> frozenset[int]:
        """The ids that count wherever they are."""
        return frozenset(self.ids).difference(self.only_first)

    @property
    def words(self) -> list[str]:
        """What the tokens spell, without the spaces around it; of those that have a text."""
        return [token.text.strip() for token in self.tokens if token.text is not None]

    def with_ids(self) -> TokenSet:
        """The same, also called by its ids."""
        return replace(self, label=f"{self.label} ({', '.join(map(str, self.ids))})")


class Vocabulary:
    """A cache's vocabulary table in memory. `connect` gives a DuckDB cursor that can read it."""

    def __init__(self, connect: Callable[[], duckdb.DuckDBPyConnection], path: str, tokenizer: str | None) -> None:
        self._connect = connect
        self._path = path
        self._tokenizer_path = tokenizer
        rows = connect().execute("SELECT piece, text, word_start FROM read_parquet($1) ORDER BY id", [path]).fetchall()
        self._pieces = [piece for piece, _, _ in rows]
        self._texts: list[str | None] = [text for _, text, _ in rows]
        self._starts = [start for _, _, start in rows]

    def __len__(self) -> int:
        return len(self._pieces)

    def token(self, id: int) -> Token:
        return Token(id, self._pieces[id], self._texts[id])

    @cached_property
    def folded(self) -> list[str]:
        """Every token's text with its case folded, by id; an empty one of those without."""
        return [(text or "").casefold() for text in self._texts]

    def holding(self, text: str) -> list[int]:
        """Ids of the tokens whose text holds this one, case folded."""
        wanted = text.casefold()
        return [id for id, own in enumerate(self.folded) if wanted in own]

    def starts_word(self, id: int) -> bool:
        """Whether the token begins a word."""
        return bool(self._starts[id])

    def tokens(self, ids: Iterable[int]) -> tuple[Token, ...]:
        return tuple(self.token(id) for id in sorted(set(ids)))

    @cached_property
    def _words(self) -> Mapping[str, list[int]]:
        """Ids that begin a word, by the word with its case folded."""
        return self._by_word(start=True)

    @cached_property
    def _inner(self) -> Mapping[str, list[int]]:
        """Ids that go on with a word, by their text with its case folded."""
        return self._by_word(start=False)

    def _by_word(self, start: bool) -> Mapping[str, list[int]]:
        found = defaultdict(list)
        for id, (text, starts) in enumerate(zip(self._texts, self._starts, strict=True)):
            if text is not None and starts == start:
                found[text.strip().casefold()].append(id)
        return found

    @cached_property
    def _by_piece(self) -> Mapping[str, int]:
        return {piece: id for id, piece in enumerate(self._pieces) if piece is not None}

    def by_word(self, word: str, pieces: bool) -> list[int]:
        """Word-start ids whose text is the word, case folded; with `pieces` those inside of words too."""
        key = word.strip().casefold()
        return self._words.get(key, []) + (self._inner.get(key, []) if pieces else [])

    def without_space(self, sets: Iterable[TokenSet]) -> tuple[Token, ...]:
        """The pieces that spell the words that sets are called by, and are not in them."""
        found = set[int]()
        for tokens in sets:
            words = {word.casefold() for word in tokens.words}.intersection(tokens.label.casefold().split(", "))
            found.update(id for word in words for id in self._inner.get(word, []) if id not in tokens.ids)
        return self.tokens(found)

    @cached_property
    def _specials(self) -> tuple[str, ...]:
        found = self._connect().execute("SELECT piece FROM read_parquet($1) WHERE special AND piece > ''", [self._path])
        return tuple(piece for (piece,) in found.fetchall())

    def is_open(self, prompt: str, ids: tuple[int, ...] = ()) -> bool:
        """Whether a word may follow a prompt, whose ids may be known, without a space before it: behind white space, as
        chat templates have it there, or a special token. Behind 'ASSISTANT:' none does."""
        # Some processors put a line break behind every prompt.
        ends = [prompt, *(self._texts[id] or self._pieces[id] or "" for id in ids[-1:])]
        return any(end[-1:].isspace() or end.endswith(self._specials) for end in ends)

    def by_piece(self, piece: str) -> int | None:
        return self._by_piece.get(piece)

    def matching(self, pattern: str, pieces: bool) -> list[int]:
        """Ids whose text, without the space before it, matches a regular expression (RE2) anywhere, case folded."""
        found = (
            self._connect()
            .execute(
                "SELECT id FROM read_parquet($path) "
                "WHERE (word_start OR $pieces) AND NOT special AND regexp_matches(ltrim(text, ' '), $pattern, 'i')",
                {"path": self._path, "pieces": pieces, "pattern": pattern},
            )
            .fetchall()
        )
        return [id for (id,) in found]

    def nearest(self, word: str) -> list[str]:
        """Words of the vocabulary that differ from this one by few letters, the nearest first."""
        key = word.strip(" ▁Ġ").casefold()
        allowed = 1 + len(key) // 4
        if not key or len(key) > LONGEST_COMPARED:
            return []
        found = (
            self._connect()
            .execute(
                "SELECT word FROM (SELECT DISTINCT lower(trim(text)) AS word FROM read_parquet($path) WHERE word_start)"
                " WHERE abs(length(word) - $length) <= $allowed AND damerau_levenshtein(word, $word) <= $allowed"
                " ORDER BY damerau_levenshtein(word, $word), abs(length(word) - $length), word LIMIT $limit",
                {"path": self._path, "word": key, "length": len(key), "allowed": allowed, "limit": NEAREST},
            )
            .fetchall()
        )
        return [word for (word,) in found]

    def spell(self, word: str) -> list[int]:
        """The ids of the pieces that the tokenizer spells a word with."""
        # Byte-level tokenizers begin a word only behind a space.
        spelled = [self._tokenizer.encode(text, add_special_tokens=False).ids for text in (word, f" {word}")]
        starting = [ids for ids in spelled if ids and self._starts[ids[0]]]
        return list((starting or spelled)[0])

    @cached_property
    def _tokenizer(self) -> Any:
        if self._tokenizer_path is None:
            return None
        from tokenizers import Tokenizer

        return Tokenizer.from_file(self._tokenizer_path)

    @property
    def has_tokenizer(self) -> bool:
        return self._tokenizer_path is not None

    def beginning_with(self, id: int) -> int:
        """How many words of the vocabulary begin with this piece's text; itself counts."""
        text = self._texts[id] or ""
        rows = zip(self._texts, self._starts, strict=True)
        return sum(starts and word is not None and word.startswith(text) for word, starts in rows)


# --- words by themselves ---------------------------------------------------------------------------------------


class Reader(Protocol):
    """Whoever asks what a word means: a query's scope, or `Alone`."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    @property
    def pieces(self) -> bool: ...

    def error(self, mistake: Mistake, node: Node, **values: object) -> VlqError: ...


@dataclass(frozen=True)
class Alone:
    """Words in no query: a mistake has no place to point at."""

    vocabulary: Vocabulary
    pieces: bool = False

    def error(self, mistake: Mistake, node: Node, **values: object) -> VlqError:
        if mistake.alone:
            mistake = replace(mistake, hint=mistake.alone, near=f"{MEANT}\n{mistake.alone}")
        return mistake.error(None, None, **{"got": node, **values})


def tokens_of(words: Iterable[str], name: str, vocabulary: Vocabulary) -> tuple[Token, ...]:
    """The tokens that words mean in queries, a number being an id. Raises UnknownToken, BadArgument."""
    reader = Alone(vocabulary)
    found: set[int] = set()
    for word in words:
        if word.isascii() and word.isdigit():
            if int(word) >= len(vocabulary):
                raise reader.error(NO_ID, Literal(int(word)), name=name, last=len(vocabulary) - 1)
            found.add(int(word))
        else:
            found.update(_word(word, Literal(word), name, reader).ids)
    return vocabulary.tokens(found)


# --- from a query's node ---------------------------------------------------------------------------------------


def resolve(node: Node, name: str, scope: Scope) -> TokenSet:
    """The tokens that an argument means. Raises UnknownToken with the nearest ones, BadArgument."""
    vocabulary = scope.vocabulary
    match node:
        case Literal(value=str(word)):
            return _word(word, node, name, scope)
        case Literal() if (id := whole(node)) is not None:
            if not 0 <= id < len(vocabulary):
                raise scope.error(NO_ID, node, name=name, last=len(vocabulary) - 1)
            token = vocabulary.token(id)
            return TokenSet(token.piece or str(id), (token,))
        case Sequence(is_list=True, items=items) if items:
            sets = [resolve(item, name, scope) for item in items]
            notes = tuple(dict.fromkeys(note for found in sets for note in found.notes))
            ids = [id for found in sets for id in found.ids]
            return TokenSet(", ".join(dict.fromkeys(found.label for found in sets)), vocabulary.tokens(ids), notes)
        case Call(function=function) if (tokens := functions()[function].tokens) is not None:
            return tokens(node, scope)
        case Name():
            raise scope.error(UNQUOTED, node, name=name)
        case Sequence(is_list=False, items=items) if items:
            raise scope.error(LIST, node, name=name, expected=Tokens.expected, list=Sequence(items, True))
        case Logic(operands=operands) if all(map(_is_word, operands)):
            raise scope.error(LIST, node, name=name, expected=Tokens.expected, list=Sequence(operands, True))
        case Arithmetic(left=left, right=right) if _is_word(left) and _is_word(right):
            raise scope.error(LIST, node, name=name, expected=Tokens.expected, list=Sequence((left, right), True))
    raise scope.error(EXPECTED, node, name=name, expected=Tokens.expected)


def resolve_in_answer(node: Node, name: str, scope: Scope) -> TokenSet:
    """The same of an argument that is looked for in answers, or where one begins: many tokenizers put no space in front
    of its first word, so that there it is a piece that is inside of words elsewhere. Raises as `resolve` does."""
    found, with_pieces = resolve(node, name, scope), resolve(node, name, replace(scope, pieces=True))
    only_first = tuple(id for id in with_pieces.ids if id not in found.ids)
    return replace(found, tokens=with_pieces.tokens, only_first=only_first)


def _is_word(node: Node) -> bool:
    return isinstance(node, Literal) and isinstance(node.value, str)


def _word(word: str, node: Node, name: str, scope: Reader) -> TokenSet:
    vocabulary = scope.vocabulary
    if not word.strip():
        raise scope.error(EMPTY_WORD, node, name=name)
    if word.startswith(WORD_START):
        id = vocabulary.by_piece(word)
        if id is None:
            raise scope.error(NO_PIECE, node, word=word, near=_near(word, scope))
        return TokenSet(word, vocabulary.tokens([id]))
    ids = vocabulary.by_word(word, scope.pieces)
    if not ids:
        raise _unknown(word, node, scope)
    return TokenSet(word.strip(), vocabulary.tokens(ids))


def _near(word: str, scope: Reader) -> str:
    """'dog', 'does' or 'doll'; nothing if no word is near."""
    words = [repr(other) for other in scope.vocabulary.nearest(word)]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _unknown(word: str, node: Node, scope: Reader) -> VlqError:
    vocabulary = scope.vocabulary
    said = {"word": word.strip(), "near": _near(word, scope)}
    if inside := vocabulary.by_word(word, pieces=True):
        shown = ", ".join(map(str, vocabulary.tokens(inside[:NEAREST])))
        return scope.error(INSIDE_ONLY, node, **said, inside=shown)
    if (id := vocabulary.by_piece(word)) is not None:
        return scope.error(ONLY_BY_NUMBER, node, word=word, id=id)
    if vocabulary.has_tokenizer and len(word) <= LONGEST_COMPARED and (spelled := vocabulary.spell(word.strip())):
        pieces = " ".join(vocabulary.token(id).piece or str(id) for id in spelled)
        share = vocabulary.beginning_with(spelled[0])
        sharing = f"{share} words share" if share != 1 else "1 word has"
        first = vocabulary.token(spelled[0])
        return scope.error(SEVERAL_PIECES, node, **said, pieces=pieces, first=first, sharing=sharing)
    return scope.error(NO_WORD, node, **said)


# --- functions that give tokens --------------------------------------------------------------------------------


def _text(call: Call, scope: Scope) -> tuple[Node, str]:
    """The one argument of a token function: its node and its text."""
    ((name, node),) = call.arguments
    parameter = functions()[call.function].parameter(name)
    assert parameter is not None
    return node, parameter.type.bind(node, name, scope)


def matching(call: Call, scope: Scope) -> TokenSet:
    """Every token whose text matches a regular expression."""
    import duckdb

    node, pattern = _text(call, scope)
    try:
        ids = scope.vocabulary.matching(pattern, scope.pieces)
    except duckdb.Error as error:
        reason = str(error).strip().splitlines()[0].partition(": ")[2] or str(error)
        raise scope.error(NO_PATTERN, node, reason=reason) from error
    if not ids:
        raise scope.error(NO_MATCH, node)
    return TokenSet(str(call), scope.vocabulary.tokens(ids))


def prefix(call: Call, scope: Scope) -> TokenSet:
    """The first piece of a word that the tokenizer spells in several."""
    vocabulary = scope.vocabulary
    node, word = _text(call, scope)
    if not 0 < len(word.strip()) <= LONGEST_COMPARED:
        raise scope.error(WORD_LENGTH, node, most=LONGEST_COMPARED)
    if not vocabulary.has_tokenizer:
        raise scope.error(NO_TOKENIZER, call)
    spelled = vocabulary.spell(word.strip())
    if not spelled:
        raise scope.error(NOT_SPELLED, node)
    token = vocabulary.token(spelled[0])
    if len(spelled) == 1:
        note = f"{call}: {token} is the whole word."
    else:
        share = vocabulary.beginning_with(token.id)
        words = f"{share} words of the vocabulary begin" if share != 1 else "1 word of the vocabulary begins"
        note = f"{call}: its first of {len(spelled)} pieces is {token}; {words} with it."
    return TokenSet(str(call), (token,), (note,))
