"""Progress on stderr, results on stdout."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from adlrns._table import Table

Advance = Callable[[int, int], None]

# where nobody watches, lines are as long as they have to be, and come every so many seconds
_UNWATCHED_WIDTH, _UNWATCHED_EVERY = 220, 30.0


def show(table: Table) -> None:
    """Prints a table to stdout."""
    console = Console(width=None if sys.stdout.isatty() else _UNWATCHED_WIDTH)
    console.print(table.to_rich(console.width))


def say(text: str) -> None:
    """Prints a line of the result to stdout."""
    print(text)  # noqa: T201


def remark(text: str) -> None:
    """Prints to stderr what a reader should know about how the work is done."""
    tell(f"note: {text}")


def tell(text: str, console: Console | None = None) -> None:
    """Prints a line of progress to stderr, as it is."""
    # what a user called a thing is no markup: neither [/x] nor :factory: means anything
    (console or Console(stderr=True)).print(
        text, markup=False, emoji=False, highlight=False, soft_wrap=True
    )


@contextmanager
def stage(text: str) -> Iterator[Advance]:
    """Shows a stage of the work while it runs, by a bar or by a line now and then; what it took.

    Yields:
        `advance(done, total)`; a total of 0 stands for an unknown one.
    """
    console, start = Console(stderr=True), time.perf_counter()
    if console.is_terminal:
        with _bar(console) as bar:
            task = bar.add_task(text, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total or None)
    else:
        yield _lines(console, text)
    tell(f"{text}: {time.perf_counter() - start:.1f} s", console)


def _lines(console: Console, text: str) -> Advance:
    """Returns what tells of progress where there is no bar."""
    last = time.perf_counter()

    def advance(done: int, total: int) -> None:
        nonlocal last
        if (now := time.perf_counter()) - last >= _UNWATCHED_EVERY:
            last = now
            tell(f"{text}: {done} of {total}" if total else f"{text}: {done}", console)

    return advance


def _bar(console: Console) -> Progress:
    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)
