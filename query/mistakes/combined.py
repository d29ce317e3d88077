"""Answers that cannot be held against each other, taken together, or compared."""

from __future__ import annotations

from vlq.query.errors import BadArgument, SyntaxMistake
from vlq.query.mistakes.table import Example, Mistake

KEYS = Mistake(
    BadArgument,
    "{first} has a row for each {expected}, {got} for each {found}.",
    "Give both the same by=, or group both by the same columns.",
    (
        Example(
            "first_layer('ear') < ⟦first_layer('dog', by='patch')⟧",
            "first_layer('ear') has a row for each image, first_layer('dog', by='patch') for each image and patch.",
            "Give both the same by=, or group both by the same columns.",
        ),
    ),
)
KEY_KINDS = Mistake(
    BadArgument,
    "{key} is a {expected} in {first}, and a {found} in {got}.",
    "They are not the same thing.",
    (
        Example(
            "emergence('rock') < ⟦neighbours('rock')⟧",
            "token is a text in emergence('rock'), and a number in neighbours('rock').",
            "They are not the same thing.",
        ),
    ),
)
OTHER_PATCHES = Mistake(
    BadArgument,
    "{first} and {got} are not of the same patches.",
    "Give both the same patches=.",
    (
        Example(
            "rank('ear', patches=[3, 4]) < ⟦rank('dog')⟧",
            "rank('ear', patches=[3, 4]) and rank('dog') are not of the same patches.",
            "Give both the same patches=.",
        ),
    ),
)
IN = Mistake(
    BadArgument,
    "Answers have no `in`.",
    "It is used in conditions on columns: .where('dog' in caption)",
    (Example("⟦first_layer('dog') in first_layer('ear')⟧"),),
)
NOTHING_ASKED = Mistake(
    BadArgument,
    "{got} asks nothing.",
    "Such as first_layer('ear') < first_layer('dog')",
    (Example("(⟦1 < 2⟧)", "1 < 2 asks nothing.", "Such as first_layer('ear') < first_layer('dog')"),),
)
HELD_AGAINST = (
    "Answers are held against each other and numbers. What is asked of columns stands in "
    "first_layer('dog').where(layer in [5, 6] and label == 'beach'), or in images=label == 'beach'."
)
NO_ANSWER = Mistake(
    SyntaxMistake,
    "{got} asks nothing by itself.",
    HELD_AGAINST,
    (
        Example("first_layer('dog') in ⟦[5, 6]⟧", "[5, 6] asks nothing by itself.", HELD_AGAINST),
        Example("first_layer('dog') == ⟦None⟧", "None asks nothing by itself.", HELD_AGAINST),
        Example("images(first_layer('dog') < ⟦width⟧)", "width asks nothing by itself.", HELD_AGAINST),
    ),
)
AGAINST = Mistake(
    BadArgument,
    "against: {got} cannot be combined with another answer.",
    "Ask twice: with images={condition}, and with the opposite.",
    (
        Example(
            "first_layer('ear') < ⟦first_layer('dog', against=label == 'beach')⟧",
            "against: first_layer('dog', against=label == 'beach') cannot be combined with another answer.",
            "Ask twice: with images=label == 'beach', and with the opposite.",
        ),
    ),
)
NOT_TRUE = Mistake(
    BadArgument,
    "{got} is nothing that holds or does not.",
    "Compare it first: first_layer('ear') < first_layer('dog')",
    (
        Example(
            "⟦first_layer('dog')⟧ and first_layer('ear')",
            "first_layer('dog') is nothing that holds or does not.",
            "Compare it first: first_layer('ear') < first_layer('dog')",
        ),
    ),
)
NO_VALUE = Mistake(
    BadArgument,
    "{got} has no single value for each row.",
    "A row of first_layer('dog') has one, its layer.",
    (
        Example(
            "⟦images()⟧ < 5",
            "images() has no single value for each row.",
            "A row of first_layer('dog') has one, its layer.",
        ),
    ),
)

# --- groups ----------------------------------------------------------------------------------------------------

NOTHING_WANTED = Mistake(
    BadArgument,
    "{got} has groups, but no rows.",
    "Say what is wanted of each: append .count(), .mean(), .median(), .min(), .max() or .histogram().",
    (
        Example(
            "⟦first_layer('dog').group(label)⟧",
            "first_layer('dog').group(label) has groups, but no rows.",
            "Say what is wanted of each: append .count(), .mean(), .median(), .min(), .max() or .histogram().",
        ),
    ),
)
NO_GROUPS = Mistake(
    BadArgument,
    "{name} has no values to group by.",
    "Name a column of texts, numbers or lists.",
    (
        Example(
            "first_layer('dog').group(⟦transform⟧).count()",
            "transform has no values to group by.",
            "Name a column of texts, numbers or lists.",
        ),
    ),
)
NO_SINGLE_VALUE = Mistake(
    BadArgument,
    "The rows have no single value.",
    "Name a column: .{method}({column})",
    (Example("⟦images().median()⟧", "The rows have no single value.", "Name a column: .median(width)"),),
)

# --- two caches ------------------------------------------------------------------------------------------------

FIRST_CACHE = Mistake(
    BadArgument,
    "All comparisons of a query have the same first cache.",
    "Write {url!r} here.",
    (
        Example(
            "compare('demo', 'demo', images()).count() - compare(⟦'other'⟧, 'demo', images()).count()",
            "All comparisons of a query have the same first cache.",
            "Write 'demo' here.",
        ),
    ),
)
COMPARISON_COMPARED = Mistake(
    BadArgument,
    "A comparison cannot be compared.",
    "Compare two caches at a time.",
    (Example("compare('demo', 'other', ⟦compare('demo', 'twins', images())⟧)"),),
)
AGAINST_COMPARED = Mistake(
    BadArgument,
    "against: {got} cannot be compared.",
    AGAINST.hint,
    (
        Example(
            "compare('demo', 'demo', ⟦first_layer('dog', against=label == 'beach')⟧)",
            "against: first_layer('dog', against=label == 'beach') cannot be compared.",
            "Ask twice: with images=label == 'beach', and with the opposite.",
        ),
    ),
)
KEYS_COMPARED = Mistake(
    BadArgument,
    "{key} is a {expected} in {a}, and a {found} in {b}.",
    "They are not the same thing.",
    (
        Example(
            "compare('demo', 'other', ⟦images().group(label).count()⟧)",
            "label is a text in demo, and a number in other.",
            "They are not the same thing.",
        ),
    ),
)
IMAGES_OF_ONE_NAME = Mistake(
    BadArgument,
    "Images are matched by name, and {count} of {url} are named {image!r}.",
    "Ask what has no row for each image, such as by='corpus'.",
    (
        Example(
            "compare('demo', 'twins', ⟦first_layer(1)⟧)",
            "Images are matched by name, and 2 of twins are named 'one.png'.",
            "Ask what has no row for each image, such as by='corpus'.",
        ),
    ),
)
GRIDS = Mistake(
    BadArgument,
    "The patches are not the same: {grids}.",
    "Ask what has a row for each image or layer.",
    (
        Example(
            "compare('demo', 'other', ⟦readings(1)⟧)",
            "The patches are not the same: demo has 8 x 8, other has 3 x 4.",
            "Ask what has a row for each image or layer.",
        ),
    ),
)
PROMPTS = Mistake(
    BadArgument,
    "The prompts differ, and so do their positions.",
    "at='last' compares the last token of each prompt.",
    (Example("compare('demo', 'other', ⟦readings(1, at='prompt')⟧)"),),
)
VOCABULARIES = Mistake(
    BadArgument,
    "{got} has a row for each token id, and the vocabularies of the two caches differ.",
    "Ask what has a row for each image or layer.",
    (
        Example(
            "compare('demo', 'other', ⟦defaults()⟧)",
            "defaults() has a row for each token id, and the vocabularies of the two caches differ.",
            "Ask what has a row for each image or layer.",
        ),
    ),
)
