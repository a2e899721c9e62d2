"""What `adlrns grow` says while it works."""

import json
from dataclasses import asdict
from typing import Any, TextIO

from adlrns._grow_train import Row
from neuro_morph import MorphogenesisEvent


class Lines:
    """Lines of the result, as they come.

    Args:
        out: where they go, as it is before a moving bar takes the terminal.
        json: as JSON, in place of words.
    """

    def __init__(self, out: TextIO, *, json: bool):
        self._out, self._json = out, json

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

    def epoch(self, row: Row) -> None:
        """Tells of an epoch; in words the bar does."""
        if self._json:
            self._record("epoch", row)

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
