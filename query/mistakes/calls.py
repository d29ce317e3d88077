"""Functions, methods and arguments that do not exist, or do not go together."""

from __future__ import annotations

from vlq.query.errors import BadArgument, SyntaxMistake, UnknownName
from vlq.query.mistakes.table import Example, Mistake

NO_FUNCTION = Mistake(
    UnknownName,
    "There is no function {name}.",
    "There is {known}.",
    (
        Example("⟦first_layr⟧('dog')", "There is no function first_layr.", "Did you mean first_layer?"),
        Example("⟦first-layer⟧('dog')", "There is no function first-layer.", "Did you mean first_layer?"),
        Example("⟦show⟧('dog')", "There is no function show.", "There is first_layer, last_layer, peak_layer, ..."),
        Example("$ vlq help frist_layer", "There is no function frist_layer.", "Did you mean first_layer?"),
        Example("$ vlq help xyz", "There is no function xyz.", "There is first_layer, last_layer, peak_layer, ..."),
    ),
    near="Did you mean {near}?",
)
NO_FUNCTION_BUT_ARGUMENT = Mistake(
    UnknownName,
    "{name} is no function, but an argument.",
    "vlq help tells of it with each that has it: {functions}.",
    (
        Example(
            "$ vlq help min_prob",
            "min_prob is no function, but an argument.",
            "vlq help tells of it with each that has it: first_layer, last_layer, peak_layer, ...",
        ),
    ),
)
NO_METHOD = Mistake(
    UnknownName,
    "There is no method {name}.",
    "A table has {known}.",
    (
        Example("first_layer('dog').⟦wher⟧(layer < 5)", "There is no method wher.", "Did you mean .where(...)?"),
        Example("first_layer('dog').⟦head⟧(5)", "There is no method head.", "Did you mean .limit(...)?"),
        Example("first_layer('dog').⟦top⟧(5)", "There is no method top.", "Did you mean .limit(...)?"),
        Example("first_layer('dog').⟦order_by⟧(layer)", "There is no method order_by.", "Did you mean .sort(...)?"),
        Example("first_layer('dog').⟦xyz⟧()", "There is no method xyz.", "A table has .where, .sort, .limit, ..."),
    ),
    near="Did you mean .{near}(...)?",
)
SYNONYMS = {
    "filter": "where",
    "having": "where",
    "head": "limit",
    "take": "limit",
    "top": "limit",
    "order": "sort",
    "order_by": "sort",
    "orderby": "sort",
    "sort_by": "sort",
    "sort_values": "sort",
    "group_by": "group",
    "average": "mean",
    "avg": "mean",
    "hist": "histogram",
    "size": "count",
}
"""What methods are called elsewhere."""
ARGUMENT_SYNONYMS = {
    "k": "rank",
    "top": "rank",
    "top_k": "rank",
    "word": "token",
    "threshold": "min_prob",
    "p": "min_prob",
    "site": "at",
    "position": "at",
    "where": "images",
    "filter": "images",
    "n": "count",
    "desc": "descending",
    "reverse": "descending",
}
"""What arguments are called elsewhere."""
FOREIGN = {
    "range": "A window of layers is (5, 8), both of them within it.",
    "col": "A column stands by itself, as label does; one whose name is no word in quotes: col('my column')",
    "help": "In the shell: vlq help first_layer",
    "len": "The share of patches in `patches` is `area`: .where(area >= 0.1)",
    **dict.fromkeys(
        ("contains", "startswith", "endswith", "match", "regexp_matches", "like", "lower", "upper"),
        "'bea' in label looks into a text, as it is written, and 'dog' in objects into labels.",
    ),
}
"""Functions that are none here, and what is there instead."""
FOREIGN_FUNCTION = Mistake(
    UnknownName,
    "There is no function {name}.",
    "{instead}",
    (
        Example(
            "first_layer('dog', layers=⟦range⟧(5, 8))",
            "There is no function range.",
            "A window of layers is (5, 8), both of them within it.",
        ),
        Example(
            "images(⟦col⟧(label) == 'beach')",
            "There is no function col.",
            "A column stands by itself, as label does; one whose name is no word in quotes: col('my column')",
        ),
        Example("⟦help⟧(first_layer)", "There is no function help.", "In the shell: vlq help first_layer"),
        Example(
            "images(⟦contains⟧(label, 'bea'))",
            "There is no function contains.",
            "'bea' in label looks into a text, as it is written, and 'dog' in objects into labels.",
        ),
    ),
)
OF_COLUMN = Mistake(
    UnknownName,
    "{name} is asked of a column, and columns have no methods.",
    "'bea' in label looks into a text, 'dog' in objects into labels; answers have methods: first_layer('dog').count()",
    (
        Example(
            "first_layer('dog').where(label.⟦startswith⟧('bea'))",
            "startswith is asked of a column, and columns have no methods.",
            "'bea' in label looks into a text, 'dog' in objects into labels; answers have methods: "
            "first_layer('dog').count()",
        ),
    ),
)
METHOD_CALLED_FIRST = Mistake(
    UnknownName,
    "{name} is not called as a function.",
    "It follows behind a dot: first_layer('dog').{method}(...)",
    (
        Example(
            "⟦count⟧(first_layer('dog'))",
            "count is not called as a function.",
            "It follows behind a dot: first_layer('dog').count(...)",
        ),
        Example(
            "⟦avg⟧(first_layer('dog'))",
            "avg is not called as a function.",
            "It follows behind a dot: first_layer('dog').mean(...)",
        ),
    ),
)

EXPECTED = "Expected: {signature}"
NO_ARGUMENT = Mistake(
    UnknownName,
    "{name} is no argument of {function}.",
    EXPECTED,
    (
        Example(
            "tokens('dog', ⟦colour='red'⟧)",
            "colour is no argument of tokens.",
            "Expected: tokens(text, at='patch')",
        ),
        Example(
            "locate('dog', ⟦against=label == 'beach'⟧)",
            "against is no argument of locate.",
            "Expected: locate(token, ...",
        ),
    ),
)
NEAR_ARGUMENT = Mistake(
    UnknownName,
    "{name} is no argument of {function}; did you mean {near}?",
    EXPECTED,
    (
        Example(
            "first_layer('dog', ⟦ranc=2⟧)",
            "ranc is no argument of first_layer; did you mean rank?",
            "Expected: first_layer(token, rank=1, ...",
        ),
        Example(
            "first_layer('dog', ⟦top_k=5⟧)",
            "top_k is no argument of first_layer; did you mean rank?",
            "Expected: first_layer(token, rank=1, ...",
        ),
    ),
)
EQUALS = Mistake(
    UnknownName,
    "{name} is no argument of {function}. If it is a column, write {condition}",
    EXPECTED,
    (
        Example(
            "first_layer('dog').where(⟦label='beach'⟧)",
            "label is no argument of where. If it is a column, write label == 'beach'",
            "Expected: where(condition)",
        ),
        Example(
            "first_layer('dog').where(⟦layer=3⟧)",
            "layer is no argument of where. If it is a column, write layer == 3",
            "Expected: where(condition)",
        ),
        Example(
            "first_layer('dog', ⟦label='beach'⟧)",
            "label is no argument of first_layer. If it is a column, write images=label == 'beach'",
            "Expected: first_layer(token, rank=1, ...",
        ),
    ),
)
TWICE = Mistake(
    BadArgument,
    "{name} is given twice.",
    EXPECTED,
    (
        Example(
            "first_layer('dog', ⟦token='cat'⟧)", "token is given twice.", "Expected: first_layer(token, rank=1, ..."
        ),
    ),
)
UNNAMED = Mistake(
    BadArgument,
    "{got} has no name; is it {name}={got}?",
    EXPECTED,
    (
        Example("first_layer('dog', ⟦2⟧)", "2 has no name; is it rank=2?", "Expected: first_layer(token, rank=1, ..."),
        Example(
            "first_layer('dog', ⟦label == 'beach'⟧)",
            "label == 'beach' has no name; is it images=label == 'beach'?",
            "Expected: first_layer(token, rank=1, ...",
        ),
    ),
)
COMPARED = Mistake(
    BadArgument,
    "{name} is an argument, and is given a value with a single =.",
    "Write {name}=..., {expected}.",
    (
        Example(
            "first_layer('dog', ⟦min_prob > 0.5⟧)",
            "min_prob is an argument, and is given a value with a single =.",
            "Write min_prob=..., a probability above 0 and up to 1.",
        ),
        Example(
            "first_layer('dog', ⟦layers >= 6⟧)",
            "layers is an argument, and is given a value with a single =.",
            "Write layers=..., a layer, a window such as (5, 20), or a list such as [8, 16, 24].",
        ),
        Example(
            "tokens(⟦text == 'dog'⟧)",
            "text is an argument, and is given a value with a single =.",
            "Write text=..., a part of a token's text.",
        ),
    ),
)
SECOND_COLUMN = Mistake(
    BadArgument,
    "{got} has no name. Several columns are one argument, a list: [{first}, {got}]",
    EXPECTED,
    (
        Example(
            "first_layer('dog').select(image, ⟦layer⟧)",
            "layer has no name. Several columns are one argument, a list: [image, layer]",
            "Expected: select(columns)",
        ),
        Example(
            "first_layer('dog').sort(layer, ⟦logprob⟧)",
            "logprob has no name. Several columns are one argument, a list: [layer, logprob]",
            "Expected: sort(by, descending=False)",
        ),
    ),
)
SECOND_TOKEN = Mistake(
    BadArgument,
    "{got} has no name. Several tokens are one argument, a list: [{first}, {got}]",
    EXPECTED,
    (
        Example(
            "emergence('dog', ⟦'cat'⟧)",
            "'cat' has no name. Several tokens are one argument, a list: ['dog', 'cat']",
            "Expected: emergence(token, rank=1, ...",
        ),
    ),
)
TOO_MANY = Mistake(
    BadArgument,
    "{got} is one argument too many.",
    EXPECTED,
    (Example("images().limit(5, ⟦6⟧)", "6 is one argument too many.", "Expected: limit(count)"),),
)
MISSING = Mistake(
    BadArgument,
    "{name} is missing.",
    EXPECTED,
    (
        Example("⟦first_layer()⟧", "token is missing.", "Expected: first_layer(token, rank=1, ..."),
        Example("⟦images().limit()⟧", "count is missing.", "Expected: limit(count)"),
    ),
)
NOTHING_ASKED = Mistake(
    SyntaxMistake,
    "{got} asks nothing by itself.",
    "Ask something, such as first_layer(token='dog')",
    (
        Example("⟦'dog'⟧", "'dog' asks nothing by itself.", "Ask something, such as first_layer(token='dog')"),
        Example(
            "⟦matching('^dog')⟧",
            "matching('^dog') asks nothing by itself.",
            "Ask something, such as first_layer(token='dog')",
        ),
    ),
)
NOT_BY_ITSELF = Mistake(
    UnknownName,
    "{name}: {got} is a function, and stands without its arguments.",
    "Such as {name}={got}('dog')",
    (
        Example(
            "first_layer('ear', patches=⟦locate⟧)",
            "patches: locate is a function, and stands without its arguments.",
            "Such as patches=locate('dog')",
        ),
    ),
)
NOT_A_COLUMN_HERE = Mistake(
    UnknownName,
    "{name}: {got} is a column.",
    "Patches of objects are named by their label: {name}='dog'",
    (
        Example(
            "first_layer('ear', patches=⟦objects⟧)",
            "patches: objects is a column.",
            "Patches of objects are named by their label: patches='dog'",
        ),
    ),
)
UNQUOTED = Mistake(
    UnknownName,
    "{name}: {got} is not quoted.",
    "Write {name}='{got}'. In a shell, put the whole query in double quotes.",
    (
        Example(
            "first_layer(token=⟦dog⟧)",
            "token: dog is not quoted.",
            "Write token='dog'. In a shell, put the whole query in double quotes.",
        ),
        Example(
            "first_layer('dog', by=⟦patch⟧)",
            "by: patch is not quoted.",
            "Write by='patch'. In a shell, put the whole query in double quotes.",
        ),
        Example(
            "first_layer('ear', patches=⟦dog⟧)",
            "patches: dog is not quoted.",
            "Write patches='dog'. In a shell, put the whole query in double quotes.",
        ),
        Example(
            "top(image=⟦beach⟧)",
            "image: beach is not quoted.",
            "Write image='beach'. In a shell, put the whole query in double quotes.",
        ),
    ),
)
