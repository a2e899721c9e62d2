"""Whether a connection still has what it passes on where a network is trained."""

import copy
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neuro_morph._errors import GrowthRefusedError
from neuro_morph._inputs import ExampleInputs


class NothingToPassOnError(RuntimeError):
    """The target of a connection ran without its source."""


def check_trains(model: nn.Module, inputs: ExampleInputs) -> None:
    """Raises GrowthRefusedError if a connection of a model fails in a training step.

    Where activations are not kept (``torch.utils.checkpoint``) parts of a network run again in the
    backward pass, and a target may do so without its source. A copy makes the step: hooks of
    parameters, buffers and gradients of the model itself never hear of it. Models that cannot be
    copied, or fail in training for other reasons, are let through.
    """
    try:
        with _random_state_kept(model), torch.enable_grad():
            _step(copy.deepcopy(model).train(), inputs)
    except NothingToPassOnError as error:
        raise GrowthRefusedError(f"{error} in the backward pass: {_ADVICE}") from None
    except Exception:  # such as BatchNorm with a single example
        return


_ADVICE = (
    "activations that are not kept are computed again there; connect layers of one checkpointed "
    "part, or of none"
)


def _step(model: nn.Module, inputs: ExampleInputs) -> None:
    leaves = tree_leaves(model(*inputs.args, **inputs.kwargs))
    sums = [x.float().sum().cpu() for x in leaves if isinstance(x, Tensor) and x.requires_grad]
    if sums:
        torch.stack(sums).sum().backward()


def _random_state_kept(model: nn.Module) -> AbstractContextManager[None]:
    indices = {p.device.index for p in model.parameters() if p.device.type == "cuda"}
    return torch.random.fork_rng(devices=sorted(i for i in indices if i is not None))
