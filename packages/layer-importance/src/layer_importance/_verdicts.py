"""What a run of a model says about modules: whether they are a chain, whether they can go."""

import re

from torch import nn

from layer_importance._chains import Run, weight
from layer_importance._probe import Probe, Seen


def why_not(call: Seen) -> str:
    """Returns why a module's input cannot stand in for its output; empty if it can."""
    if call.x is None or call.y is None:
        return "has no floating tensor going in or out"
    if call.x != call.y:
        return f"changes the shape: {list(call.x)} goes in, {list(call.y)} comes out"
    if call.dtypes[0] != call.dtypes[1]:
        return f"changes the dtype: {call.dtypes[0]} goes in, {call.dtypes[1]} comes out"
    return ""


def no_chain(model: nn.Module, run: Run, seen: Probe) -> str:
    """Returns why siblings are no chain: they run beside each other, as experts do, or not."""
    if all(isinstance(at(model, path), nn.ModuleList | nn.ModuleDict) for path in run.paths):
        return "is a list of modules, which does not run itself"
    calls = [calls_of(model, path, seen) for path in run.paths]
    called = [c for c in calls if c]
    if not called:
        return "is not called"
    if len(called) < 2 or weight(at(model, run.paths[0])) == 0:
        return ""
    sources = {call.x_id for group in called for call in group[:1] if call.x_id}
    handed_on = {call.y_id for group in called for call in group}
    if len(sources) == 1 and not sources & handed_on:
        return "runs beside its siblings on the same input"
    shapes = {call.x for group in called for call in group if call.x}
    tails = {shape[1:] for shape in shapes}
    if not sources & handed_on and len(tails) == 1 < len(shapes):
        return "runs beside its siblings on other parts of the input"
    return ""


def calls_of(model: nn.Module, path: str, seen: Probe) -> list[Seen]:
    """Returns the calls of a module, under whichever of its paths they were seen."""
    if found := seen.of(path):
        return found
    module = at(model, path)
    return next((c for p, c in seen.calls.items() if at(model, p) is module), [])


def tower_of(container: str) -> str:
    """Returns the container's path without numbers: stages of one tower have it in common."""
    parts = [re.sub(r"_?\d+$", "", part) for part in container.split(".")]
    return ".".join(part for part in parts if part)


def at(model: nn.Module, path: str) -> nn.Module:
    """Returns the module at a path."""
    return model.get_submodule(path)


def is_within(path: str, outer: str) -> bool:
    """Whether a path is another or inside it."""
    return path == outer or path.startswith(outer + ".")
