"""Whether a new part of a model has a part in what the model computes."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neuro_morph._graph import evaluating
from neuro_morph._inputs import ExampleInputs
from neuro_morph._untouched import untouched


class NotJoinedError(Exception):
    """A new part is not run, or nothing reads what it gives."""


def check_joined(
    model: nn.Module, part: nn.Module, inputs: ExampleInputs, added: Iterable[Tensor]
) -> None:
    """Raises NotJoinedError if no output of the model depends on the new parameters."""
    calls: list[None] = []
    hook = part.register_forward_hook(lambda *_: calls.append(None))
    try:
        with untouched(model), evaluating(model), torch.enable_grad():
            outputs = tree_leaves(model(*inputs.args, **inputs.kwargs))
    finally:
        hook.remove()
    if not calls:
        raise NotJoinedError("the new part is not run")
    scalars = [o.float().sum() for o in outputs if isinstance(o, Tensor) and o.requires_grad]
    wanted = [each for each in added if each.requires_grad]
    if not scalars or not wanted:
        return
    total = torch.stack([each.cpu() for each in scalars]).sum()
    if all(g is None for g in torch.autograd.grad(total, wanted, allow_unused=True)):
        raise NotJoinedError("no output depends on the new part")
