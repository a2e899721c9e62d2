"""All of a training run's state, taken and put back bit for bit."""

import copy
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._holdings import Holdings


class Snapshot:
    """A model, what trains it and the random state, as they are now.

    Whatever modules hold is taken: parameters, buffers, hooks, plain tensors, numbers, lists,
    dictionaries, arrays, generators, data classes; other objects are not looked into. Restoring
    writes into the same objects: parameters, gradients and parameter groups keep their identity.

    Args:
        model: the model.
        optimizers: optimizers of it.
        others: anything with ``state_dict`` and ``load_state_dict``: schedulers, scalers; modules
            (averages of the model) are taken as the model is.
    """

    @torch.inference_mode(False)
    def __init__(
        self,
        model: nn.Module,
        optimizers: Iterable[Optimizer] = (),
        others: Iterable[Any] = (),
    ) -> None:
        others, optimizers = list(others), list(optimizers)
        whole = nn.ModuleList([model, *(o for o in others if isinstance(o, nn.Module))])
        holders = [*list(whole.modules())[1:], *_configs_of(whole)]
        self._optimizers = [(o, o.param_groups, o.state, _state_of(o)) for o in optimizers]
        groups = [optimizer.param_groups for optimizer in optimizers]
        self._held = Holdings([*(vars(holder) for holder in holders), *groups])
        rest = [other for other in others if not isinstance(other, nn.Module)]
        self._others = [(o, copy.deepcopy(o.state_dict())) for o in rest]
        self._random = _random_state()

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
        _set_random_state(self._random)

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


def _random_state() -> dict[str, Any]:
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    return {
        "torch": torch.get_rng_state(),
        "cuda": cuda,
        "numpy": np.random.get_state(),  # noqa: NPY002 - what users draw from
        "python": random.getstate(),
    }


def _set_random_state(state: dict[str, Any]) -> None:
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None:
        torch.cuda.set_rng_state_all(state["cuda"])
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
