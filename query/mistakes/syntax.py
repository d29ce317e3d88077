"""Mistakes of a text that is no expression of the language, whatever it is asked of."""

from __future__ import annotations

from vlq.query.errors import SyntaxMistake
from vlq.query.mistakes.table import Example, Mistake

EXAMPLE = "first_layer(token='dog')"
SUCH_AS = f"Such as {EXAMPLE}"

EMPTY = Mistake(SyntaxMistake, "The query is empty.", f"Ask something, such as {EXAMPLE}", (Example(" "),))
TOO_LONG = Mistake(
    SyntaxMistake,
    "The query has {length:,} characters; at most {most:,} are read.",
    "Images are chosen by a condition, such as images=label == 'beach'.",
    (
        Example(
            f"first_layer('{'a' * 10_000}')",
            "The query has 10,015 characters; at most 10,000 are read.",
            "Images are chosen by a condition, such as images=label == 'beach'.",
        ),
    ),
)
TOO_DEEP = Mistake(
    SyntaxMistake,
    "The query is nested too deeply.",
    SUCH_AS,
    (
        Example("(" * 200 + "⟦(⟧" + "(" * 49),
        Example(f"{'not ' * 101}⟦images()⟧"),
    ),
)
TYPOGRAPHIC_QUOTES = Mistake(
    SyntaxMistake,
    "Typographic quotes do not quote.",
    "Use ' or \" instead.",
    (Example("first_layer(token=⟦‘⟧dog’)"), Example("first_layer(token=⟦“⟧dog”)"), Example("first_layer(⟦`⟧dog`)")),
)
WIDE = Mistake(
    SyntaxMistake,
    "This character is wider than the one that is meant.",
    "Write ( ) [ ] , = < > as plain characters.",
    (Example("first_layer⟦（⟧'dog')"), Example("first_layer('dog'⟦，⟧rank=2)")),
)
SQL = Mistake(
    SyntaxMistake,
    "This is SQL.",
    'It is asked with vlq sql "SELECT ...", over the tables that docs/sql.md lists.',
    (Example("⟦SELECT⟧ image FROM readings_top1 WHERE (token = 286)"),),
)
PER_CENT = Mistake(
    SyntaxMistake,
    "VLQ has no per cent.",
    "Half of them, 50%, are 0.5.",
    (Example("first_layer('dog', min_prob=50⟦%⟧)"),),
)
COMMA_IN_NUMBER = Mistake(
    SyntaxMistake,
    "A comma ends an argument.",
    "A fraction has a point, 0.5; several layers are a window, (5, 8), or a list, [5, 8].",
    (Example("first_layer('dog', min_prob=0⟦,⟧5)"), Example("first_layer('dog', layers=0⟦,⟧8)")),
)
OPEN_QUOTE = Mistake(
    SyntaxMistake,
    "This quote is never closed.",
    f"Close it, as in {EXAMPLE}",
    (Example("first_layer(token=⟦'⟧dog)"), Example("first_layer(token=⟦'⟧▁dog)")),
)
OPEN_PARENTHESIS = Mistake(
    SyntaxMistake, "This parenthesis is never closed.", "Add the missing one.", (Example("first_layer⟦(⟧token='dog'"),)
)
UNOPENED_PARENTHESIS = Mistake(
    SyntaxMistake,
    "This parenthesis was never opened.",
    "Leave it out, or open it.",
    (Example("first_layer(token='dog')⟦)⟧"),),
)
OTHER_PARENTHESIS = Mistake(
    SyntaxMistake,
    "This parenthesis does not fit the one it closes.",
    "( goes with ), [ with ].",
    (Example("first_layer(token=['dog', 'cat'⟦)⟧"),),
)
UNNAMED_BEHIND_NAMED = Mistake(
    SyntaxMistake,
    "An argument without a name stands behind one with a name.",
    f"Name it, as in {EXAMPLE}",
    (Example("first_layer(rank=2, 'dog'⟦)⟧"),),
)
NO_VALUE = Mistake(
    SyntaxMistake,
    "This argument has no value.",
    f"Write one behind the =, as in {EXAMPLE}",
    (Example("first_layer(token⟦=⟧)"),),
)
TWO_WORDS = Mistake(
    SyntaxMistake,
    "Between these words something is missing.",
    "A word is quoted, as in token='dog'; arguments are parted by commas.",
    (Example("first_layer(token=fire⟦ ⟧truck)"),),
)
NO_COMMA = Mistake(
    SyntaxMistake,
    "A comma is missing here.",
    "Arguments are parted by commas. A column whose name is no word is col('file size').",
    (Example("first_layer(⟦'⟧dog' 'cat' rank=2)"), Example("images(⟦f⟧ile size > 1000)")),
)
SINGLE_EQUALS = Mistake(
    SyntaxMistake,
    "A single = stands where two are compared.",
    "== compares; a single = gives an argument its value.",
    (
        Example("first_layer('dog') ⟦=⟧ 5"),
        Example("first_layer('dog', images=label ⟦=⟧ 'beach')"),
        Example("first_layer('dog').where(layer < 5 and label ⟦=⟧ 'beach')"),
    ),
)
HYPHEN = Mistake(
    SyntaxMistake,
    "A hyphen is no part of a name.",
    "Names have _ instead, as in min_prob=0.5",
    (Example("first_layer('dog', ⟦min-prob⟧=0.5)"),),
)
PIECE = Mistake(
    SyntaxMistake, "A piece is not quoted.", "Write it as in first_layer('▁dog')", (Example("first_layer(⟦▁dog⟧)"),)
)
OTHER_LANGUAGE = Mistake(
    SyntaxMistake,
    "This operator is written in another way.",
    "VLQ has <= >= == != and the words and, or, not.",
    (
        Example("images(label == 'beach' ⟦AND⟧ width > 100)"),
        Example("first_layer('dog').where(layer ⟦=>⟧ 5)"),
        Example("first_layer('dog').where(layer < 5 ⟦&&⟧ label == 'beach')"),
        Example("first_layer('dog', images=⟦!⟧(label == 'beach'))"),
    ),
)
OTHER_WORD = Mistake(
    SyntaxMistake,
    "This word is no operator of VLQ.",
    "3 <= layer <= 5 is between, 'bea' in label looks into a text.",
    (
        Example("first_layer('dog').where(layer ⟦between⟧ 3 and 5)"),
        Example("first_layer('dog').where(label ⟦like⟧ 'bea%')"),
        Example("first_layer('dog', images=label ⟦LIKE⟧ 'bea%')"),
    ),
)
DATE = Mistake(
    SyntaxMistake,
    "A date is a text.",
    "Quote it: day >= '2024-01-31'",
    (Example("images(day > ⟦2024-01-31⟧)"),),
)
COLON = Mistake(
    SyntaxMistake,
    "VLQ has no colon.",
    "A window of layers is (5, 8), both of them within it.",
    (Example("first_layer('dog', layers=5⟦:⟧8)"),),
)
NO_DOT = Mistake(
    SyntaxMistake,
    "This word is not joined to what stands before it.",
    "A method follows behind a dot: first_layer('dog').where(layer <= 20)",
    (Example("first_layer('dog') ⟦where⟧ layer < 5"),),
)
UNFINISHED = Mistake(
    SyntaxMistake,
    "The query ends before it is whole.",
    "Something has to follow here, such as first_layer('ear') < first_layer('dog')",
    (
        Example("first_layer('ear') ⟦<⟧"),
        Example("first_layer('ear') < first_layer('dog') ⟦and⟧"),
        Example("first_layer('dog')⟦.⟧"),
    ),
)
NUL = Mistake(SyntaxMistake, "The query holds a NUL character.", "Leave it out.", (Example("first_layer('dog⟦\0⟧')"),))
NO_EXPRESSION = Mistake(
    SyntaxMistake,
    "This is not a VLQ expression.",
    f"A query is a function with its arguments, such as {EXAMPLE}",
    (Example("first_layer(token='dog'⟦;⟧)"),),
)
HALF_CHARACTER = Mistake(
    SyntaxMistake,
    "This is half of a character.",
    "Write the whole character.",
    (Example("first_layer('⟦\ud800⟧')"), Example(r"first_layer(⟦'\ud800'⟧)")),
)

# --- Python that is no part of the language --------------------------------------------------------------------

NOT_PART = Mistake(
    SyntaxMistake,
    "VLQ has no {part}.",
    SUCH_AS,
    (
        Example("first_layer(⟦[word for word in 'ab']⟧)", "VLQ has no comprehension.", SUCH_AS),
        Example("⟦lambda: 1⟧", "VLQ has no lambda.", SUCH_AS),
        Example("first_layer(⟦b'dog'⟧)", "VLQ has no bytes values.", SUCH_AS),
    ),
)
STAR = Mistake(
    SyntaxMistake, "VLQ has no *.", "Write the arguments one by one.", (Example("first_layer(⟦*['dog', 'cat']⟧)"),)
)
SYMBOL_FOR_AND = Mistake(
    SyntaxMistake,
    "VLQ has no & | ~ in text.",
    "In text these are the words `and`, `or` and `not`.",
    (
        Example("first_layer('dog').where(⟦(layer < 5) & (label == 'beach')⟧)"),
        Example("⟦~(first_layer('dog') < 5)⟧"),
    ),
)
MINUS = Mistake(
    SyntaxMistake,
    "Only numbers have a sign.",
    "The other way round: .sort(layer, descending=True); less than nothing: 0 - first_layer('dog')",
    (Example("first_layer('dog').sort(⟦-layer⟧)"), Example("⟦-first_layer('dog')⟧")),
)
IS = Mistake(
    SyntaxMistake,
    "VLQ has no `is`.",
    "Write == or !=, as in label == 'beach'; label == None finds what is empty.",
    (Example("images(⟦label is None⟧)"), Example("images(⟦label is not 'beach'⟧)")),
)
OPERATOR = Mistake(
    SyntaxMistake,
    "VLQ does not have this operator.",
    "It has {known} and, or, not.",
    (
        Example(
            "⟦first_layer('dog') ** 2⟧",
            "VLQ does not have this operator.",
            "It has < <= > >= == != in not in + - * / and, or, not.",
        ),
    ),
)
NOT_CALLED = Mistake(
    SyntaxMistake,
    "A method is called: .{name}(...)",
    "vlq help tells what methods there are.",
    (
        Example(
            "⟦first_layer('dog').count⟧",
            "A method is called: .count(...)",
            "vlq help tells what methods there are.",
        ),
    ),
)
NO_PART = Mistake(
    SyntaxMistake,
    "There is no .{name} here.",
    "Columns are shown by .select(layer), and looked at by .where(layer < 5); objects have labels: 'dog' in objects",
    (
        Example(
            "⟦first_layer('dog').layer⟧",
            "There is no .layer here.",
            "Columns are shown by .select(layer), and looked at by .where(layer < 5); objects have labels: "
            "'dog' in objects",
        ),
        Example(
            "images(⟦objects.label⟧ == 'dog')",
            "There is no .label here.",
            "Columns are shown by .select(layer), and looked at by .where(layer < 5); objects have labels: "
            "'dog' in objects",
        ),
    ),
)
NO_NAME = Mistake(
    SyntaxMistake,
    "Only a function's name can stand before a parenthesis.",
    SUCH_AS,
    (Example("⟦first_layer('dog')⟧('cat')"),),
)
TOO_LARGE = Mistake(
    SyntaxMistake,
    "This number is too large.",
    "Layers, ranks and token ids are small; a probability lies between 0 and 1. Columns of larger numbers: vlq sql",
    (Example("first_layer(⟦9⟧" + "9" * 4999 + ")"), Example("first_layer('dog', min_prob=⟦1e999⟧)")),
)
