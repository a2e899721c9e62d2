"""What `adlrns grow` is asked for."""

from dataclasses import dataclass, fields
from pathlib import Path

# what stands in the folder of a run before its first checkpoint does
EVENTS, SPEC, WEIGHTS, HISTORY = FIRST = (
    "events.jsonl",
    "architecture.json",
    "grown.safetensors",
    "history.csv",
)
CHECKPOINT = "resume.safetensors"
# at the end of a run nothing grows: new weights need time
LAST_PART = 0.25
_WINDOW, _TRIAL = (24, 200), (20, 200)
# candidates that are tried at a time, beside the same steps without growth
SHORT_LIST = 3


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    model: str
    data: str
    net: tuple[str, ...]
    out: Path
    size: int | None
    epochs: int
    lr: float
    batch_size: int
    max_parameters: int | None
    max_flops: int | None
    events: int
    by: float
    init: str
    when: str
    tournament: bool
    trial_steps: int | None
    compare: bool
    seed: int
    device: str
    resume: bool
    json: bool
    command: str

    def window(self, total: int) -> int:
        """Returns over how many steps of a run the slope of the loss is taken."""
        return min(max(_WINDOW[0], total // 8), _WINDOW[1])

    def trial(self, total: int) -> int:
        """Returns the steps of a trial in a run of so many."""
        return self.trial_steps or min(max(_TRIAL[0], total // 40), _TRIAL[1])

    def trials(self, total: int) -> int:
        """Returns how many steps the trials of all events may take in a run of so many."""
        return self.tournament * self.events * (SHORT_LIST + 1) * self.trial(total)

    def period(self, total: int) -> int:
        """Returns the steps between two growths, all of them before the last part."""
        return max(1, int((1 - LAST_PART) * total) // self.events)

    def facts(self) -> dict[str, str]:
        """Returns what was asked for, as words."""
        left_out = {"command", "json", "out", "resume"}
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        words = {k: " ".join(v) if isinstance(v, tuple) else str(v) for k, v in held.items()}
        return {name.replace("_", "-"): v for name, v in words.items() if v not in ("", "None")}
