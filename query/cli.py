"""The `vlq` command.

    vlq "first_layer(token='dog')"     an argument that holds a parenthesis is a query
    vlq info                           anything else is a command

A query must be quick, so it takes a path of its own that imports neither the command framework nor what commands
need. All but a few commands come from the entry-point group `vlq.commands`, so that this room needs no other.
Exit codes: 0 done, 1 a check found something, 2 a mistake of the user's, with one message and what to do next.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr
from functools import partial
from typing import TYPE_CHECKING, NoReturn, TextIO, cast

from vlq.query.errors import VlqError, printable
from vlq.query.extras import missing_extra
from vlq.query.mistakes import elsewhere, syntax
from vlq.query.options import OPTIONS
from vlq.query.streams import Unheard

if TYPE_CHECKING:
    import typer

    from vlq.query.answers.asked import Asked

    Load = Callable[[], Callable[..., None] | typer.Typer]
    """What loads a command, or a group of them."""

COMPLETION = "_VLQ_COMPLETE"
"""Set where a shell asks how words may go on: complete_bash, ..., or for its script: source_bash, ..."""

ORDER = (
    *("demo", "look", "run", "status", "info", "help", "sql", "annotate", "serve", "export"),
    *("ablate", "knockout", "patch", "steer", "attribute", "lens"),
    *("index", "compact", "verify", "repair", "gc"),
)
"""Commands in the order in which one comes to need them; others stand behind."""

ROOT = ("--help", "-h", "--version", "--install-completion", "--show-completion")
"""Options that need no command."""

EXPLAINED = ("table", "json")
"""In which formats --explain says how an answer comes about."""

INTERRUPTED = 130
"""The exit code of what SIGINT ends, as Ctrl-C sends it."""

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says where a disk or somebody's part of it is full."""

EXAMPLE = "vlq \"first_layer(token='dog')\""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs one query or command and exits. That stderr is closed, full or read by nobody stops no work."""
    with redirect_stderr(cast("TextIO", Unheard(sys.stderr, OSError))):
        _main(list(sys.argv[1:] if arguments is None else arguments))


def _main(arguments: list[str]) -> NoReturn:
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr does where a locale lacks the tokens' letters
    code: int | str | None = 0
    try:
        try:
            if COMPLETION in os.environ:
                _complete(os.environ[COMPLETION])
            elif is_query(arguments):
                _query(arguments)
            else:
                _command(arguments)
        except SystemExit as ended:  # as commands end
            code = ended.code
        if code == INTERRUPTED:  # which the command framework makes of Ctrl-C
            raise KeyboardInterrupt
        print(end="", flush=True)  # at Python's own end nobody would be told of what that meets
    except VlqError as error:
        width = os.get_terminal_size(sys.stderr.fileno()).columns if sys.stderr.isatty() else None
        _complain(error.told(width))
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (missing := missing_extra(error)) is None:
            raise
        _complain(str(missing))
        sys.exit(2)
    except BrokenPipeError:
        _let_go_of_stdout()  # who reads it went away (`| head`): no error
    except OSError as error:
        if error.errno not in FULL:
            raise
        _let_go_of_stdout()
        where = error.filename or "what is printed, or what is worked with in $TMPDIR, finds no room"
        _complain(f"{error.strerror}: {where}.\nFree some, and do the same again.")
        sys.exit(2)
    except KeyboardInterrupt:
        _complain("Stopped. The same command begins anew.")  # what goes on where it was says so itself
        sys.exit(INTERRUPTED)
    sys.exit(code)


def _complain(text: str) -> None:
    """Say on stderr what is wrong."""
    lines = map(printable, f"vlq: {text}".split("\n"))
    print(*lines, sep="\n", file=sys.stderr, flush=True)


def _let_go_of_stdout() -> None:
    """Python would flush into it at exit, and fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def is_query(arguments: Sequence[str]) -> bool:
    """Whether the arguments ask a question: an argument holds a parenthesis, and no command comes first.

    A command's name is a bare word, so that `vlq run 'images (1)'` stays a command.
    """
    if arguments and arguments[0].replace("-", "").isalpha() and not arguments[0].startswith("-"):
        return False
    return any("(" in argument or ")" in argument for argument in arguments)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise elsewhere.NO_OPTION_VALUE.error(said=message)


def _query(arguments: Sequence[str]) -> None:
    parser = _Parser(prog="vlq", description="Ask a cache a question.", allow_abbrev=False)
    parser.add_argument("query", help="such as \"first_layer(token='dog')\"")
    for name, option in OPTIONS.items():
        if option.value is None:
            parser.add_argument(name, help=option.help, action="store_true")
        else:
            parser.add_argument(name, help=option.help, metavar=option.value)
    # A query may begin with a minus, which argparse takes for an option.
    signed = [part for part in arguments if part.startswith("-") and not part.startswith("--") and "(" in part]
    others = [part for part in arguments if part not in signed]
    options, more = parser.parse_known_args([*others, "--", *signed] if signed else others)
    if more:
        raise _too_much(more)

    from vlq.query.answers.files import plot_form
    from vlq.query.answers.render import deliver, form_of
    from vlq.query.client.local import ask

    form = form_of(options.format, options.output)
    if options.explain and (options.plot or form not in EXPLAINED):
        raise elsewhere.EXPLAIN.error(asked="--plot" if options.plot else form)
    if options.plot:
        plot_form(options.plot)  # its mistakes show before anything is asked
    result = ask(options.query, options.cache)
    if options.explain:
        _explain(result, form, options.output)
        return
    drawn = []
    if options.plot:
        result.plot(options.plot)
        # A format that was asked for goes to the screen, with nothing beside it, if no file takes it.
        drawn = [f"Drawn to {options.plot}"] if options.output or not options.format else []
    deliver(result, form, options.output, drawn)


def _explain(result: Asked, form: str, output: str | None) -> None:
    """Print how the answer comes about, as text or JSON, or write it to a file and say so."""
    from vlq.query.answers.files import STDOUT, write_whole

    text = result.explain()
    if form == "json":
        text = json.dumps({"query": str(result.node), "text": text}, ensure_ascii=False, indent=2)
    if output and output != STDOUT:
        write_whole(output, f"{text}\n".encode(), "--output")
        text = f"Written to {output}"
    print(text)


def _too_much(more: Sequence[str]) -> VlqError:
    """The mistake of a query with more behind it than a query has."""
    from difflib import get_close_matches

    option = next((part for part in more if part.startswith("-")), None)
    if option is None:
        return elsewhere.ONE_QUERY.error(got=more[0])
    near = get_close_matches(option, OPTIONS, 1, 0.75)
    return elsewhere.NO_OPTION.error(name=option, known=", ".join(OPTIONS), near="".join(near))


def _commands() -> dict[str, Load]:
    """What loads each command: its room may need packages that are not here."""
    from importlib.metadata import entry_points

    from vlq.query.commands import COMMANDS

    own = {name: partial(COMMANDS.__getitem__, name) for name in COMMANDS}
    others = entry_points(group="vlq.commands")
    found = own | {entry.name: entry.load for entry in sorted(others, key=lambda entry: entry.name)}
    return {name: found[name] for name in (*ORDER, *found) if name in found}


def _complete(instruction: str) -> None:
    """Prints how the words in the environment may go on, for a shell's script."""
    from vlq.query.answers.answer import FORMATS
    from vlq.query.language import completion

    what, _, shell = instruction.partition("_")
    commands = _commands()
    if what == "complete":
        about = {name: partial(_about, load) for name, load in commands.items()}
        answer = completion.answer(shell, about, FORMATS)
        if answer is not None:
            if answer:
                print(answer)
            return
    named = [meant for _, meant in completion.typed(shell)[:1] if meant in commands]
    _run(commands, named)


def _about(load: Load) -> str:
    import typer

    command = load()
    text = command.info.help if isinstance(command, typer.Typer) else command.__doc__
    return (text or "").partition("\n")[0]


def _command(arguments: Sequence[str]) -> None:
    commands = {} if arguments == ["--version"] else _commands()
    if arguments and arguments[0] not in (*commands, *ROOT):
        raise _no_command(arguments[0], commands)
    if len(arguments) == 2 and arguments[0] == "help" and arguments[1] in commands:
        arguments = [arguments[1], "--help"]
    _run(commands, arguments)


def _no_command(name: str, commands: Mapping[str, Load]) -> VlqError:
    """The mistake of a first argument that is no command."""
    from difflib import get_close_matches

    from vlq.query.language.registry import functions

    if name.startswith("-"):
        return elsewhere.OPTION_FIRST.error(name=name, near="".join(get_close_matches(name, ROOT, 1, 0.75)))
    if name in functions():
        return elsewhere.NO_COMMAND_BUT_FUNCTION.error(name=name, example=functions()[name].example)
    if name.lower().startswith(("select ", "with ")):
        return syntax.SQL.error()
    return elsewhere.NO_COMMAND.error(name=name, near="".join(get_close_matches(name.lower(), commands, 1)))


def _run(commands: Mapping[str, Load], arguments: Sequence[str]) -> None:
    """Hands over to the command framework, with the command that the first argument names, or else all of them."""
    import typer

    from vlq.query.commands import Command, root

    app = typer.Typer(
        name="vlq",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Ask a corpus of images what a vision-language model reads, patch by patch and layer by layer.",
        epilog=f'A query has parentheses: {EXAMPLE}. Its functions: vlq help. Its options: vlq "images()" --help.',
    )
    app.callback()(root)  # keeps the commands' names even if there is only one
    for name in arguments[:1] if set(arguments[:1]) & commands.keys() else commands:
        command = commands[name]()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name)
        else:
            app.command(name, cls=Command)(command)
    app(arguments, prog_name="vlq", standalone_mode=True)
