"""The command `adlrns`: where its exit codes and its one-line errors come from."""

import inspect
import re
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from adlrns import __version__
from adlrns._commands import compress, demo, doctor, export
from adlrns._commands_analyze import analyze
from adlrns._commands_grow import grow
from adlrns._commands_spike import spike
from adlrns._commands_train import experiment, train
from adlrns._errors import RunError, UseError, one_line

INTERRUPTED = 130


class Group(TyperGroup):
    """Runs a command; an error becomes one line on stderr and an exit code."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Any:
        """Runs the command and exits: 0 done, 1 failed, 2 called wrongly, 130 interrupted."""
        arguments = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in arguments
        arguments = [argument for argument in arguments if argument != "--debug"]
        sys.exit(self._run(arguments, rest, {**options, "standalone_mode": False}, debug))

    def _run(self, args: list[str], rest: Any, options: dict[str, Any], debug: bool) -> int:
        try:
            code = super().main(args, *rest, **options)
        except (KeyboardInterrupt, typer.Abort):
            code = INTERRUPTED
        except Exception as error:
            if debug:
                raise
            if not _was_interrupt(error):
                return _explain(error)
            code = INTERRUPTED
        if code == INTERRUPTED:
            print("error: interrupted", file=sys.stderr)  # noqa: T201
        return code if isinstance(code, int) else 0


def _was_interrupt(error: BaseException | None) -> bool:
    """Says whether Ctrl-C is behind another's error: libraries turn it into theirs."""
    if isinstance(error, UseError | RunError):
        return False
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _explain(error: Exception) -> int:
    # the command line's own errors know their exit code and how to be written
    usage = getattr(error, "format_message", None)
    text = " ".join((_value_error(error) or usage()).split()) if usage else one_line(error)
    if text:  # without a command the help is all there is to say
        print(f"error: {text}", file=sys.stderr)  # noqa: T201
    return int(getattr(error, "exit_code", 1))


def _value_error(error: Exception) -> str | None:
    """What is wrong with an option's value, and the value: typer's own text keeps the latter."""
    details: Any = getattr(error.__cause__, "errors", None)
    option: Any = getattr(error, "param", None)
    if details is None or option is None:
        return None
    first = details()[0]
    rule = first["msg"].removeprefix("Value error, ").partition(", unable")[0].rstrip(".")
    rule = rule.replace("Input should", "must")
    got = repr(first["input"])
    said = "" if got in rule else f", got {got}"
    return f"Invalid value for {option.opts[0]!r}: {rule}{said}"


def _version(asked: bool) -> None:
    if asked:
        print(f"adlrns {__version__}")  # noqa: T201
        raise typer.Exit


app = typer.Typer(
    cls=Group,
    name="adlrns",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    help=(
        "A dial for the cost of a trained network.\n\n"
        "Results go to stdout, progress and errors to stderr. Exit codes: 0 done, 1 failed, "
        "2 called wrongly, 130 interrupted. [bold]--debug[/bold] anywhere shows the traceback of "
        "an error."
    ),
    epilog=(
        "Begin with: [bold]adlrns doctor[/bold], [bold]adlrns demo[/bold], then "
        "[bold]adlrns compress mymodule:load --data mymodule:batches --budget 0.5[/bold]"
    ),
)


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    del version


def _flowing(command: Callable[..., None]) -> str:
    """The paragraphs of a command's docstring, to be broken where the terminal ends."""
    return re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(command.__doc__ or ""))


for command in (demo, compress, analyze, export, train, grow, spike, experiment, doctor):
    epilog = "[bold]--debug[/bold] anywhere shows the traceback of an error."
    app.command(help=_flowing(command), epilog=epilog)(command)


def main() -> None:
    """Runs the command."""
    app()
