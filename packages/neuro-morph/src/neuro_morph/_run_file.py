"""A whole run of growth in one file, and a run that goes on from it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from neuro_morph._averages import averaged_model
from neuro_morph._checkpoint import read_into, write
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._spec import know_spec

if TYPE_CHECKING:
    from neuro_morph._morpher import Morpher


def save_run(morpher: "Morpher", path: Path) -> None:
    """Writes a run to a file, whole or not at all.

    Raises:
        TypeError: if it holds something that is neither a tensor nor a plain value.
        ValueError: if its edits cannot be done again without data.
    """
    more = {
        "steps": morpher.steps,
        "generator": morpher.generator.get_state(),
        "events": [event.to_json() for event in morpher.events],
        "averages": [dict(average.state_dict()) for average in morpher.averages],
        "others": [other.state_dict() for other in morpher.others],
    }
    write(path, morpher.model, morpher.spec, morpher.optimizers, more)


@torch.inference_mode(False)
def load_run(morpher: "Morpher", path: Path) -> None:
    """Fills a run that has not grown yet from a file of :func:`save_run`.

    Raises:
        ValueError: if the run has grown, or the file is of another; nothing has changed then.
    """
    if edits := len(morpher.spec.steps):
        raise ValueError(
            f"load needs a model as its class makes it, got one that grew by {edits} edits"
        )
    kept = morpher.snapshot()
    try:
        spec, more = read_into(path, morpher.model, morpher.optimizers)
        morpher.spec.steps[:], morpher._graph = spec.steps, None
        _fill(morpher, more)
    except BaseException as error:
        kept.put_back()
        if isinstance(error, RuntimeError | KeyError):
            raise ValueError(f"{path} is of another run: {error}") from error
        raise
    finally:
        know_spec(morpher.model, morpher.spec)


def _fill(morpher: "Morpher", more: dict[str, Any]) -> None:
    for name in ("averages", "others"):
        held, given = len(more.get(name, ())), len(getattr(morpher, name))
        if held != given:
            raise ValueError(f"{name} must be {held}, got {given}")
    for average, state in zip(morpher.averages, more.get("averages", ()), strict=True):
        morpher.spec.replay(averaged_model(average))
        average.load_state_dict(state)
    for other, state in zip(morpher.others, more.get("others", ()), strict=True):
        other.load_state_dict(state)
    if "generator" in more:
        morpher.generator.set_state(more["generator"])
        morpher.steps = more["steps"]
        morpher.events[:] = [MorphogenesisEvent.from_json(text) for text in more["events"]]
