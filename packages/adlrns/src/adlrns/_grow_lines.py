"""What `adlrns grow` says while it works."""

import json
import sys
import time
from dataclasses import asdict
from typing import Any, TextIO

from adlrns._console import tell
from adlrns._grow_train import Row
from neuro_morph import MorphogenesisEvent

# seconds between two lines of progress: epochs may be short
_EVERY = 2.0


class Lines:
    """Lines of the result, as they come, and of progress where no bar shows it.

    Args:
        out: where they go, as it is before a moving bar takes the terminal.
        json: as JSON, in place of words.
    """

    def __init__(self, out: TextIO, *, json: bool):
        self._out, self._json = out, json
        self._last = 0.0

    def say(self, text: str) -> None:
        """Prints a line."""
        # above a moving bar where there is one, never into it
        print(text, file=None if self._out.isatty() else self._out, flush=True)

    def event(self, event: MorphogenesisEvent, gain: float | None) -> None:
        """Tells of an edit that was done, refused or undone."""
        if self._json:
            self._record("growth", asdict(event) | {"gain": gain})
        else:
            self.say(told(event, gain))

    def epoch(self, row: Row, *, epochs: int, metric: str) -> None:
        """Tells of an epoch of so many."""
        if self._json:
            self._record("epoch", row)
        else:
            self.progress(row, epochs=epochs, metric=metric)

    def progress(self, row: Row, *, epochs: int, metric: str) -> None:
        """Tells on stderr of the first, of the last, and now and then of other epochs."""
        now = time.monotonic()
        if sys.stderr.isatty() or (row["epoch"] not in (1, epochs) and now - self._last < _EVERY):
            return
        self._last = now
        tell(
            f"epoch {row['epoch']} of {epochs}: loss {row['loss']:.4f}, "
            f"{metric} {row[metric]:.4f}, {row['parameters']:,} parameters"
        )

    def result(self, grown: Row, fixed: Row | None) -> None:
        """Tells what it came to."""
        self._record("result", {"grown": grown, "fixed": fixed})

    def _record(self, kind: str, values: dict[str, Any]) -> None:
        self.say(json.dumps({"record": kind, **values}, ensure_ascii=False))


def told(event: MorphogenesisEvent, gain: float | None) -> str:
    """Returns an event as a line of words."""
    what = f"step {event.step}: {event.op} {event.target} by {event.detail.get('by', '?')}"
    gained = "" if gain is None else f", gain {gain:.3g}"
    if event.decision == "committed":
        sizes = f"{event.parameters_before:,} to {event.parameters_after:,} parameters"
        return f"{what}: kept, {sizes}{gained}"
    return f"{what}: {event.decision}, {event.why_not}{gained}"
