"""Checkpoints of a training run: whole or not at all, the newest few and the best."""

import re
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from adlrns_models._checkpoint_tree import pack, unpack
from adlrns_models._files import field, read, write

BEST = "best.safetensors"
_NUMBERED = re.compile(r"step-(\d{8,})\.safetensors")
# what a process that was killed while it wrote has left behind
_UNFINISHED = re.compile(r"\.(step-\d{8,}|best)\.safetensors\.[0-9a-f]{16}")


def numbered(directory: Path, step: int) -> Path:
    """Returns where the checkpoint of ``step`` belongs."""
    return directory / f"step-{step:08d}.safetensors"


def steps(directory: Path) -> list[int]:
    """Returns the steps of which there are checkpoints, oldest first."""
    if not directory.is_dir():
        return []
    found = (_NUMBERED.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in found if match)


def save(path: Path, state: dict[str, Any]) -> None:
    """Writes a nested state of plain values and tensors to ``path``."""
    tree, tensors = pack(state, "state")
    write(path, "training", _Named(tensors), {"state": tree})


def load(path: Path) -> dict[str, Any]:
    """Returns what :func:`save` wrote.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming file and field, if it is damaged or foreign.
    """
    header, tensors = read(path, "training")
    try:
        state = unpack(field(path, header, "state", dict), tensors)
    except ValueError as error:
        raise ValueError(f"{path}: field state is damaged: {error}") from error
    if not isinstance(state, dict):
        raise ValueError(f"{path}: field state must be a dict, got {type(state).__name__}")
    return state


def prune(directory: Path, keep: int, *, newest: int) -> None:
    """Deletes numbered checkpoints but the last ``keep`` up to ``newest``, and unfinished ones."""
    found = steps(directory)
    kept = [step for step in found if step <= newest][-keep:]
    for step in set(found) - set(kept):  # later ones belong to a course that was given up
        numbered(directory, step).unlink(missing_ok=True)
    for path in directory.iterdir():
        if _UNFINISHED.fullmatch(path.name):
            path.unlink(missing_ok=True)


class _Named(nn.Module):
    """Presents named tensors as the state of a module, which is what the writer of files takes."""

    def __init__(self, tensors: dict[str, Tensor]):
        super().__init__()
        self.tensors = tensors

    def state_dict(  # type: ignore[override]
        self, *args: Any, **kwargs: Any
    ) -> dict[str, Tensor]:
        """Returns the tensors."""
        del args, kwargs
        return self.tensors
