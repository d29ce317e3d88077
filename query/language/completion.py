"""Shell completion: what may stand next in a query that is being typed. Commands' options are left to Typer.

The shells' scripts are Typer's too (`vlq --install-completion`): they run `vlq` with the words typed so far in the
environment. A query is one word, in quotes; what is offered is that word as it may go on.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from vlq.query.errors import VlqError
from vlq.query.language.methods import Condition
from vlq.query.language.nodes import Method, Name, walk
from vlq.query.language.parameters import Choice, Flag, Images, Optional, Parameter, Query, Tokens
from vlq.query.language.registry import REQUIRED, Signature, functions, methods
from vlq.query.language.shown import Columns as ColumnNames
from vlq.query.language.shown import OneColumn, Shown
from vlq.query.options import OPTIONS

if TYPE_CHECKING:
    from vlq.query.client.local import LocalCorpus

NAME = re.compile(r"[A-Za-z_]\w*$")
OPERAND = re.compile(r"(^|[(<>=+*/-]|\b(and|or|not)\s)\s*$")
"""Behind this a table is expected."""
COLUMN = re.compile(r"([(\[,<>=+*/-]|\b(and|or|not|in)\s)\s*$")
"""Behind this a column may stand."""


@dataclass(frozen=True)
class Candidate:
    """How a word may go on: all of it, and what that is."""

    text: str
    help: str


Columns = Callable[[str], Mapping[str, str]]
"""What columns can be named, with their types: of the answer that a text ends with, of the images' behind no text."""


def no_columns(before: str) -> Mapping[str, str]:
    return {}


Words = Callable[[str], Mapping[str, str]]
"""Words that begin so and have a token of their own, with what is known of each."""


def no_words(begun: str) -> Mapping[str, str]:
    return {}


@dataclass
class Place:
    """Where a text that was begun ends."""

    call: Signature | None = None  # the innermost call that it is inside of
    before: str = ""  # of a method, the text up to the dot
    is_inside: bool = False  # of any call or list; parentheses that only group are none
    is_list: bool = False  # of that call
    given: set[str] = field(default_factory=set)  # the names of that call's arguments so far
    count: int = 0  # of its arguments before this one
    argument: str | None = None  # the one whose value is being typed, if it is named
    quote: int | None = None  # where a string begins that is not closed

    @property
    def parameter(self) -> Parameter | None:
        """The one whose value is being typed, as far as that can be known."""
        if self.call is None:
            return None
        if self.argument is not None:
            return self.call.parameter(self.argument)
        return self.call.parameters[self.count] if self.count < self.call.positional else None


# --- what may stand next ---------------------------------------------------------------------------------------


def candidates(text: str, quote: str = "'", columns: Columns = no_columns, tokens: Words = no_words) -> list[Candidate]:
    """How a query may go on; nothing where anything might stand. Texts in it are put in `quote`s.

    A single one comes with a second that goes on longer: of one alone a shell thinks that the word ends with it.
    """
    place = place_of(text)
    if place.quote is not None:
        before, quote = text[: place.quote], text[place.quote]
    else:
        name = NAME.search(text)
        before = text[: name.start()] if name else text
    if place.quote is not None and place.parameter is not None and isinstance(place.parameter.type, Tokens):
        begun = text[place.quote + 1 :]
        ways = {f"{quote}{word}{quote}": meaning for word, meaning in tokens(begun).items() if quote not in word}
    else:
        ways = dict(words(before, place, quote, columns))
    found = {before + word: meaning for word, meaning in ways.items()}
    fitting = [Candidate(whole, meaning) for whole, meaning in found.items() if whole.startswith(text)]
    if len(fitting) == 1:
        (only,) = fitting
        fitting.append(Candidate(only.text + following(only.text, quote), only.help))
    return fitting


def place_of(text: str) -> Place:
    """Where a text ends, whatever is wrong with it."""
    places, quote, i = [Place()], None, 0
    while i < len(text):
        character, here = text[i], places[-1]
        if character in "\"'":
            end = closing(text, i)
            if end is None:
                quote = i
                break
            i = end
        elif character == "[":
            places.append(replace(here, is_inside=True, is_list=True))
        elif character == "(":
            name = NAME.search(text[:i])
            before = text[: name.start() - 1] if name and text[: name.start()].endswith(".") else ""
            places.append(Place(called(text[:i]), before, here.is_inside or name is not None))
        elif character in ")]":
            places = places[:-1] or places
        elif character == "," and not here.is_list:
            here.argument, here.count = None, here.count + 1
        elif character == "=" and (name := NAME.search(text[:i].rstrip())) and text[i + 1 : i + 2] != "=":
            here.argument = name.group()
            here.given.add(here.argument)
        i += 1
    return replace(places[-1], quote=quote)


def closing(text: str, start: int) -> int | None:
    """Where the string that begins at `start` ends."""
    i = start + 1
    while i < len(text) and text[i] != text[start]:
        i += 2 if text[i] == "\\" else 1
    return i if i < len(text) else None


def called(before: str) -> Signature | None:
    """The function or method whose name a text ends with."""
    name = NAME.search(before)
    if name is None:
        return None
    entries: Mapping[str, Signature] = methods() if before[: name.start()].endswith(".") else functions()
    return entries.get(name.group())


def words(before: str, place: Place, quote: str, columns: Columns) -> dict[str, str]:
    """What may come behind a text, with what it is."""
    call, parameter = place.call, place.parameter
    if place.quote is not None and place.argument is None:
        return {}
    if before.endswith("."):
        return {f"{entry.name}(": entry.documentation for entry in methods().values()}
    found: dict[str, str] = {}
    if parameter is not None and place.quote is None and COLUMN.search(before):
        found |= column_words(parameter, place, columns)
    if place.is_list:
        return found
    if place.argument is not None:
        return found if parameter is None else found | values(parameter, quote)
    if not place.is_inside:
        tables = [entry for entry in functions().values() if entry.is_table]
        return {f"{entry.name}(": entry.documentation for entry in tables} if OPERAND.search(before) else {}
    if call is None or before.rstrip()[-1:] not in ("(", ","):
        return found
    by_place = place.count - len(place.given)  # so many arguments stand without their names
    found |= {
        f"{parameter.name}=": parameter.documentation
        for parameter in call.parameters[by_place:]
        if parameter.name not in place.given
    }
    for parameter in call.parameters[by_place : call.positional]:
        found |= fitting_functions(parameter)
    return found


def column_words(parameter: Parameter, place: Place, columns: Columns) -> Mapping[str, str]:
    """The columns that a parameter takes: the answer's that a method is of, or the images'."""
    kind = parameter.type.type if isinstance(parameter.type, Optional) else parameter.type
    if isinstance(kind, ColumnNames | OneColumn | Condition):
        return columns(place.before)
    return columns("") if isinstance(kind, Images) else {}


def columns_of(url: str | None, before: str) -> Mapping[str, str]:
    """`Columns` of a cache on this machine, by default of the one that is asked; none of what cannot be answered."""
    from vlq.query.cache.reader import Cache, default_url
    from vlq.query.client.local import LocalCorpus

    url = url or default_url()
    if "://" in url:
        return {}
    try:
        return columns_in(LocalCorpus(Cache.open(url)), before)
    except VlqError:
        return {}


def columns_in(corpus: LocalCorpus, before: str) -> Mapping[str, str]:
    """`Columns` of a corpus; none of what cannot be answered."""
    from vlq.query.language.parse import parse

    try:
        # What is open around it is closed; the answer that the text ends with is the last one that is cut.
        whole = parse(f"{before}.limit(1){closers(before)}" if before else "images().limit(1)")
        cut = [node for node in walk(whole) if isinstance(node, Method) and node.method == "limit"][-1]
        table = corpus.query(cut).table
        assert isinstance(table, Shown)
        columns = table.columns(table.table.shape)
    except VlqError:
        return {}
    return {str(Name(name)): column.kind or "several values" for name, column in columns.items()}


def closers(text: str) -> str:
    """What closes all that is open at a text's end."""
    found: list[str] = []
    i: int | None = 0
    while i is not None and i < len(text):
        if text[i] in "\"'":
            i = closing(text, i)
        elif text[i] in "([":
            found.append(")" if text[i] == "(" else "]")
        elif text[i] in ")]":
            found = found[:-1]
        i = None if i is None else i + 1
    return "".join(reversed(found))


def values(parameter: Parameter, quote: str) -> dict[str, str]:
    """The values that a parameter can have, where there are a few."""
    kind = parameter.type.type if isinstance(parameter.type, Optional) else parameter.type
    match kind:
        case Choice():
            return {f"{quote}{option}{quote}": parameter.documentation for option in kind.options}
        case Flag():
            return {str(value): parameter.documentation for value in (True, False)}
    return fitting_functions(parameter)


def fitting_functions(parameter: Parameter) -> dict[str, str]:
    """The functions that a parameter takes: those that stand for tokens, or that can be asked."""
    if not isinstance(parameter.type, Tokens | Query):
        return {}
    asked = isinstance(parameter.type, Query)
    return {f"{entry.name}(": entry.documentation for entry in functions().values() if entry.is_table == asked}


def following(text: str, quote: str) -> str:
    """What can follow on a single candidate."""
    place = place_of(text)
    if text.endswith("(") and place.call is not None:
        return f"{place.call.parameters[0].name}=" if place.call.parameters else ")"
    if text.endswith("="):
        parameter = None if place.call is None else place.call.parameter(place.argument or "")
        default = REQUIRED if parameter is None else parameter.default
        return quote if default is REQUIRED or isinstance(default, str) else str(default)
    return ")"


# --- what a shell asks -----------------------------------------------------------------------------------------


def answer(shell: str, commands: Mapping[str, Callable[[], str]], formats: Sequence[str]) -> str | None:
    """What the shell's script prints for the words typed so far; None where that is for Typer to say.

    `commands` give a line about each command.
    """
    if shell not in PRINTED:
        return None
    *before, (raw, word) = typed(shell)
    earlier = [meant for _, meant in before]
    if earlier and earlier[0] in commands:
        return None
    is_asked = any("(" in meant for meant in earlier)
    found: list[Candidate] = []
    value = OPTIONS[earlier[-1]].value if earlier and earlier[-1] in OPTIONS else None
    if value is not None:  # files a shell completes by itself
        found = [Candidate(form, "") for form in formats if value == "FORMAT" and form.startswith(word)]
    elif word.startswith("-"):
        if not earlier:
            return None
        found = [Candidate(name, option.help) for name, option in OPTIONS.items() if name.startswith(word)]
    elif not is_asked:
        url = earlier[earlier.index("--cache") + 1] if "--cache" in earlier[:-1] else None
        found = candidates(word, '"' if raw.startswith("'") else "'", partial(columns_of, url))
    if raw[:1] in ('"', "'") or "(" in word:
        return PRINTED[shell](found, False)
    # What is no word yet but a query gets its quote, and its first word may be a command as well.
    found = [Candidate(f'"{one.text}' if "(" in one.text else one.text, one.help) for one in found]
    named = [Candidate(name, commands[name]()) for name in commands if not earlier and name.startswith(word)]
    return PRINTED[shell](named + found, True)


def typed(shell: str) -> list[tuple[str, str]]:
    """The words behind `vlq` up to the one that is being typed, each as it is written and as it is meant."""
    if shell == "bash":
        given = os.environ.get("COMP_WORDS", "").split("\n")[1 : int(os.environ.get("COMP_CWORD", "0")) + 1]
        return [shell_words(word)[0] for word in given] or [("", "")]
    return shell_words(os.environ.get("_TYPER_COMPLETE_ARGS", ""))[1:] or [("", "")]


def shell_words(line: str) -> list[tuple[str, str]]:
    """The words of a command line, as written and as meant. The last one may have an open quote, or be nothing yet."""
    found = []
    raw = meant = quote = ""
    characters = iter(line)
    for character in characters:
        if not quote and character.isspace():
            found += [(raw, meant)] * bool(raw)
            raw = meant = ""
            continue
        raw += character
        if character == "\\" and quote != "'":
            escaped = next(characters, "")
            raw += escaped
            meant += escaped if not quote or escaped in '"\\$`' else character + escaped
        elif quote:
            if character == quote:
                quote = ""
            else:
                meant += character
        elif character in "\"'":
            quote = character
        else:
            meant += character
    return [*found, (raw, meant)]


def for_bash(found: Sequence[Candidate], is_quote_new: bool) -> str:
    return "\n".join(one.text for one in found)


def for_fish(found: Sequence[Candidate], is_quote_new: bool) -> str:
    """fish puts what needs it in quotes by itself. Whether there is anything is asked for first."""
    if os.environ.get("_TYPER_COMPLETE_FISH_ACTION") == "is-args":
        raise SystemExit(0 if found else 1)
    taken = '"' if is_quote_new else ""
    return "\n".join(f"{one.text.removeprefix(taken)}\t{one.help}" for one in found)


def for_zsh(found: Sequence[Candidate], is_quote_new: bool) -> str:
    """zsh evaluates it: words, and what is shown for each. Those with a quote of their own are taken as they are."""
    parts = []
    for how, group in (
        ("-U -Q -S ''" if is_quote_new else "-S ''", [one for one in found if "(" in one.text]),
        ("", [one for one in found if "(" not in one.text]),
    ):
        if group:
            shown = " ".join(shlex.quote(f"{one.text}  {one.help}".rstrip()) for one in group)
            texts = " ".join(shlex.quote(one.text) for one in group)
            parts.append(f"shown=({shown}); compadd {how} -l -d shown -- {texts}")
    return "; ".join(["local -a shown", *parts]) if parts else ""


PRINTED: Mapping[str, Callable[[Sequence[Candidate], bool], str]] = {
    "bash": for_bash,
    "zsh": for_zsh,
    "fish": for_fish,
}
