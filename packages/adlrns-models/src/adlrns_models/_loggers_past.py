"""What of a log a run has behind it, and whether it is that run's log."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adlrns_models._atomic import write_atomically
from adlrns_models._callbacks import Record

if TYPE_CHECKING:
    from adlrns_models._trainer import ADLRNSTrainer


def check_new(trainer: "ADLRNSTrainer", path: Path) -> None:
    """Raises if a run that begins anew would take out what another one has written."""
    if not trainer.step and not trainer.resume and (size := path.stat().st_size):
        raise ValueError(
            f"{path} must hold no log of another run, got {size} bytes: pass resume=True to go on, "
            "or choose another file"
        )


def past_of(trainer: "ADLRNSTrainer", path: Path, records: list[Record]) -> list[bool]:
    """Returns which records of a log the run has behind it; the others are about to go.

    What no run would write again is copied first: lines of somebody's own, without an epoch, and
    all of a log none of whose epochs shows whose it is (it may be of this run, killed before its
    first checkpoint, or of another).

    Raises:
        ValueError: if an epoch is another than the run's.
    """
    past = [_is_past(record, trainer) for record in records]
    epochs = [
        record
        for record, is_past in zip(records, past, strict=True)
        if is_past and record.get("event", "epoch") == "epoch"
    ]
    for record in epochs:
        if not _is_same(record, trainer.history[int(record["epoch"]) - 1]):
            raise ValueError(
                f"{path} must hold the log of this run, got another's epoch {record['epoch']}: "
                "choose another file"
            )
    others = [record for record, is_past in zip(records, past, strict=True) if not is_past]
    if records[-1:] == [{}] and not path.read_bytes().endswith(b"\n"):
        others.pop()  # half a line: the run was killed while it wrote
    if not all(past) and not (epochs and all(map(_has_epoch, others))):
        _copy_aside(path)
    return past


def _is_past(record: Record, trainer: "ADLRNSTrainer") -> bool:
    """Whether the run has behind it what a line speaks of."""
    name = "step" if record.get("event") == "step" else "epoch"
    try:
        return 1 <= int(record[name]) <= getattr(trainer, name)
    except (ValueError, TypeError, KeyError):
        return False


def _has_epoch(record: Record) -> bool:
    try:
        return int(record["epoch"]) > 0
    except (ValueError, TypeError, KeyError):
        return False


def _is_same(record: Record, trained: Record) -> bool:
    """Whether a line of an epoch says what was trained, in the columns that it has."""
    shared = record.keys() & trained.keys()
    return all(str(record[k]) in (str(trained[k]), str(finite(trained[k]))) for k in shared)


def _copy_aside(path: Path) -> None:
    number = 1
    while (copy := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    write_atomically(copy, path.read_bytes())


def finite(value: Any) -> Any:
    """Returns a value, None for a number that JSON has no word for."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
