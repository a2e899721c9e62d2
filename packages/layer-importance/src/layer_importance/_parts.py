"""Branches of blocks as units of their own: attention or MLP alone."""

from types import MappingProxyType
from typing import Any

from torch import nn

from layer_importance._batch import Call, inputs, without_cache
from layer_importance._discover import discover
from layer_importance._preserve import preserved
from layer_importance._probe import Probe, Seen, probe
from layer_importance._units import Unit, Units


def discover_parts(
    model: nn.Module, example: Any, *, units: Units | None = None, call: Call | None = None
) -> Units:
    """Returns the branches of a model's blocks as units, in order of execution.

    A branch is a module inside a block whose output the block adds to its stream: to its input, or
    to a sum with it. One forward pass shows that; no name is known. Removing it is to add nothing
    (``removal="zero"``), which leaves the stream and the other branches of the block. The block is
    the branch's chain.

    Args:
        model: any module.
        example: one batch in the form the task reads.
        units: the blocks; found by :func:`discover` if not given.
        call: what to call the model with, if not what ``example`` says.

    Raises:
        ValueError: if no block adds anything to its stream.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> class Block(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.norm, self.mlp = nn.LayerNorm(8), nn.Linear(8, 8)
        ...     def forward(self, x):
        ...         return x + self.mlp(self.norm(x))
        >>> discover_parts(nn.Sequential(Block(), Block()), torch.randn(4, 8)).names
        ['0.mlp', '1.mlp']
    """
    model = getattr(model, "_orig_mod", model)
    call = without_cache(model, inputs(example) if call is None else call)
    if units is None:
        units = discover(model, example, call=call)
    with preserved(model, gradients=False):
        seen = probe(model, call, {path: module for path, module in model.named_modules() if path})
    found: list[tuple[int, Unit]] = []
    refused: dict[str, str] = {}
    for block in units:
        paths = _outermost(seen.branches.get(block.path, []))
        for index, path in enumerate(paths):
            if len(seen.of(path)) != 1:
                refused[path] = "runs several times"
                continue
            found.append((seen.of(path)[0].order, _part(model, block, path, index, seen)))
    if not found:
        why = "; ".join(f"{path} {reason}" for path, reason in refused.items()) or "none"
        raise ValueError(f"model must have blocks that add to their stream, got {why:.200}")
    ordered = [unit for _, unit in sorted(found, key=lambda pair: pair[0])]
    return Units(tuple(ordered), MappingProxyType(refused))


def _outermost(paths: list[str]) -> list[str]:
    return [p for p in paths if not any(p.startswith(other + ".") for other in paths)]


def _part(model: nn.Module, block: Unit, path: str, index: int, seen: Probe) -> Unit:
    module = model.get_submodule(path)
    return Unit(
        name=path,
        path=path,
        chain=block.path,
        index=index,
        tower=block.tower,
        type_name=type(module).__name__,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        kind="attention" if path in seen.attends else _kind(module),
        removal="zero",
        reason=_why_not(seen.of(path)[0]),
    )


def _kind(module: nn.Module) -> str:
    convolves = any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in module.modules())
    return "branch" if convolves else "mlp"


def _why_not(call: Seen) -> str:
    if call.x is None or call.y is None:
        return "has no floating tensor going in or out"
    if call.x[:-1] != call.y[:-1] or call.dtypes[0] != call.dtypes[1]:  # zeros are made from x
        return f"answers with {list(call.y)} to {list(call.x)}"
    return ""
