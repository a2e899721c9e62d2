"""Which parts of a model are units: structure first, then one look at it running."""

import re
from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

from torch import nn

from layer_importance._batch import Call, inputs, without_cache
from layer_importance._chains import Run, leaves, runs, weight
from layer_importance._preserve import preserved
from layer_importance._probe import Probe, Seen, probe
from layer_importance._units import Unit, Units


def discover(
    model: nn.Module, example: Any, *, units: Sequence[str] | None = None, call: Call | None = None
) -> Units:
    """Returns the units of a model, in order of execution.

    Runs of sibling modules that hold weights are candidates; one forward pass on ``example`` then
    shows which of them run one after another, how often, and which keep shape and dtype of their
    stream, so that their input can stand in for their output. Nothing is traced, nothing is known
    of any architecture, and the model is left as it was.

    A module that runs several times in one pass (shared weights) is one unit a call. A net without
    repeated blocks has its linear and convolution layers as units.

    Args:
        model: any module; may be on the ``meta`` device together with ``example``.
        example: one batch in the form the task reads; few samples are enough.
        units: paths of the modules to take instead, in any order.
        call: what to call the model with, if not what :func:`inputs` makes of ``example``.

    Raises:
        ValueError: if a path in ``units`` names nothing, or the model has no unit at all.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        ...     def forward(self, x):
        ...         return x + self.down(torch.relu(self.up(x)))
        >>> net = nn.Sequential(*[Block() for _ in range(3)], nn.Linear(8, 2))
        >>> discover(net, torch.randn(4, 8)).names
        ['0', '1', '2']
    """
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    call = without_cache(model, inputs(example) if call is None else call)
    asked = None if units is None else _asked(model, units)
    with preserved(model, gradients=False):
        seen = probe(model, call, _watched(model, asked))
    candidates = _candidates(model, seen) if asked is None else [asked]
    found, refused = _units(model, candidates, seen)
    if not found:
        raise ValueError(f"model must have parts that run, got none in {type(model).__name__}")
    return Units(tuple(found), MappingProxyType(refused))


def _asked(model: nn.Module, paths: Sequence[str]) -> Run:
    known = dict(model.named_modules(remove_duplicate=False))
    for path in paths:
        if not path or path not in known:
            near = [name for name in known if name.endswith(path.rpartition(".")[2])][:3]
            raise ValueError(f"units must name modules of the model, got {path!r}; near: {near}")
    return Run("", tuple(paths))


def _watched(model: nn.Module, asked: Run | None) -> dict[str, nn.Module]:
    if asked is None:  # all of it: who turns out to be a block is not known before
        return {path: module for path, module in model.named_modules() if path}
    return {path: model.get_submodule(path) for path in asked.paths}


def _candidates(model: nn.Module, seen: Probe) -> list[Run]:
    return _repeated(model, seen, runs(model, seen.adds_input)) or [leaves(model)]


def _repeated(model: nn.Module, seen: Probe, candidates: list[Run]) -> list[Run]:
    """The candidates, and the outermost composites that run several times without being in one."""
    inside = {path for run in candidates for path in run.paths}
    found: list[str] = []
    for path, calls in seen.calls.items():
        covered = any(_is_within(path, other) for other in (*inside, *found))
        holds = any(_is_within(other, path) for other in inside)
        if len(calls) > 1 and not covered and not holds and _is_repeated_block(model, path, calls):
            found.append(path)
    return candidates + [Run(path.rpartition(".")[0], (path,)) for path in found]


def _is_repeated_block(model: nn.Module, path: str, calls: list[Seen]) -> bool:
    owners = sum(any(True for _ in m.parameters(recurse=False)) for m in _at(model, path).modules())
    return owners >= 2 and all(call.keeps_shape for call in calls)


def _units(
    model: nn.Module, candidates: list[Run], seen: Probe
) -> tuple[list[Unit], dict[str, str]]:
    found: list[tuple[int, Unit]] = []
    refused: dict[str, str] = {}
    counted: set[int] = set()
    for run in candidates:
        if reason := _no_chain(model, run, seen):
            refused.update(dict.fromkeys(run.paths, reason))
            continue
        # one module at several places of a container has all its calls under its first path
        first: dict[int, str] = {}
        for path in run.paths:
            first.setdefault(id(_at(model, path)), path)
        calls = sorted(
            (call.order, path, number, call)
            for path in first.values()
            for number, call in enumerate(_calls(model, path, seen))
        )
        for index, (order, path, number, call) in enumerate(calls):
            several = len(_calls(model, path, seen)) > 1
            found.append(
                (order, _unit(model, run, path, index, number if several else None, call, counted))
            )
        refused.update({p: "is not called" for p in first.values() if not _calls(model, p, seen)})
    return [unit for _, unit in sorted(found, key=lambda pair: pair[0])], refused


def _unit(
    model: nn.Module,
    run: Run,
    path: str,
    index: int,
    number: int | None,
    call: Seen,
    counted: set[int],
) -> Unit:
    module = _at(model, path)
    own = [p for p in module.parameters() if id(p) not in counted]
    counted.update(map(id, own))
    return Unit(
        name=path if number is None else f"{path}#{number}",
        path=path,
        chain=run.container,
        index=index,
        tower=_tower(run.container),
        type_name=type(module).__name__,
        parameters=sum(p.numel() for p in own),
        call=number,
        kind="block" if any(True for _ in module.children()) else "leaf",
        reason=_why_not(call),
    )


def _why_not(call: Seen) -> str:
    if call.x is None or call.y is None:
        return "has no floating tensor going in or out"
    if call.x != call.y:
        return f"changes the shape: {list(call.x)} goes in, {list(call.y)} comes out"
    if call.dtypes[0] != call.dtypes[1]:
        return f"changes the dtype: {call.dtypes[0]} goes in, {call.dtypes[1]} comes out"
    return ""


def _no_chain(model: nn.Module, run: Run, seen: Probe) -> str:
    """Why siblings are no chain: they run side by side, as experts and heads do, or not at all."""
    calls = [_calls(model, path, seen) for path in run.paths]
    called = [c for c in calls if c]
    if not called:
        return "is not called"
    if len(called) < 2 or weight(_at(model, run.paths[0])) == 0:
        return ""
    sources = {call.x_id for group in called for call in group[:1] if call.x_id}
    handed_on = {call.y_id for group in called for call in group}
    if len(sources) == 1 and not sources & handed_on:
        return "runs beside its siblings on the same input"
    return ""


def _calls(model: nn.Module, path: str, seen: Probe) -> list[Seen]:
    """Calls of a module, under whichever of its paths they were seen."""
    if found := seen.of(path):
        return found
    module = _at(model, path)
    return next((c for p, c in seen.calls.items() if _at(model, p) is module), [])


def _tower(container: str) -> str:
    """The container's path without numbers: stages of one tower have it in common."""
    parts = [re.sub(r"_?\d+$", "", part) for part in container.split(".")]
    return ".".join(part for part in parts if part)


def _at(model: nn.Module, path: str) -> nn.Module:
    return model.get_submodule(path)


def _is_within(path: str, outer: str) -> bool:
    return path == outer or path.startswith(outer + ".")
