"""What `adlrns spike` is asked for."""

from dataclasses import dataclass, fields
from pathlib import Path

# what a run goes on from
CHECKPOINT = "checkpoint.safetensors"


@dataclass(frozen=True)
class Settings:
    """What the command line says."""

    data: str
    out: Path
    net: str
    hidden: tuple[int, ...]
    steps: int
    encoding: str
    tau: float
    reset: str
    size: int
    bands: int
    limit: int | None
    epochs: int
    lr: float
    batch_size: int
    seed: int
    device: str
    resume: bool
    json: bool
    command: str
    compile: bool = False
    asked: frozenset[str] = frozenset()  # options that were given, though they need not be

    def facts(self) -> dict[str, str]:
        """Returns what a run is, as words: what may not change when it goes on."""
        left_out = {"asked", "command", "json", "out", "resume", "device"}
        held = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in left_out}
        words = {
            k: ",".join(map(str, v)) if isinstance(v, tuple) else str(v) for k, v in held.items()
        }
        return {name.replace("_", "-"): value for name, value in words.items()}
