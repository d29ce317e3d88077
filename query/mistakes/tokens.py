"""Words that are no token of the cache's vocabulary."""

from __future__ import annotations

from vlq.query.errors import BadArgument, CacheError, UnknownToken
from vlq.query.mistakes.table import Example, Mistake

MEANT = "Did you mean {near}?"
UNKNOWN = "{word!r} is no word of this vocabulary."

NO_WORD = Mistake(
    UnknownToken,
    UNKNOWN,
    "vlq \"tokens('...')\" looks for parts of words.",
    (
        Example(
            "first_layer(⟦'rokc'⟧)",
            "'rokc' is no word of this vocabulary.",
            "Did you mean 'rock'?",
            "other",
        ),
        Example(
            "first_layer(⟦'dachshund'⟧)",
            "'dachshund' is no word of this vocabulary.",
            "vlq \"tokens('...')\" looks for parts of words.",
            "other",
        ),
    ),
    near=MEANT,
)
SPELLED = "Its first piece can be asked for: prefix({word!r}); {sharing} it."
SEVERAL_PIECES = Mistake(
    UnknownToken,
    "{word!r} is not one token of this vocabulary: it is spelled {pieces}.",
    SPELLED,
    (
        Example(
            "first_layer(⟦'dachshund'⟧)",
            "'dachshund' is not one token of this vocabulary: it is spelled ▁da ch sh und.",
            "Its first piece can be asked for: prefix('dachshund'); 3 words share it.",
        ),
        Example(
            "first_layer(⟦'dogg'⟧)",
            "'dogg' is not one token of this vocabulary: it is spelled ▁dog g.",
            "Did you mean 'dog', 'does' or 'doll'?\nIts first piece can be asked for: prefix('dogg'); 1 word has it.",
        ),
    ),
    near=f"{MEANT}\n{SPELLED}",
    alone="Its first piece is {first}; {sharing} it.",
)
INSIDE = "Inside of words there is {inside}: ask by its number, or with pieces=True."
INSIDE_ONLY = Mistake(
    UnknownToken,
    "{word!r} begins no word of this vocabulary.",
    INSIDE,
    (
        Example(
            "first_layer(⟦'ing'⟧)",
            "'ing' begins no word of this vocabulary.",
            "Did you mean 'in', 'king' or 'ring'?\n"
            "Inside of words there is ing (762): ask by its number, or with pieces=True.",
        ),
        Example(
            "first_layer(⟦'ght'⟧)",
            "'ght' begins no word of this vocabulary.",
            "Inside of words there is ght (...",
        ),
    ),
    near=f"{MEANT}\n{INSIDE}",
    alone="Inside of words there is {inside}: give its number.",
)
ONLY_BY_NUMBER = Mistake(
    UnknownToken,
    UNKNOWN,
    "It is the token {id}: ask by its number.",
    (
        Example(
            "first_layer(⟦'<0x0A>'⟧)",
            "'<0x0A>' is no word of this vocabulary.",
            "It is the token 13: ask by its number.",
        ),
    ),
)
NO_PIECE = Mistake(
    UnknownToken,
    "There is no piece {word!r} in this vocabulary.",
    "vlq \"tokens('...')\" looks for parts of words.",
    (
        Example(
            "first_layer(⟦'▁dgo'⟧)",
            "There is no piece '▁dgo' in this vocabulary.",
            "Did you mean 'dog', 'do' or 'go'?",
        ),
        Example(
            "first_layer(⟦'▁qwertz'⟧)",
            "There is no piece '▁qwertz' in this vocabulary.",
            "vlq \"tokens('...')\" looks for parts of words.",
        ),
    ),
    near=MEANT,
)
NO_ID = Mistake(
    UnknownToken,
    "{name}: there is no token {got}. Ids run from 0 to {last}.",
    "vlq \"tokens('dog')\" tells the ids of words.",
    (
        Example(
            "first_layer(⟦99999⟧)",
            "token: there is no token 99999. Ids run from 0 to 895.",
            "vlq \"tokens('dog')\" tells the ids of words.",
        ),
    ),
)
EMPTY_WORD = Mistake(
    BadArgument,
    "{name}: the word is empty.",
    "Every reading, whichever its token: top(image='...')",
    (
        Example(
            "first_layer(⟦''⟧)", "token: the word is empty.", "Every reading, whichever its token: top(image='...')"
        ),
    ),
)
NO_PATTERN = Mistake(
    BadArgument,
    "This regular expression cannot be read: {reason}.",
    "Its language is RE2's: github.com/google/re2/wiki/Syntax",
    (
        Example(
            "first_layer(matching(⟦'(dog'⟧))",
            "This regular expression cannot be read: missing ): (dog.",
            "Its language is RE2's: github.com/google/re2/wiki/Syntax",
        ),
    ),
)
NO_MATCH = Mistake(
    UnknownToken,
    "No word of this vocabulary matches {got}.",
    "With pieces=True the pieces inside of words count too.",
    (
        Example(
            "first_layer(matching(⟦'^qqq'⟧))",
            "No word of this vocabulary matches '^qqq'.",
            "With pieces=True the pieces inside of words count too.",
        ),
    ),
)
WORD_LENGTH = Mistake(
    BadArgument,
    "A word has 1 to {most} characters.",
    "Such as prefix('dachshund')",
    (Example("first_layer(prefix(⟦''⟧))", "A word has 1 to 40 characters.", "Such as prefix('dachshund')"),),
)
NOT_SPELLED = Mistake(
    UnknownToken,
    "The tokenizer has no piece for {got}.",
    "vlq \"tokens('...')\" looks for parts of words.",
    (
        Example(
            "first_layer(prefix(⟦'犬'⟧))",
            "The tokenizer has no piece for '犬'.",
            "vlq \"tokens('...')\" looks for parts of words.",
            "twins",
        ),
    ),
)
NO_TOKENIZER = Mistake(
    CacheError,
    "This cache has no tokenizer: its vocabulary is not a text's.",
    "Ask by token id.",
    (Example("first_layer(⟦prefix('dachshund')⟧)", cache="other"),),
)
