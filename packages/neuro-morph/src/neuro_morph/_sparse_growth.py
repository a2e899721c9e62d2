"""Sparse networks whose connections move to where they are needed, while they train."""

import weakref
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import cos, pi
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from neuro_morph._optimizer_state import STATE_POWERS
from neuro_morph._sparse_densities import weight_counts
from neuro_morph._sparse_layers import METHODS, check_names, check_ranges, largest, layers_of
from neuro_morph._sparse_masks import MASK

_LIVE: "weakref.WeakSet[SparseGrowth]" = weakref.WeakSet()


@dataclass(frozen=True)
class SparseUpdate:
    """One move of connections.

    Attributes:
        step: the training step.
        share: the share of each layer's connections that were dropped and grown.
        moved: how many connections are there that were not.
    """

    step: int
    share: float
    moved: int


class SparseGrowth:
    """Keeps a network at a density and moves its connections while it trains.

    Every ``every`` steps, up to the ``until``-th part of training, each layer drops the share
    ``f(t) = drop / 2 * (1 + cos(pi t / T_end))`` of its connections, those with the smallest
    weights, and grows as many: where the gradient is largest (``"rigl"``) or at random (``"set"``).
    New weights begin at zero, without momentum. Masks are buffers ``weight_mask`` of the layers, so
    they are saved and loaded with the model; a model that has them already keeps them.

    The model may grow meanwhile: masks grow with their weights, and each layer keeps its density as
    far as the network then computes what it did. Layers that are added stay dense.

    The optimizer is called as :meth:`step` says::

        loss.backward()
        if sparse.step():
            optimizer.step()

    Args:
        model: the model; weights of its linear and convolutional layers become sparse.
        density: the share of these weights that are there, above 0 and at most 1.
        optimizer: what trains it.
        steps: how many steps it will train for.
        method: ``"rigl"`` or ``"set"``.
        distribution: of the density over layers: ``"erk"`` (see :func:`erk_densities`) or
            ``"uniform"``.
        every: steps between two moves.
        drop: the share that moves at first, ``a`` in the formula.
        until: the part of training after which nothing moves any more.
        begin: which connections are there at first: ``"random"``, or ``"magnitude"`` for those with
            the largest weights.
        dense: layers that stay as they are.
        seed: of what is drawn at random.

    Raises:
        ValueError: for a density, share, number or name out of range, no layer to make sparse, or
            layers that another growth moves by the same optimizer.
        TypeError: if ``model`` is no module, ``optimizer`` no optimizer or ``dense`` one string.

    Example:
        >>> import torch
        >>> from neuro_morph import SparseGrowth
        >>> model = torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Linear(30, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
        >>> sparse = SparseGrowth(model, 0.2, optimizer=optimizer, steps=100, every=10)
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(8, 20)).square().mean().backward()
        ...     if sparse.step():
        ...         optimizer.step()
        >>> sparse.density(), [update.step for update in sparse.updates]
        (0.2, [10, 20])

    Source: Evci et al., RigL (arXiv:1911.11134); Mocanu et al., SET (arXiv:1707.04780).
    """

    def __init__(
        self,
        model: nn.Module,
        density: float,
        *,
        optimizer: Optimizer,
        steps: int,
        method: str = "rigl",
        distribution: str = "erk",
        every: int = 100,
        drop: float = 0.3,
        until: float = 0.75,
        begin: str = "random",
        dense: Iterable[str] = (),
        seed: int = 0,
    ) -> None:
        check_names(model, optimizer, method, begin)
        check_ranges({"drop": drop, "until": until}, {"every": every, "steps": steps})
        self.model, self.optimizer, self.method = model, optimizer, method
        self.every, self.drop, self.end = every, drop, until * steps
        self.count = 0
        self.updates: list[SparseUpdate] = []
        self.generator = torch.Generator().manual_seed(seed)
        self._layers = layers_of(model, dense)
        _check_alone(optimizer, self._layers.values())
        shapes = {n: tuple(m.weight.shape) for n, m in self._layers.items()}
        counts = weight_counts(shapes, density, distribution)
        for name, layer in self._layers.items():
            if MASK not in layer._buffers:
                layer.register_buffer(MASK, self._first(layer.weight, counts[name], begin))
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self._mask_gradients()),
            optimizer.register_step_post_hook(lambda *_: self.apply_masks()),
        ]
        self.apply_masks()
        _LIVE.add(self)

    def step(self) -> bool:
        """Returns whether the optimizer's step is due; moves connections if that is due instead.

        To be called after ``backward``. Gradients that are not finite move nothing. After
        :meth:`finish` every step is the optimizer's.

        Raises:
            RuntimeError: if a sparse weight has another shape than its mask, or a layer that is to
                move has no gradient.
        """
        self._check_shapes()
        self.count += 1
        if self.count % self.every or self.count >= self.end:
            self._mask_gradients()
            return True
        if not all(self._gradient(n).isfinite().all() for n in self._layers):
            return True
        share = self.share_at(self.count)
        moved = sum(self._move(name, share) for name in self._layers)
        self.updates.append(SparseUpdate(self.count, share, moved))
        return False

    def share_at(self, step: int) -> float:
        """Returns the share of connections that moves at a step, ``f(t)``."""
        return self.drop / 2 * (1 + cos(pi * step / self.end)) if step < self.end else 0.0

    def masks(self) -> dict[str, Tensor]:
        """Returns the masks by the names of their layers."""
        return {name: layer._buffers[MASK] for name, layer in self._layers.items()}

    def density(self) -> float:
        """Returns the share of weights that are there, counted."""
        masks = self.masks().values()
        return sum(int(m.sum()) for m in masks) / sum(m.numel() for m in masks)

    def apply_masks(self) -> None:
        """Sets weights that are not there to zero."""
        self._check_shapes()
        self._apply(self.masks())

    def _apply(self, masks: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, mask in masks.items():
                self._layers[name].weight.mul_(mask)

    def finish(self) -> None:
        """Leaves the weights as they are and takes masks and hooks away."""
        fitting = {n: m for n, m in self.masks().items() if m.shape == self._layers[n].weight.shape}
        self._apply(fitting)
        for handle in self._handles:
            handle.remove()
        for layer in self._layers.values():
            layer._buffers.pop(MASK, None)
            layer._non_persistent_buffers_set.discard(MASK)
        self._layers = {}

    def state_dict(self) -> dict[str, Any]:
        """Returns what a run needs to go on, beside the model's own state."""
        return {"count": self.count, "generator": self.generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes over the state of another run."""
        self.count = int(state["count"])
        self.generator.set_state(state["generator"])

    def _first(self, weight: Tensor, count: int, begin: str) -> Tensor:
        size = weight.detach().abs().cpu()
        score = torch.rand(weight.shape, generator=self.generator) if begin == "random" else size
        return largest(score, count).to(weight.device)

    def _move(self, name: str, share: float) -> int:
        """Drops and grows connections of one layer; returns how many are new."""
        layer, old = self._layers[name], self.masks()[name]
        there = int(old.sum())
        if there == old.numel():
            return 0
        count = int(share * there)
        size = layer.weight.detach().abs().masked_fill(~old, -1.0)
        kept = largest(size, there - count)
        score = METHODS[self.method](self._gradient(name).cpu(), self.generator)
        grown = largest(score.to(old.device).masked_fill(kept, -1.0), count)
        new = kept | grown
        fresh = new & ~old
        with torch.no_grad():
            layer.weight.masked_fill_(~(new & old), 0.0)
            old.copy_(new)
        self._reset_state(layer.weight, fresh, new)
        return int(fresh.sum())

    def _reset_state(self, weight: Tensor, fresh: Tensor, there: Tensor) -> None:
        """Takes momentum from what is new or gone; new squares begin with the median."""
        for key, held in self.optimizer.state.get(weight, {}).items():
            if not isinstance(held, Tensor) or held.shape != weight.shape:
                continue
            settled = held[there & ~fresh]
            median = STATE_POWERS.get(key) == 2 and settled.numel() > 0
            held.masked_fill_(~there, 0.0)
            held.masked_fill_(fresh, float(settled.median()) if median else 0.0)

    def _mask_gradients(self) -> None:
        self._check_shapes()
        for name, mask in self.masks().items():
            gradient = self._layers[name].weight.grad
            if gradient is not None:
                gradient.mul_(mask)

    def _gradient(self, name: str) -> Tensor:
        gradient: Tensor | None = self._layers[name].weight.grad
        if gradient is None:
            raise RuntimeError(f"{name!r} has no gradient: call step() after backward()")
        return gradient

    def _check_shapes(self) -> None:
        for name, mask in self.masks().items():
            shape = self._layers[name].weight.shape
            if mask.shape != shape:
                raise RuntimeError(
                    f"the weight of {name!r} is {tuple(shape)} now, its mask {tuple(mask.shape)}: "
                    "what a Morpher widens keeps its mask; after anything else finish() this "
                    "growth and begin another"
                )


def _check_alone(optimizer: Optimizer, layers: Iterable[nn.Module]) -> None:
    """Raises ValueError if another growth moves connections of the same layers."""
    mine = set(map(id, layers))
    for other in _LIVE:
        if other.optimizer is optimizer and mine & set(map(id, other._layers.values())):
            raise ValueError(
                "model must have one SparseGrowth at a time, got one whose layers another moves by "
                "this optimizer: finish() that one first"
            )
