"""All of a training run's state, taken and put back bit for bit."""

import copy
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._contents import set_contents

_TABLES = (
    "_parameters",
    "_buffers",
    "_modules",
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
)


class Snapshot:
    """A model, what trains it and the random state, as they are now.

    Parameters keep their identity: restoring gives each its old contents, shape included.

    Args:
        model: the model.
        optimizers: optimizers of it.
        others: anything with ``state_dict`` and ``load_state_dict``: schedulers, scalers; modules
            (averages of the model) are taken as the model is.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Iterable[Optimizer] = (),
        others: Iterable[Any] = (),
    ) -> None:
        others = list(others)
        whole = nn.ModuleList([model, *(o for o in others if isinstance(o, nn.Module))])
        self._modules = [(m, dict(vars(m)), _tables_of(m)) for m in list(whole.modules())[1:]]
        self._configs = [(c, dict(vars(c))) for c in _configs_of(whole)]
        tensors: dict[int, Tensor] = {
            id(t): t
            for m, _, _ in self._modules
            for t in (*m._parameters.values(), *m._buffers.values())
            if t is not None
        }
        self._tensors = [
            (t, t.data.clone(), None if t.grad is None else t.grad.clone(), t.requires_grad)
            for t in tensors.values()
        ]
        self._optimizers = [(o, _state_of(o)) for o in optimizers]
        rest = [other for other in others if not isinstance(other, nn.Module)]
        self._others = [(o, copy.deepcopy(o.state_dict())) for o in rest]
        self._random = _random_state()

    def restore(self) -> None:
        """Puts everything back; the snapshot stays good for another time."""
        for module, held, tables in self._modules:
            module.__dict__.clear()
            module.__dict__.update(held)
            for name, table in tables.items():  # the same object: handles of hooks know it
                held[name].clear()
                held[name].update(table)
        for config, values in self._configs:
            vars(config).clear()
            vars(config).update(values)
        for tensor, data, grad, requires_grad in self._tensors:
            tensor.grad = None  # of another shape, perhaps
            set_contents(tensor, data.clone())
            tensor.grad = None if grad is None else grad.clone()
            tensor.requires_grad_(requires_grad)
        for optimizer, (groups, state) in self._optimizers:
            optimizer.param_groups[:] = [{**g, "params": list(g["params"])} for g in groups]
            optimizer.state.clear()
            optimizer.state.update({p: _cloned(held) for p, held in state.items()})
        for other, state in self._others:
            other.load_state_dict(copy.deepcopy(state))
        _set_random_state(self._random)

    def nbytes(self) -> int:
        """Returns the bytes of the tensors of the model that are kept."""
        return sum(data.numel() * data.element_size() for _, data, _, _ in self._tensors)


def _tables_of(module: nn.Module) -> dict[str, dict[str, Any]]:
    return {k: dict(v) for k, v in vars(module).items() if k in _TABLES}


def _configs_of(model: nn.Module) -> list[Any]:
    """Returns the configurations that modules hold: they name numbers of layers, too."""
    held = (vars(module).get("config") for module in model.modules())
    return list({id(c): c for c in held if hasattr(c, "__dict__")}.values())


def _state_of(optimizer: Optimizer) -> tuple[list[dict[str, Any]], dict[Any, Any]]:
    groups = [{**group, "params": list(group["params"])} for group in optimizer.param_groups]
    return groups, {p: _cloned(held) for p, held in optimizer.state.items()}


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
