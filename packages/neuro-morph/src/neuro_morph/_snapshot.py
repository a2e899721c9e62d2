"""All of a training run's state, taken and put back bit for bit."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._holdings import Holdings
from neuro_morph._run_arguments import optimizers_of
from neuro_morph._untouched import RandomStates


class Snapshot:
    """A model, what trains it and the random state, as they are now.

    Whatever modules hold is taken: parameters, buffers, hooks, plain tensors, numbers, lists,
    dictionaries, arrays, generators, data classes; other objects are not looked into. Restoring
    writes into the same objects: parameters, gradients and parameter groups keep their identity.

    Args:
        model: the model.
        optimizers: the optimizer of it, or several.
        others: anything with ``state_dict`` and ``load_state_dict``: schedulers, scalers; modules
            (averages of the model) are taken as the model is.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizer | Iterable[Optimizer] = (),
        others: Iterable[Any] = (),
    ) -> None:
        others, optimizers = list(others), optimizers_of(optimizers)
        whole = nn.ModuleList([model, *(o for o in others if isinstance(o, nn.Module))])
        holders = [*list(whole.modules())[1:], *_configs_of(whole)]
        self._optimizers = [(o, o.param_groups, o.state, _state_of(o)) for o in optimizers]
        groups = [optimizer.param_groups for optimizer in optimizers]
        self._held = Holdings([*(vars(holder) for holder in holders), *groups])
        rest = [other for other in others if not isinstance(other, nn.Module)]
        self._others = [(o, copy.deepcopy(o.state_dict())) for o in rest]
        self._random = RandomStates()

    @torch.inference_mode(False)
    def restore(self) -> None:
        """Puts everything back; the snapshot stays good for another time."""
        self._held.restore()
        for optimizer, groups, held_state, state in self._optimizers:
            optimizer.param_groups, optimizer.state = groups, held_state
            optimizer.state.clear()
            optimizer.state.update({p: _cloned(held) for p, held in state.items()})
        for other, state in self._others:
            other.load_state_dict(copy.deepcopy(state))
        self._random.restore()

    def nbytes(self) -> int:
        """Returns the bytes of the tensors of the model that are kept."""
        kept = [held.data for held in self._held.tensors.values()]
        return sum(data.numel() * data.element_size() for data in kept)


def _configs_of(model: nn.Module) -> list[Any]:
    """Returns the configurations that modules hold: they name numbers of layers, too."""
    held = (vars(module).get("config") for module in model.modules())
    return list({id(c): c for c in held if hasattr(c, "__dict__")}.values())


def _state_of(optimizer: Optimizer) -> dict[Any, Any]:
    return {p: _cloned(held) for p, held in optimizer.state.items()}


def _cloned(held: Any) -> Any:
    if isinstance(held, Tensor):
        return held.clone()
    if isinstance(held, dict):
        return {k: _cloned(v) for k, v in held.items()}
    return copy.deepcopy(held)
