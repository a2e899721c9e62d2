"""Parameters of units, and products of the loss's Hessian with vectors over all of them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from layer_importance._subject import Subject


@dataclass(slots=True)
class UnitParameters:
    """Parameters that require gradients, each once, and which of them are each unit's.

    Attributes:
        all: of all units together.
        of: places in ``all``, by unit.
        missing: units whose parameters cannot be told from others', with the reason.
    """

    all: list[Tensor] = field(default_factory=list)
    of: dict[str, list[int]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def sums(self, products: Sequence[Tensor]) -> dict[str, float]:
        """Returns the sum of what there is one of for each of ``all``, by unit."""
        return {name: float(sum(products[i] for i in places)) for name, places in self.of.items()}


def unit_parameters(subject: Subject) -> UnitParameters:
    """Returns the parameters of all units; a unit inside of another shares them with it."""
    found, places = UnitParameters(), dict[int, int]()
    for unit in subject.units:
        if unit.call is not None:
            found.missing[unit.name] = "its parameters are those of other units, too"
            continue
        own = [p for p in subject.module(unit).parameters() if p.requires_grad]
        for parameter in own:
            if id(parameter) not in places:
                places[id(parameter)] = len(found.all)
                found.all.append(parameter)
        found.of[unit.name] = [places[id(p)] for p in own]
    return found


@contextmanager
def twice_differentiable() -> Iterator[None]:
    """Inside, attention is computed such that its gradient has a gradient."""
    with sdpa_kernel(SDPBackend.MATH):
        yield


class Hessian:
    """The Hessian of a batch's summed loss with respect to ``parameters``, as a linear map.

    One forward and one backward pass to make, one backward pass through both for a product.
    """

    def __init__(self, subject: Subject, batch: object, parameters: list[Tensor]) -> None:
        losses = subject.losses(subject.forward(batch), batch)
        self.samples, self.parameters = len(losses), parameters
        self._grads: Sequence[Tensor | None] = [None] * len(parameters)
        if losses.requires_grad and parameters:
            self._grads = torch.autograd.grad(
                losses.sum(), parameters, create_graph=True, allow_unused=True
            )

    def gradient(self) -> list[Tensor]:
        """Returns the gradient, in float64."""
        return [
            torch.zeros_like(p, dtype=torch.float64) if g is None else g.detach().double()
            for g, p in zip(self._grads, self.parameters, strict=True)
        ]

    def times(self, vectors: Sequence[Tensor]) -> list[Tensor]:
        """Returns the product with a vector, in float64."""
        pairs = [
            (g, v.to(g.dtype))
            for g, v in zip(self._grads, vectors, strict=True)
            if g is not None and g.requires_grad
        ]
        found: Sequence[Tensor | None] = [None] * len(self.parameters)
        if pairs:
            found = torch.autograd.grad(
                [g for g, _ in pairs],
                self.parameters,
                [v for _, v in pairs],
                retain_graph=True,
                allow_unused=True,
            )
        return [
            torch.zeros_like(p, dtype=torch.float64) if h is None else h.double()
            for h, p in zip(found, self.parameters, strict=True)
        ]
