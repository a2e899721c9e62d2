"""Which parts of a model are units: structure first, then one look at it running."""

from collections.abc import Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from torch import nn

from layer_importance._batch import Call
from layer_importance._chains import Run, leaves, owners, runs
from layer_importance._depth_gate import check_ungated
from layer_importance._example import called
from layer_importance._hints import hints
from layer_importance._preserve import preserved
from layer_importance._probe import Probe, Seen, probe
from layer_importance._task import Task
from layer_importance._units import Unit, Units
from layer_importance._verdicts import at, calls_of, is_within, no_chain, tower_of, why_not
from layer_importance._whose import of_batch


def discover(
    model: nn.Module,
    example: Any,
    *,
    units: Sequence[str] | None = None,
    task: str | Task | None = None,
    call: Call | None = None,
) -> Units:
    """Returns the units of a model, in order of execution.

    Runs of sibling modules that hold weights are candidates; one forward pass on ``example`` then
    shows which of them run one after another, how often, and which keep shape and dtype of their
    stream, so that their input can stand in for their output. Nothing is traced, nothing is known
    of any architecture, and the model is left as it was.

    Where the caller adds what a module answers to its own input, the module is a branch, and is
    removed by adding nothing (``removal="zero"``).

    A module that runs several times in one pass (shared weights) is one unit a call. A net without
    repeated blocks has its linear and convolution layers as units. Where structure leaves open
    whether a stage or the blocks in it are the units, a number of layers in the model's
    configuration decides, then the classes it names as not to be split, then the run.

    Args:
        model: any module; may be on the ``meta`` device together with ``example``.
        example: one batch in the form the task reads; few samples are enough. ``None`` looks at
            the structure alone: no unit is removable then, since none was seen running. So does a
            model on ``meta`` whose forward pass cannot run there.
        units: paths of the modules to take instead, in any order.
        task: the task or its name, where it calls the model in its own way, as ``translation``
            hands labels to an encoder-decoder; the usual forms if not given.
        call: what to call the model with, if not what ``example`` says.

    Raises:
        ValueError: if a path in ``units`` names nothing, the model has no unit at all, or it
            has the gates of an :class:`ElasticDepth`.

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
    check_ungated(model)
    asked = None if units is None else _asked(model, units)
    if example is None and call is None:
        return _at_rest(model, asked, "")
    call = called(model, example, task, call)
    try:
        with preserved(model, gradients=False), of_batch(0, example):
            seen = probe(model, call, _watched(model, asked))
    except Exception as error:  # whatever an operator without data on meta raises
        if any(not parameter.is_meta for parameter in model.parameters()):
            raise
        return _at_rest(model, asked, f": {type(error).__name__}: {str(error)[:120]}")
    found: list[Unit] = []
    refused: dict[str, str] = {}
    for candidates in [[asked]] if asked else [_candidates(model, seen), [leaves(model)]]:
        if not found:
            found, reasons = _units(model, candidates, seen)
            refused.update(reasons)
    if not found:
        raise ValueError(f"model must have parts that run, got none in {type(model).__name__}")
    return Units(tuple(found), MappingProxyType(refused))


def _at_rest(model: nn.Module, asked: Run | None, why: str) -> Units:
    """The units by structure alone, in the order they are held."""
    chains = [asked] if asked else runs(model, hints=hints(model)) or [leaves(model)]
    counted: set[int] = set()
    known: set[int] = set()
    found = []
    for run in chains:
        for index, path in enumerate(run.paths):
            if id(at(model, path)) not in known:
                known.add(id(at(model, path)))
                found.append(_unit(model, run, path, index, None, None, counted, why))
    if not found:
        raise ValueError(f"model must have parts with weights, got none in {type(model).__name__}")
    return Units(tuple(found))


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
    found = runs(model, seen.adds_input, hints=hints(model))
    return _repeated(model, seen, found) or [leaves(model)]


def _repeated(model: nn.Module, seen: Probe, candidates: list[Run]) -> list[Run]:
    """The candidates, and the outermost composites that run several times without being in one."""
    inside = {path for run in candidates for path in run.paths}
    found: list[str] = []
    for path, calls in seen.calls.items():
        covered = any(is_within(path, other) for other in (*inside, *found))
        holds = any(is_within(other, path) for other in inside)
        if len(calls) > 1 and not covered and not holds and _is_repeated_block(model, path, calls):
            found.append(path)
    return candidates + [Run(path.rpartition(".")[0], (path,)) for path in found]


def _is_repeated_block(model: nn.Module, path: str, calls: list[Seen]) -> bool:
    return owners(at(model, path)) >= 2 and all(call.keeps_shape for call in calls)


def _units(
    model: nn.Module, candidates: list[Run], seen: Probe
) -> tuple[list[Unit], dict[str, str]]:
    found: list[tuple[int, Unit]] = []
    refused: dict[str, str] = {}
    counted: set[int] = set()
    for run in candidates:
        if reason := no_chain(model, run, seen):
            refused.update(dict.fromkeys(run.paths, reason))
            continue
        # one module at several places of a container has all its calls under its first path
        first: dict[int, str] = {}
        for path in run.paths:
            first.setdefault(id(at(model, path)), path)
        calls = sorted(
            (call.order, path, number, call)
            for path in first.values()
            for number, call in enumerate(calls_of(model, path, seen))
        )
        for index, (order, path, number, call) in enumerate(calls):
            several = len(calls_of(model, path, seen)) > 1
            unit = _unit(model, run, path, index, number if several else None, call, counted)
            # who is added to its own input is a branch, and its input is no answer
            unit = replace(unit, removal="zero") if path in seen.added else unit
            found.append((order, unit))
        refused.update({p: "is not called" for p in first.values() if not calls_of(model, p, seen)})
    return [unit for _, unit in sorted(found, key=lambda pair: pair[0])], refused


def _unit(
    model: nn.Module,
    run: Run,
    path: str,
    index: int,
    number: int | None,
    call: Seen | None,
    counted: set[int],
    why: str = "",
) -> Unit:
    module = at(model, path)
    own = [p for p in module.parameters() if id(p) not in counted]
    counted.update(map(id, own))
    return Unit(
        name=path if number is None else f"{path}#{number}",
        path=path,
        chain=run.container,
        index=index,
        tower=tower_of(run.container),
        type_name=type(module).__name__,
        parameters=sum(p.numel() for p in own),
        call=number,
        kind="block" if any(True for _ in module.children()) else "leaf",
        reason=f"not seen running{why}" if call is None else why_not(call),
    )
