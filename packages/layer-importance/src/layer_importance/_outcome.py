"""What is said of scores beside the scores, and of an analysis beside what it found."""

import platform
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import torch

from layer_importance._method import OF_GRADIENTS, Method
from layer_importance._reach import NOT_HERE
from layer_importance._scores import MethodScores
from layer_importance._subject import Subject
from layer_importance._sweep import Sweep

_NAMED = 6
"""At most so many batches that were left out are named."""


def left_out(subject: Subject) -> list[str]:
    """Returns a note about batches without a sample, if there were some."""
    gone = [str(index) for index in sorted(subject.left_out)]
    if not gone:
        return []
    which = ", ".join(gone[:_NAMED]) + (", ..." if len(gone) > _NAMED else "")
    what = "batch holds" if len(gone) == 1 else "batches hold"
    return [f"{len(gone)} {what} no sample that has something to answer, left out: {which}"]


def without_reach(method: Method, scores: MethodScores, subject: Subject) -> MethodScores:
    """Returns scores without zeros that say only that no gradient comes there."""
    if not method.needs & OF_GRADIENTS:
        return scores
    cut = {unit.name for unit in subject.units if unit.path in subject.reached.cut}
    gone = {name: NOT_HERE for name, score in scores.items() if name in cut and score.value == 0}
    kept = {name: score for name, score in scores.scores.items() if name not in gone}
    return replace(scores, scores=kept, missing={**scores.missing, **gone})


def swept(scores: MethodScores, seconds: float, sweep: Sweep) -> MethodScores:
    """Returns scores with what the sweep knows of them."""
    forwards, backwards = sweep.passes
    missing = {
        unit.name: sweep.missing.get(unit.name, "no sample told anything about it")
        for unit in sweep.subject.units
        if unit.name not in scores and unit.name not in scores.missing
    }
    return replace(
        scores,
        missing={**scores.missing, **missing},
        seconds=seconds,
        forwards=forwards,
        backwards=backwards,
        shared=True,
    )


def facts(subject: Subject) -> dict[str, Any]:
    """Returns what an analysis was of, and with what."""
    return {
        "model": type(subject.model).__name__,
        "parameters": sum(p.numel() for p in subject.model.parameters()),
        "task": subject.task.name,
        "seed": subject.seed,
        "device": str(subject.device),
        "layer-importance": version("layer-importance"),
        "torch": torch.__version__,
        "machine": platform.machine(),
    }
