"""Columns that do not exist, and conditions on them that say nothing."""

from __future__ import annotations

from vlq.query.errors import BadArgument, UnknownName
from vlq.query.mistakes.table import Example, Mistake

NO_COLUMN = Mistake(
    UnknownName,
    "There is no column {name}.",
    "There is {known}.{quoted}",
    (
        Example(
            "first_layer('dog').where(⟦lable⟧ == 'beach')",
            "There is no column lable.",
            "Did you mean label? A text is quoted: 'lable'",
        ),
        Example(
            "first_layer('dog').where(label == ⟦beach⟧)",
            "There is no column beach.",
            "There is image, layer, patches, logprob, ...",
        ),
        Example(
            "first_layer('dog').where(label == ⟦null⟧)",
            "There is no column null.",
            "Did you mean None? A text is quoted: 'null'",
        ),
        Example(
            "first_layer('dog').where(⟦patch⟧ == 3)",
            "There is no column patch.",
            "Did you mean patches? A text is quoted: 'patch'",
        ),
        Example("first_layer('dog').sort(⟦'lair'⟧)", "There is no column lair.", "Did you mean layer?"),
        Example(
            "first_layer('dog', images=⟦lable⟧ == 'beach')",
            "There is no column lable.",
            "Did you mean label? A text is quoted: 'lable'",
        ),
    ),
    near="Did you mean {near}?{quoted}",
)
NO_COLUMN_OF_ROWS = Mistake(
    UnknownName,
    "There is no column {name} here.",
    "Rows of an answer that has one are chosen behind it: first_layer('dog').where(layer <= 4)",
    (
        Example(
            "first_layer('dog', images=⟦layer⟧ > 3)",
            "There is no column layer here.",
            "Rows of an answer that has one are chosen behind it: first_layer('dog').where(layer <= 4)",
        ),
    ),
)
NO_CONDITION = Mistake(
    BadArgument,
    "Expected a condition on columns, such as label == 'beach'. Got {got}.",
    "",
    (
        Example(
            "first_layer('dog').where(⟦layer⟧)",
            "Expected a condition on columns, such as label == 'beach'. Got layer.",
        ),
        Example(
            "first_layer('dog', images=⟦'scene-000.png'⟧)",
            "Expected a condition on columns, such as label == 'beach'. Got 'scene-000.png'.",
            "Did you mean image == 'scene-000.png'?",
        ),
        Example(
            "first_layer('dog', images=⟦['scene-000.png']⟧)",
            "Expected a condition on columns, such as label == 'beach'. Got ['scene-000.png'].",
            "Did you mean image in ['scene-000.png']?",
        ),
        Example(
            "first_layer('dog', against=⟦'beach'⟧)",
            "Expected a condition on columns, such as label == 'beach'. Got 'beach'.",
            "Did you mean 'beach' in objects or label == 'beach'?",
        ),
        Example(
            "images(⟦first_layer('dog')⟧)",
            "Expected a condition on columns, such as label == 'beach'. Got first_layer('dog').",
            "Did you mean first_layer('dog') >= 0?",
        ),
        Example(
            "first_layer('dog').where(⟦'layer < 5'⟧)",
            "Expected a condition on columns, such as label == 'beach'. Got 'layer < 5'.",
            "Did you mean layer < 5?",
        ),
        Example(
            ">>> corpus.first_layer('dog', images=\"label == 'beach'\").rows",
            "Expected a condition on columns, such as label == 'beach'. Got \"label == 'beach'\".",
            "Did you mean vlq.parse(\"label == 'beach'\")?",
        ),
        Example(
            ">>> corpus.first_layer('dog', images='label' == 'beach').rows",
            "Expected a condition on columns, such as label == 'beach'. Got False.",
            "Did you mean vlq.col('label') == 'beach'?",
        ),
    ),
    near="Did you mean {near}?",
)
NO_VALUE = Mistake(
    BadArgument,
    "Expected a column, a text or a number. Got {got}.",
    "Answers are compared by themselves, or in images=: first_layer('ear') < first_layer('dog')",
    (
        Example(
            "first_layer('dog').where(layer < ⟦first_layer('ear')⟧)",
            "Expected a column, a text or a number. Got first_layer('ear').",
            "Answers are compared by themselves, or in images=: first_layer('ear') < first_layer('dog')",
        ),
        Example(
            "images(label != ⟦['beach', 'snow']⟧)",
            "Expected a column, a text or a number. Got ['beach', 'snow'].",
            "Did you mean label not in ['beach', 'snow']?",
        ),
        Example(
            "images(⟦['dog', 'cat']⟧ in objects)",
            "Expected a column, a text or a number. Got ['dog', 'cat'].",
            "Did you mean 'dog' in objects or 'cat' in objects?",
        ),
    ),
    near="Did you mean {near}?",
)
OF_COLUMNS = Mistake(
    BadArgument,
    "{got} is a condition on columns, and asks nothing by itself.",
    "The images for which all of it holds: images({whole})",
    (
        Example(
            "first_layer('dog') < 5 and ⟦label == 'beach'⟧",
            "label == 'beach' is a condition on columns, and asks nothing by itself.",
            "The images for which all of it holds: images(first_layer('dog') < 5 and label == 'beach')",
        ),
    ),
)
NOT_BY_IMAGE = Mistake(
    BadArgument,
    "{got} has a row for each {keys}, and not for each image.",
    "Such as first_layer('dog') <= 5, or readings('dog').group(image).count() > 10",
    (
        Example(
            "first_layer('dog', images=⟦first_layer('ear', by='patch') < 3⟧)",
            "first_layer('ear', by='patch') < 3 has a row for each image and patch, and not for each image.",
            "Such as first_layer('dog') <= 5, or readings('dog').group(image).count() > 10",
        ),
    ),
)
NO_NAME = Mistake(
    BadArgument,
    "{left} {operator} {right} is the same for every row.",
    "A condition names a column, such as label == 'beach'.",
    (
        Example(
            "first_layer('dog').where(⟦'label'⟧ == 'beach')",
            "'label' == 'beach' is the same for every row.",
            "Did you mean label == 'beach'?",
        ),
        Example(
            "images(⟦3⟧ < 5)",
            "3 < 5 is the same for every row.",
            "A condition names a column, such as label == 'beach'.",
        ),
    ),
    near="Did you mean {near}?",
)
NO_ORDER = Mistake(
    BadArgument,
    "None has no order.",
    "Use == None or != None.",
    (Example("first_layer('dog').where(label < ⟦None⟧)"),),
)
NO_ITEMS = Mistake(
    BadArgument,
    "{got} holds no items.",
    "Behind `in` stands a list, or a column of texts or lists: 'dog' in objects",
    (
        Example(
            "first_layer('dog').where('a' in ⟦logprob⟧)",
            "logprob holds no items.",
            "Behind `in` stands a list, or a column of texts or lists: 'dog' in objects",
        ),
        Example("images(label in (⟦'beach'⟧))", "'beach' holds no items.", "Did you mean label in ['beach']?"),
    ),
    near="Did you mean {near}?",
)
KINDS = Mistake(
    BadArgument,
    "{left} {operator} {right} compares a {found} with a {expected}.",
    "",
    (
        Example("first_layer('dog').where(label == ⟦3⟧)", "label == 3 compares a text with a number."),
        Example(
            "first_layer('dog').where(layer < ⟦'5'⟧)",
            "layer < '5' compares a number with a text.",
            "Did you mean layer < 5?",
        ),
        Example(
            "first_layer('dog').where(censored == ⟦'no'⟧)",
            "censored == 'no' compares a truth with a text.",
            "Did you mean censored == False?",
        ),
        Example("first_layer('dog').where(⟦3⟧ in objects)", "3 in objects compares a number with a text."),
        Example(
            "first_layer('dog').where(objects == ⟦'dog'⟧)",
            "objects == 'dog' compares a list with a text.",
            "Did you mean 'dog' in objects?",
        ),
        Example("images().where(grid == ⟦3⟧)", "grid == 3 compares a struct with a number."),
    ),
    near="Did you mean {near}?",
)
NO_NUMBER = Mistake(
    BadArgument,
    "{got} is no number.",
    "Only numbers are calculated with.",
    (
        Example(
            "first_layer('dog').where(⟦label⟧ + 1 > 2)", "label is no number.", "Only numbers are calculated with."
        ),
        Example("first_layer('dog').mean(⟦label⟧)", "label is no number.", "Only numbers are calculated with."),
    ),
)
