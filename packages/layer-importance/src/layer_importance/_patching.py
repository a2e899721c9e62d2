"""Clean and corrupted runs of the same batches, side by side."""

from collections.abc import Callable, Iterator

from torch import Tensor

from layer_importance._batch import size
from layer_importance._corruptions import Corruption, NobodyElseError
from layer_importance._replay import Replay
from layer_importance._sharing import totals
from layer_importance._streams import as_given, known_entries, samples_first
from layer_importance._subject import Subject
from layer_importance._units import Unit


def pairs(
    subject: Subject,
    corruption: Corruption,
    what: str,
    progress: Callable[[str, int], None],
    *,
    gradients: bool = False,
) -> Iterator[tuple[Replay, Replay]]:
    """Yields the clean and the corrupted run of every batch, both judged by the clean labels.

    A batch of one sample that nobody can stand in for, as the last of a data set may be, is left
    out, unless there is none but such.

    Args:
        subject: what is studied.
        corruption: how inputs are spoiled.
        what: name for ``progress``.
        progress: told how many batches are done.
        gradients: take gradients in the corrupted run.

    Raises:
        ValueError: if the corruption changes the number of samples, or no sample has another.
    """
    alone: NobodyElseError | None = None
    used = 0
    for done, batch in enumerate(subject.batches(), 1):
        try:
            spoiled = corruption(batch, subject.drawn(subject.index))
        except NobodyElseError as error:
            alone = error
            continue
        used += 1
        if size(spoiled) != size(batch):
            raise ValueError(
                f"corruption must keep the number of samples, got {size(spoiled)} for {size(batch)}"
            )
        with (
            Replay(subject, batch) as clean,
            Replay(subject, spoiled, answers=batch, gradients=gradients) as corrupt,
        ):
            yield clean, corrupt
        progress(what, done)
    (everywhere,) = totals(subject.share, used)  # collective: everybody asks
    if alone is not None and not everywhere:
        raise alone


def unlike(unit: Unit, clean: Replay, corrupt: Replay) -> str:
    """Returns why a unit cannot be compared in the two runs; empty if it can."""
    if not clean.ran(unit) or not corrupt.ran(unit):
        return "did not run in both the clean and the corrupted run"
    shapes = tuple(clean.y(unit).shape), tuple(corrupt.y(unit).shape)
    if shapes[0] != shapes[1]:
        return f"hands on {list(shapes[0])} in the clean and {list(shapes[1])} in the corrupted run"
    return ""


def known_in_both(unit: Unit, one: Replay, other: Replay) -> Tensor | None:
    """Returns which tokens of a unit's output are real in both runs, one feature, as they lie."""
    subject, y = one.subject, one.y(unit)
    rows = samples_first(subject, unit, y, size(one.batch))
    if rows is None:
        return None
    masks = [known_entries(subject, unit, run.batch, rows) for run in (one, other)]
    known = [mask for mask in masks if mask is not None]
    if not known:
        return None
    both = known[0] if len(known) == 1 else known[0] & known[1]
    return as_given(subject, unit, both)
