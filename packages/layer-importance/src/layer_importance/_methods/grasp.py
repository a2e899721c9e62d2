"""What removing weights does to the gradient."""

from collections.abc import Callable
from typing import ClassVar

import torch

from layer_importance._curvature import Hessian, twice_differentiable, unit_parameters
from layer_importance._method import PassMethod
from layer_importance._scores import Direction, MethodScores, Score
from layer_importance._subject import Subject


class Grasp(PassMethod):
    """``-theta_b^T (H g)_b`` with gradient ``g`` and Hessian ``H`` of the mean loss.

    To first order, half the change of ``|g|^2`` if the unit's parameters went to zero. Below 0 the
    gradient, and with it what training could still gain, would shrink: the published rule keeps
    weights with low values. 0: at an optimum, for all. It is about training a net that is still to
    be trained, so that it stands as a diagnostic of one that is. No standard error: the product of
    two means over the same samples has none that is cheap.

    Source: Wang et al., Picking winning tickets before training by preserving gradient flow, arXiv
    2002.07376, eq. 8.
    """

    name = "grasp"
    measure = "nats^2"
    direction: ClassVar[Direction] = "diagnostic"
    needs = frozenset({"data", "labels", "parameter_gradients"})

    def passes(self, units: int) -> tuple[float, float]:
        """One run for the gradient, one for its product with the Hessian."""
        del units
        return 2.0, 4.0

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """The mean gradient first, then its product."""
        parameters = unit_parameters(subject)
        mean = [torch.zeros_like(p, dtype=torch.float64) for p in parameters.all]
        samples = 0
        with twice_differentiable():
            for done, batch in enumerate(subject.batches()):
                first = Hessian(subject, batch, parameters.all)
                samples += first.samples
                for total, grad in zip(mean, first.gradient(), strict=True):
                    total += grad
                del first
                progress(self.name, done + 1)
            mean = [total / samples for total in mean]
            sums = dict.fromkeys(parameters.of, 0.0)
            for batch in subject.batches():
                product = Hessian(subject, batch, parameters.all).times(mean)
                terms = [
                    (h * p.detach()).sum() for h, p in zip(product, parameters.all, strict=True)
                ]
                for name, value in parameters.sums(terms).items():
                    sums[name] -= value / samples
        scores = {name: Score(value, samples=samples) for name, value in sums.items()}
        return self.result(scores, missing=parameters.missing)
