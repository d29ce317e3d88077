"""Mistakes that are made around queries: on the command line, and in Python."""

from __future__ import annotations

from vlq.query.errors import BadArgument, QueryError
from vlq.query.mistakes.table import Example, Mistake

NO_COMMAND = Mistake(
    QueryError,
    "There is no command '{name}'.",
    "A query has parentheses: vlq \"first_layer(token='dog')\" All commands: vlq --help",
    (
        Example("$ vlq inof", "There is no command 'inof'.", "Did you mean `vlq info`? All commands: vlq --help"),
        Example(
            "$ vlq dog",
            "There is no command 'dog'.",
            "A query has parentheses: vlq \"first_layer(token='dog')\" All commands: vlq --help",
        ),
    ),
    near="Did you mean `vlq {near}`? All commands: vlq --help",
)
NO_COMMAND_BUT_FUNCTION = Mistake(
    QueryError,
    "{name} is no command: it is a function, which a query has with parentheses.",
    'Such as vlq "{example}" All about it: vlq help {name}',
    (
        Example(
            "$ vlq tokens dog",
            "tokens is no command: it is a function, which a query has with parentheses.",
            "Such as vlq \"tokens('dog')\" All about it: vlq help tokens",
        ),
    ),
)
OPTION_FIRST = Mistake(
    QueryError,
    "There is no option {name} before a command.",
    "Options stand behind it: vlq info --cache URL",
    (
        Example(
            "$ vlq --cache demo info",
            "There is no option --cache before a command.",
            "Options stand behind it: vlq info --cache URL",
        ),
        Example("$ vlq --verison", "There is no option --verison before a command.", "Did you mean --version?"),
    ),
    near="Did you mean {near}?",
)
NO_OPTION = Mistake(
    QueryError,
    "A query has no option {name}.",
    "It has {known}.",
    (
        Example(
            '$ vlq "images()" -o answer.csv',
            "A query has no option -o.",
            "It has --cache, --format, --output, --plot, --explain.",
        ),
        Example('$ vlq "images()" --explian', "A query has no option --explian.", "Did you mean --explain?"),
    ),
    near="Did you mean {near}?",
)
NO_OPTION_VALUE = Mistake(
    QueryError,
    "{said}.",
    "An option's value stands behind it: --format json",
    (
        Example(
            '$ vlq "images()" --format',
            "argument --format: expected one argument.",
            "An option's value stands behind it: --format json",
        ),
    ),
)
ONE_QUERY = Mistake(
    QueryError,
    "A query is one argument, and {got} is another one.",
    "Put the whole query in double quotes, with single ones within: vlq \"first_layer(token='dog')\"",
    (
        Example(
            "$ vlq 'first_layer(token='fire truck')'",
            "A query is one argument, and truck) is another one.",
            "Put the whole query in double quotes, with single ones within: vlq \"first_layer(token='dog')\"",
        ),
    ),
)
EXPLAIN = Mistake(
    QueryError,
    "--explain says how an answer comes about, and that is not for {asked}.",
    "It is text, or JSON with --format json.",
    (
        Example(
            '$ vlq "images()" --explain --format csv',
            "--explain says how an answer comes about, and that is not for csv.",
            "It is text, or JSON with --format json.",
        ),
        Example(
            '$ vlq "images()" --explain --plot answer.png',
            "--explain says how an answer comes about, and that is not for --plot.",
            "It is text, or JSON with --format json.",
        ),
    ),
)
TOO_MANY = Mistake(
    QueryError,
    "`vlq {command}` was given too many arguments: from {first} on.",
    "What it takes: vlq {command} --help",
    (
        Example(
            "$ vlq info images",
            "`vlq info` was given too many arguments: from images on.",
            "What it takes: vlq info --help",
        ),
        Example(
            "$ vlq annotate demo prompts",
            "`vlq annotate` was given too many arguments: from prompts on.",
            "Quote a glob, or the shell puts files in its place: vlq annotate '*'",
        ),
    ),
    near="Quote a glob, or the shell puts files in its place: vlq {command} '{near}'",
)
FORMAT = Mistake(
    QueryError,
    "--format is {known}, not '{got}'.",
    "",
    (
        Example(
            '$ vlq "images()" --format xml',
            "--format is one of table, json, jsonl, csv, parquet, arrow, not 'xml'.",
        ),
    ),
)
ENDING = Mistake(
    QueryError,
    "--output {got}: no format ends with .{ending}.",
    "Such as --output answer.csv, .json, .jsonl, .parquet, .arrow or .txt, or say --format",
    (
        Example(
            '$ vlq "images()" --output answer.xlsx',
            "--output answer.xlsx: no format ends with .xlsx.",
            "Such as --output answer.csv, .json, .jsonl, .parquet, .arrow or .txt, or say --format",
        ),
    ),
)
NO_TEXT = Mistake(
    QueryError,
    "--format {got} is no text.",
    "Say where it should go: --output answer.{got}, or --output - into a pipe",
    (
        Example(
            '$ vlq "images()" --format parquet',
            "--format parquet is no text.",
            "Say where it should go: --output answer.parquet, or --output - into a pipe",
        ),
    ),
)
PLOT_FORMAT = Mistake(
    QueryError,
    "A plot is a .png or .svg file: {got} {ending}.",
    "Such as --plot answer.png",
    (
        Example(
            '$ vlq "images()" --plot answer.pdf',
            "A plot is a .png or .svg file: answer.pdf ends with neither.",
            "Such as --plot answer.png",
        ),
        Example(
            '$ vlq "images()" --plot answer',
            "A plot is a .png or .svg file: answer has no ending.",
            "Such as --plot answer.png",
        ),
    ),
)
NOTHING_TO_DRAW = Mistake(
    BadArgument,
    "There is nothing to draw: the answer has no numbers.",
    "Choose columns that are numbers: .select([...])",
    (Example('$ vlq "images().select(label)" --plot answer.png'),),
)
LIMIT = Mistake(
    BadArgument,
    "{name}: expected {least:g} to {most:g}. Got {got}.",
    "",
    (Example('$ vlq sql "SELECT 1" --timeout 0', "timeout: expected 0.001 to 1e+08. Got 0.0."),),
)
SIZE = Mistake(
    BadArgument,
    "{name}: expected a size such as 4GB or 512MB. Got {got}.",
    "",
    (Example('$ vlq sql "SELECT 1" --memory much', "memory: expected a size such as 4GB or 512MB. Got much."),),
)

# --- Python ----------------------------------------------------------------------------------------------------

NO_TRUTH = Mistake(
    BadArgument,
    "{got} has no truth value: it has not been asked yet.",
    "Ask it of a corpus: corpus.query(...). To combine nodes, use & for and, | for or, ~ for not.",
    (
        Example(
            ">>> bool(vlq.first_layer('dog'))",
            "first_layer('dog') has no truth value: it has not been asked yet.",
            "Ask it of a corpus: corpus.query(...). To combine nodes, use & for and, | for or, ~ for not.",
        ),
    ),
)
ANSWER_NO_TRUTH = Mistake(
    BadArgument,
    "An answer has no truth value.",
    "Look at .rows or .summary; to combine answers, use & for and, | for or.",
    (Example(">>> bool(corpus.first_layer('dog'))"),),
)
NOT_PICKLED = Mistake(
    BadArgument,
    "An answer is not pickled: its rows are read when they are asked for.",
    "Pickle .df(), .arrow() or .rows; or the corpus and .node, and ask there: corpus.query(node)",
    (Example(">>> corpus.first_layer('dog').__reduce__()"),),
)
NO_IN = Mistake(
    BadArgument,
    "Python's `in` cannot ask for what is in {got}.",
    "Write vlq.col('objects').contains('dog'), vlq.col('label').isin(['beach', 'snow']), or "
    "vlq.parse(\"'dog' in objects\")",
    (
        Example(
            ">>> 'dog' in vlq.col('objects')",
            "Python's `in` cannot ask for what is in objects.",
            "Write vlq.col('objects').contains('dog'), vlq.col('label').isin(['beach', 'snow']), or "
            "vlq.parse(\"'dog' in objects\")",
        ),
    ),
)
HALF_TEXT = Mistake(
    BadArgument,
    "{got!r} holds half of a character.",
    "Give the whole character.",
    (Example(r">>> vlq.first_layer('\ud800')", r"'\ud800' holds half of a character.", "Give the whole character."),),
)
NUMBER = Mistake(
    BadArgument,
    "A number in a query is finite and has at most 64 bits. Got {got}.",
    "",
    (
        Example(
            ">>> vlq.first_layer('dog', min_prob=float('nan'))",
            "A number in a query is finite and has at most 64 bits. Got nan.",
        ),
    ),
)
TYPE = Mistake(
    BadArgument,
    "A query cannot hold a {got}.",
    "It can hold texts, numbers, dates, True, False, None, tuples and lists.",
    (
        Example(
            ">>> vlq.first_layer({'dog'})",
            "A query cannot hold a set.",
            "It can hold texts, numbers, dates, True, False, None, tuples and lists.",
        ),
    ),
)
COLUMN = Mistake(
    BadArgument,
    "A column's name is a text. Got {got!r}.",
    "Such as vlq.col('label')",
    (Example(">>> vlq.col(3)", "A column's name is a text. Got 3.", "Such as vlq.col('label')"),),
)
IMAGE = Mistake(
    BadArgument,
    "image: expected a number or a name. Got {got!r}.",
    "The images and their numbers: images()",
    (
        Example(
            ">>> corpus.image(1.5)",
            "image: expected a number or a name. Got 1.5.",
            "The images and their numbers: images()",
        ),
    ),
)
TWO_CORPORA = Mistake(
    BadArgument,
    "Answers of two corpora cannot be combined.",
    "Ask both questions of one.",
    (Example(">>> corpus.first_layer('ear', patches=vlq.open('demo').locate('dog'))"),),
)
NOT_SERVED = Mistake(
    BadArgument,
    "This service opens no other cache.",
    "It has {known}. Ask where both can be read: vlq, or Python.",
    (
        Example(
            ">>> corpus.served({'demo': corpus.cache})['demo'].query(\"compare('demo', 'other', images())\")",
            "This service opens no other cache.",
            "It has demo. Ask where both can be read: vlq, or Python.",
        ),
    ),
)
