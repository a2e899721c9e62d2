"""How much the model's distribution over answers changes with a unit's parameters."""

import torch
from torch import Tensor

from layer_importance._events import BatchEvent, ParameterEvent
from layer_importance._method import ParameterMethod
from layer_importance._scores import MethodScores
from layer_importance._subject import Subject
from layer_importance._units import Unit


class FisherInformation(ParameterMethod):
    """Trace of the Fisher information of a unit's parameters, with labels drawn from the model.

    ``tr F = E_x E_{y ~ p(y|x)} |grad log p(y|x)|^2`` over the unit's parameters, estimated with one
    label a sample. 0: the answers do not depend on them, to first order, or all are frozen. It is
    the square of a per-sample gradient, never that of a batch's mean gradient, so that the size of
    batches does not matter. A loss that is ``c`` times the log-likelihood gives ``c^2`` times as
    much. A parameter that several units share counts in each with the gradient through that unit.

    Beside it ``per_parameter``, the trace by the number of parameters, and ``fisher_taylor``,
    ``theta^T F theta / 2 = E <grad log p, theta>^2 / 2``: to second order, the divergence from the
    model with these parameters at zero, in nats.

    Source: Amari, Natural gradient works efficiently in learning (1998); on labels from the model:
    Kunstner et al., arXiv 1905.12558; for pruning: Theis et al., arXiv 1801.05787, Liu et al.,
    arXiv 2108.00708.
    """

    name = "fisher_information"
    measure = "nats^2"
    needs = frozenset({"data", "per_sample", "sampled"})
    columns = ("value", "fisher_taylor")

    def begin(self, subject: Subject) -> None:
        """Counts the parameters."""
        self._sizes = {
            unit.name: sum(p.numel() for p in subject.module(unit).parameters() if p.requires_grad)
            for unit in subject.units
        }

    def values(self, event: ParameterEvent) -> tuple[Tensor, ...]:
        """Squared norms, and half the squared products with the parameters."""
        return event.squares, event.products.square() / 2

    def scores(self) -> MethodScores:
        """Means with their standard errors, and the mean by the number of parameters."""
        found = super().scores()
        each = {
            name: score.value / self._sizes[name]
            for name, score in found.scores.items()
            if self._sizes[name]
        }
        return self.result(found.scores, {**found.extras, "per_parameter": each})


class EmpiricalFisher(FisherInformation):
    """The same with the labels of the data: ``E |grad log p(y|x)|^2``.

    Not the Fisher information: it vanishes where the model fits every sample, and is large where it
    is wrong. 0: every sample's gradient is zero.

    Source: Kunstner et al., arXiv 1905.12558, eq. 3.
    """

    name = "empirical_fisher"
    needs = frozenset({"data", "labels", "per_sample"})


class ExactFisher(FisherInformation):
    """The same with all possible labels in turn, weighted with their probabilities.

    ``tr F = E_x sum_y p(y|x) |grad log p(y|x)|^2``: no noise from drawn labels, for one backward
    pass a class.
    """

    name = "exact_fisher"
    needs = frozenset({"data", "per_sample", "exact"})

    def __init__(self) -> None:
        super().__init__()
        self._sums: dict[Unit, tuple[Tensor, ...]] = {}

    def parameters(self, event: ParameterEvent) -> None:
        """Adds one class."""
        weighted = tuple(event.probability * column for column in self.values(event))
        before = self._sums.get(event.unit)
        self._sums[event.unit] = (
            weighted
            if before is None
            else tuple(torch.add(a, b) for a, b in zip(before, weighted, strict=True))
        )

    def batch(self, event: BatchEvent) -> None:
        """All classes are there."""
        del event
        for unit, columns in self._sums.items():
            self.add(unit, columns)
        self._sums.clear()
