"""New parameters join the optimizers of those they stand beside."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from neuro_morph._undo import UndoLog


def enroll(
    model: nn.Module, optimizers: Sequence[Optimizer], added: Mapping[str, str], log: UndoLog
) -> None:
    """Puts new parameters into the parameter groups of their neighbours.

    The neighbour is the nearest trained parameter of the module named, else of those around it;
    one with as many axes (a matrix beside a matrix, a bias beside a bias) is preferred, so that
    groups without weight decay stay what they are. Nothing is done without optimizers.

    Args:
        model: the model.
        optimizers: those that train it.
        added: names of new parameters, with the path of the module they stand beside.
        log: where it is written.
    """
    groups = {
        id(parameter): group
        for optimizer in optimizers
        for group in optimizer.param_groups
        for parameter in group["params"]
    }
    for name, beside in added.items():
        parameter = model.get_parameter(name)
        if not groups or id(parameter) in groups:
            continue
        group = _group_of(model, beside, parameter, groups)
        log.set_item(group, "params", [*group["params"], parameter])
        if "param_names" in group:
            log.set_item(group, "param_names", [*group["param_names"], name])


def _group_of(
    model: nn.Module, path: str, new: nn.Parameter, groups: dict[int, dict[str, Any]]
) -> dict[str, Any]:
    for around in _upwards(path):
        held = [p for p in model.get_submodule(around).parameters() if id(p) in groups]
        alike = [p for p in held if (p.dim() > 1) == (new.dim() > 1)]
        if alike or held:
            return groups[id((alike or held)[-1])]
    return next(iter(groups.values()))


def _upwards(path: str) -> Iterator[str]:
    """Yields a path and those of the modules around it."""
    while path:
        yield path
        path = path.rpartition(".")[0]
    yield ""
