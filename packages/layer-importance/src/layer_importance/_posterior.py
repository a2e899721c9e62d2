"""Weights of linear layers drawn from what the data leave open about them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from layer_importance._comoments import gram, wide
from layer_importance._edits import Edit
from layer_importance._noise import Noise, added_to
from layer_importance._structure import stream
from layer_importance._subject import Subject
from layer_importance._units import Unit


@dataclass(frozen=True, slots=True)
class PosteriorNoise:
    """Each row of a linear layer's weight is drawn from ``N(W_i, (X^T X / s^2 + tau)^-1)``.

    ``X`` are the real tokens that the layer is called with, with a one for the offset; ``s^2`` is
    ``variance`` and ``tau`` is ``precision``. That is the Laplace approximation with the layer's
    outputs seen with normal errors of variance ``s^2``: exact where the layer is the whole model
    and the labels are such, so that the variance of the answer to ``x`` is ``x^T (X^T X / s^2 +
    tau)^-1 x`` for each output; elsewhere it is the Kronecker form with the identity for outputs.
    Directions that the data say much about are left alone, the others are drawn from the prior.
    What is no linear layer stays as it is. One pass over the data before.

    Source: Ritter et al., A scalable Laplace approximation for neural networks (2018), eq. 4; the
    linear case: Bishop, Pattern recognition and machine learning (2006), eq. 3.54 and 3.59.
    """

    variance: float = 1.0
    precision: float = 1.0
    forwards: ClassVar[float] = 1.0
    _factors: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for name in ("variance", "precision"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def prepared(self, subject: Subject, progress: Callable[[str, int], None]) -> Noise:
        """Returns the noise with the inputs of all linear layers in units added up."""
        products: dict[str, Tensor] = {}
        batch: list[Any] = []
        handles = [
            module.register_forward_pre_hook(
                _hears(subject, batch, products, path, module, tower), with_kwargs=True
            )
            for path, (module, tower) in _layers(subject).items()
        ]
        try:
            with torch.no_grad():
                for done, current in enumerate(subject.batches(), 1):
                    batch[:] = [current]
                    subject.forward(current)
                    progress("posterior", done)
        finally:
            for handle in handles:
                handle.remove()
        told = subject.share.exchange({path: p.tolist() for path, p in products.items()})
        whole: dict[str, Tensor] = {}
        for one in told:
            for path, rows in one.items():
                product = torch.tensor(rows, dtype=torch.float64)
                whole[path] = whole[path] + product if path in whole else product
        factors = {path: self._factor(product) for path, product in whole.items()}
        return PosteriorNoise(self.variance, self.precision, factors)

    def _factor(self, products: Tensor) -> Tensor:
        """``L`` with ``L L^T = X^T X / s^2 + tau``."""
        prior = self.precision * torch.eye(len(products), dtype=torch.float64)
        return torch.linalg.cholesky(products / self.variance + prior)

    def unmet(self, subject: Subject, unit: Unit) -> str:
        """Returns why the unit cannot be made random so; empty if it can."""
        return "" if self._inside(subject, unit) else "has no linear layer that was run"

    def edit(self, subject: Subject, unit: Unit, y: Tensor, draw: int) -> Edit:
        """Returns the edit of one draw."""
        del y
        layers = self._inside(subject, unit)
        around = lambda: self._drawn(layers, subject.drawn(draw))  # noqa: E731
        return Edit(lambda x, y: y, runs=True, around=around)

    def _inside(self, subject: Subject, unit: Unit) -> dict[str, nn.Linear]:
        found = _linear(subject.module(unit), unit.path)
        return {path: module for path, module in found if path in self._factors}

    @contextmanager
    def _drawn(self, layers: dict[str, nn.Linear], generator: torch.Generator) -> Iterator[None]:
        noises: list[tuple[Tensor, Tensor]] = []
        for path, module in layers.items():
            factor = self._factors[path]
            normal = torch.randn(
                module.out_features, len(factor), generator=generator, dtype=torch.float64
            )
            # rows with the covariance (L L^T)^-1
            noise = torch.linalg.solve_triangular(factor, normal, upper=False, left=False)
            noises.append((module.weight, noise[:, : module.in_features]))
            if module.bias is not None:
                noises.append((module.bias, noise[:, -1]))
        with added_to(noises):
            yield


def _linear(module: nn.Module, path: str) -> Iterator[tuple[str, nn.Linear]]:
    for inner, layer in module.named_modules(prefix=path):
        if isinstance(layer, nn.Linear) and layer.weight.is_floating_point():
            yield inner, layer


def _layers(subject: Subject) -> dict[str, tuple[nn.Linear, str]]:
    """Linear layers in units, with the unit's tower."""
    return {
        path: (module, unit.tower)
        for unit in subject.units
        for path, module in _linear(subject.module(unit), unit.path)
    }


def _hears(
    subject: Subject,
    batch: list[Any],
    products: dict[str, Tensor],
    path: str,
    module: nn.Linear,
    tower: str,
) -> Callable[..., None]:
    layout = subject.layouts.get(path)
    axis = 0 if layout is None else max(layout.x_axis, 0)

    def hook(_: nn.Module, args: Any, kwargs: Any) -> None:
        x = stream((args, kwargs))
        if x is None:
            return
        x = x.detach().movedim(axis, 0)
        known = subject.mask(batch[0], x.shape[1], tower) if x.ndim == 3 else None
        fits = known is not None and len(known) == len(x)
        rows = wide(x[known.bool()] if fits and known is not None else x.flatten(0, -2))
        if module.bias is not None:
            rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
        product = gram(rows).cpu()
        products[path] = products[path] + product if path in products else product

    return hook
