"""Per-sample gradients of a module that runs again alone, for those without a formula."""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad as gradient, vmap

from layer_importance._per_sample._formula import LIMIT, Norms
from layer_importance._structure import mapped, stream, tensors


@dataclass(frozen=True, slots=True)
class Again:
    """What is needed to run one call of a module again, sample by sample.

    Attributes:
        module: the module.
        names: its own parameters that gradients are taken of.
        inputs: arguments and keyword arguments of the call.
        axes: dimension that holds the samples, for each tensor in ``inputs``; -1 if none does.
        grad: gradient of the summed loss with respect to its output.
        y_axis: dimension of ``grad`` that holds the samples.
        samples: how many.
    """

    module: nn.Module
    names: Sequence[str]
    inputs: tuple[tuple[Any, ...], dict[str, Any]]
    axes: Sequence[int]
    grad: Tensor
    y_axis: int
    samples: int

    def parameters(self) -> dict[str, Tensor]:
        """Returns the parameters, without their history."""
        return {name: getattr(self.module, name).detach() for name in self.names}

    def rows(self) -> list[Tensor]:
        """Returns every tensor that holds samples with them first: ``[N, m, ...]``."""
        held = zip(tensors(self.inputs), self.axes, strict=True)
        return [
            *(_split(t.detach(), axis, self.samples) for t, axis in held if axis >= 0),
            _split(self.grad, self.y_axis, self.samples),
        ]

    def scalar(self, parameters: Mapping[str, Tensor], rows: Sequence[Tensor]) -> Tensor:
        """Returns ``<grad, output>`` of one sample."""
        own = iter(rows[:-1])
        axes = iter(self.axes)

        def one(tensor: Tensor) -> Tensor:
            axis = next(axes)
            # a clone: a module may write into what it is given
            return tensor.detach() if axis < 0 else next(own).clone().movedim(0, axis)

        args, kwargs = mapped(self.inputs, one)
        output = stream(functional_call(self.module, dict(parameters), args, kwargs))
        assert output is not None
        return (output * rows[-1].movedim(0, self.y_axis)).sum()

    def norms_of(self, parameters: Mapping[str, Tensor], rows: Sequence[Tensor]) -> Norms:
        """Returns ``|g|^2`` and ``<g, theta>`` of one sample."""
        grads = gradient(lambda p: self.scalar(p, rows))(dict(parameters))
        pairs = [(grads[name].double(), parameters[name].double()) for name in self.names]
        return (
            torch.stack([g.square().sum() for g, _ in pairs]).sum(),
            torch.stack([(g * theta).sum() for g, theta in pairs]).sum(),
        )


def vmapped(again: Again) -> Norms:
    """Returns the norms of all samples at once, as many as fit; ``[N]``."""
    parameters = again.parameters()
    held = 4 * sum(p.numel() for p in parameters.values())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a rule for batches is missing costs time alone
        return vmap(
            lambda *rows: again.norms_of(parameters, rows),
            chunk_size=max(1, LIMIT // max(held, 1)),
        )(*again.rows())


def one_by_one(again: Again) -> Norms:
    """Returns the norms sample by sample, for modules whose path depends on the data; ``[N]``."""
    parameters, rows = again.parameters(), again.rows()
    found = [again.norms_of(parameters, [row[i] for row in rows]) for i in range(again.samples)]
    squares, products = zip(*found, strict=True)
    return torch.stack(squares), torch.stack(products)


def _split(tensor: Tensor, axis: int, samples: int) -> Tensor:
    """Samples first, then what there is of one sample along that dimension."""
    return tensor.movedim(axis, 0).unflatten(0, (samples, -1))
