"""Units taken out of a copy of a model, by the most thorough way that passes every check."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from layer_importance._batch import Call, to_device
from layer_importance._depth_gate import check_ungated
from layer_importance._discover import discover
from layer_importance._entry_points import EXECUTORS as GROUP, offered
from layer_importance._example import called
from layer_importance._execute import files
from layer_importance._execute.compressed import Compressed
from layer_importance._execute.cut import cut
from layer_importance._execute.job import Job
from layer_importance._execute.surgery import EXECUTORS, ways_of
from layer_importance._plan import CompressionPlan
from layer_importance._task import Task
from layer_importance._units import Unit, Units


def carry_out(
    model: nn.Module,
    removals: CompressionPlan | Sequence[Unit | str],
    *,
    example: Any,
    bridges: Mapping[str, nn.Module] | None = None,
    executor: str = "auto",
    units: Units | None = None,
    task: str | Task | None = None,
    call: Call | None = None,
) -> Compressed:
    """Returns a copy of a model without some of its units, proven to be what was asked for.

    Three ways are tried in this order, each on a fresh copy:

    * ``compact`` deletes blocks from the list that holds them; numbers in the blocks that stay,
      and what configurations say about depth, follow.
    * ``bypass`` puts a module that hands its input on in the place of each unit, without weights.
    * ``mask`` lets units run and ignores their stream: nothing is saved, but it always holds.

    What counts as done has passed every check that applies. ``forward``: on ``example`` the answer
    is that of the model with the units removed while it runs, as the analysis removed them.
    ``cache``: what is said of the last token is the same with the past cached. ``generate``: so are
    four tokens written. ``reload``: saved and loaded again, the answer is the same. Where the model
    itself fails a check, that check does not apply.

    Args:
        model: any module; it stays as it is.
        removals: a plan, whose bridges stand in; or units or their names.
        example: one batch in the form the task reads.
        bridges: modules that stand in for some of the units, by name: called with the stream that
            goes in, they answer with the one that comes out. For a span, give its first unit one.
            Not beside a plan, which has its own.
        executor: ``auto``, or one of the three ways alone, or what another package offers by an
            entry point: see :mod:`layer_importance.plugins`.
        units: the model's units, if known; found by :func:`discover` if not.
        task: the task or its name, where it calls the model in its own way, as ``translation``
            hands labels to an encoder-decoder; the usual forms if not given.
        call: what to call the model with, if not what ``example`` says.

    Raises:
        ValueError: if a unit does not exist or cannot be removed, or no way passes the checks; the
            message says what failed.

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
        >>> done = carry_out(net, ["1"], example=torch.randn(4, 8))
        >>> done.executor, done.kept, len(done.model)
        ('compact', ('0', '2'), 3)
        >>> done.checks["forward"], done.checks["reload"]
        ('passed', 'passed')
    """
    model = getattr(model, "_orig_mod", model)
    check_ungated(model)
    if isinstance(removals, CompressionPlan):
        removals, bridges = _planned(removals, bridges)
    ways = _ways(executor)
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    example = to_device(example, device)
    call = called(model, example, task, call)
    if units is None:
        units = discover(model, example, call=call)
    chosen = _chosen(removals, units, bridges or {})
    job = Job(model, example, call, cut(model, call, chosen, bridges or {}), files.origin(model))
    attempts: dict[str, str] = {}
    for name in ways:
        for variant in range(len(ways_of(name))):
            found = job.attempt(name, variant)
            if isinstance(found, Compressed):
                kept = tuple(name for name in units.names if name not in found.removed)
                return replace(found, attempts=attempts, kept=kept)
            attempts[name] = f"{attempts[name]}; {found}" if name in attempts else found
    failed = "; ".join(f"{name}: {why}" for name, why in attempts.items())
    raise ValueError(f"removals must be possible to carry out, got {failed}")


def _ways(executor: str) -> tuple[str, ...]:
    if executor != "auto" and not ways_of(executor):
        known = ", ".join([*EXECUTORS, *offered(GROUP)])
        raise ValueError(f"executor must be auto or one of {known}, got {executor!r}")
    return tuple(EXECUTORS) if executor == "auto" else (executor,)


def _planned(
    plan: CompressionPlan, bridges: Mapping[str, nn.Module] | None
) -> tuple[list[str], Mapping[str, nn.Module]]:
    if bridges is not None:
        raise ValueError(
            f"bridges must not be given beside a plan, which has its own, got {sorted(bridges)}"
        )
    if not plan.removals:
        raise ValueError("removals must be a plan that removes a unit, got one that keeps all")
    return plan.removals, plan.bridges


def _chosen(
    removals: Sequence[Unit | str], units: Units, bridges: Mapping[str, nn.Module]
) -> list[Unit]:
    if isinstance(removals, str) or not len(removals):
        raise ValueError(f"removals must be a list of units or names, got {removals!r}")
    chosen: dict[str, Unit] = {}
    for one in removals:
        name = one if isinstance(one, str) else one.name
        if isinstance(one, str) and one not in units.names:
            raise ValueError(
                f"removals must be units of the model, got {one!r}; see {units.names[:6]}"
            )
        unit = units[one] if isinstance(one, str) else one
        if name in chosen:
            raise ValueError(f"removals must name each unit once, got {name!r} twice")
        if not unit.removable and name not in bridges:
            raise ValueError(f"{name} cannot be removed: it {unit.reason}")
        chosen[name] = unit
    if unknown := set(bridges) - set(chosen):
        raise ValueError(f"bridges must stand in for units in removals, got {sorted(unknown)}")
    return list(chosen.values())
