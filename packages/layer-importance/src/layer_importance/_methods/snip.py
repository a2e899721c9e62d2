"""Which weights the mean gradient pulls at."""

import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from layer_importance._events import BatchEvent
from layer_importance._method import SweepMethod
from layer_importance._scores import MethodScores, Score
from layer_importance._subject import Subject
from layer_importance._units import Unit


class Snip(SweepMethod):
    """Sum over a unit's weights of ``|gbar * theta|`` with the mean gradient ``gbar = E g_i``.

    To first order, what the loss would change in all if weights went to zero one at a time. 0: at
    an optimum of the data's mean loss, for all units alike, where per-sample scores still tell
    them apart.

    Beside it ``taylor``, ``|sum gbar * theta|``, the change if all went to zero together, and
    ``gradient_norm``, ``|gbar|``. The sum of gradients is kept in float64, one number a parameter.

    Source: Lee et al., SNIP, arXiv 1810.02340, eq. 4, not normalised; Molchanov et al., arXiv
    1611.06440.
    """

    name = "snip"
    measure = "nats"
    needs = frozenset({"data", "labels", "parameter_gradients"})

    def __init__(self) -> None:
        self._units: list[Unit] = []
        self._modules: dict[str, nn.Module] = {}
        self._sums: dict[str, Tensor] = {}
        self._samples = torch.zeros((), dtype=torch.float64)
        self._missing: dict[str, str] = {}

    def begin(self, subject: Subject) -> None:
        """Makes room for a sum a parameter."""
        for unit in subject.units:
            if unit.call is not None:
                self._missing[unit.name] = "its parameters are those of other units, too"
                continue
            self._units.append(unit)
            self._modules[unit.name] = subject.module(unit)
        for key, parameter in self._parameters():
            self._sums[key] = torch.zeros_like(parameter, dtype=torch.float64, requires_grad=False)

    def _parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters of all units; a unit inside of another has its own again."""
        for unit in self._units:
            for path, parameter in self._modules[unit.name].named_parameters():
                yield f"{unit.name}/{path}", parameter

    def batch(self, event: BatchEvent) -> None:
        """Adds the gradients of the batch's summed loss."""
        self._samples += len(event.losses)
        for key, parameter in self._parameters():
            if parameter.grad is not None:
                self._sums[key] += parameter.grad

    def scores(self) -> MethodScores:
        """Sums over each unit's weights; no error, since nothing is kept of single samples."""
        count = int(self._samples)
        columns: dict[str, dict[str, float]] = {"value": {}, "taylor": {}, "gradient_norm": {}}
        for unit in self._units if count else ():
            products, squares = 0.0, 0.0
            sizes = 0.0
            for path, parameter in self._modules[unit.name].named_parameters():
                mean = self._sums[f"{unit.name}/{path}"] / count
                both = mean * parameter.detach()
                products, sizes = products + float(both.sum()), sizes + float(both.abs().sum())
                squares += float(mean.square().sum())
            columns["value"][unit.name] = sizes
            columns["taylor"][unit.name] = abs(products)
            columns["gradient_norm"][unit.name] = math.sqrt(squares)
        values = columns.pop("value")
        scores = {name: Score(value, samples=count) for name, value in values.items()}
        return self.result(scores, columns, self._missing)

    def state(self) -> dict[str, Tensor]:
        """The sums and the number of samples."""
        return {"samples": self._samples.clone(), **{k: v.clone() for k, v in self._sums.items()}}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        """Adds sums and counts."""
        self._samples += state["samples"]
        for key in self._sums:
            self._sums[key] += state[key]
