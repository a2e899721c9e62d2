"""What :class:`DNMFramework` tells of its work."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from neuro_morph._dnm_run import Run
from neuro_morph._event import MorphogenesisEvent, standing

_KINDS = {"widen": "neuron_divisions", "connect": "connection_growths", "deepen": "optimizations"}


def count(events: Sequence[MorphogenesisEvent]) -> dict[str, Any]:
    """Returns how many changes of each kind were made, and the parameters they added."""
    found: dict[str, Any] = dict.fromkeys(_KINDS.values(), 0)
    for event in events:
        found[_KINDS[event.op]] += 1
    added = sum(event.parameters_added for event in events)
    return {**found, "parameters_added": added, "events": list(events)}


def summary_of(run: Run, performance: Sequence[float], reasons: Sequence[str]) -> dict[str, Any]:
    """Returns what has happened in a run.

    Changes that were rolled back are counted as such and not among those of their kind. The
    parameters are those of the model as it is.
    """
    kept, undone = standing(run.events), [e for e in run.events if e.decision == "rolled back"]
    now = sum(p.numel() for p in run.inner.parameters())
    return {
        **count(kept),
        "total_events": len(kept),
        "rolled_back": len(undone),
        "refused": sum(event.decision == "refused" for event in run.events),
        "parameters_before": run.parameters,
        "parameters": now,
        "parameters_added": now - run.parameters,
        "performance": list(performance),
        "last_reasons": list(reasons),
        "events": [asdict(event) for event in run.events],
    }
