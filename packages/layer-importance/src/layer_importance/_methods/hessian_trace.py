"""How curved the loss is along a unit's parameters."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from layer_importance._curvature import Hessian, twice_differentiable, unit_parameters
from layer_importance._method import PassMethod
from layer_importance._moments import Moments
from layer_importance._scores import MethodScores, Score
from layer_importance._subject import Subject


class HessianTrace(PassMethod):
    """Trace of the mean loss's Hessian over a unit's parameters: ``tr H_b = E v_b^T (H v)_b``.

    ``v`` are random signs over the parameters of all units at once; what comes from other units
    averages out. The same signs meet every batch, so that batches may be split in any way, and the
    standard error is over probes. 0: the loss is linear along the parameters; below 0 where it
    curves down. ``per_parameter`` is the trace by the number of parameters.

    Args:
        probes: how many ``v``, at least 2.

    Source: Hutchinson (1990); Dong et al., HAWQ-V2, arXiv 1911.03852, eq. 4; Yao et al., PyHessian,
    arXiv 1912.07145.
    """

    name = "hessian_trace"
    measure = "nats"
    needs = frozenset({"data", "labels", "parameter_gradients"})

    def __init__(self, *, probes: int = 8) -> None:
        if probes < 2:
            raise ValueError(f"probes must be at least 2, got {probes}")
        self.probes = probes

    def passes(self, units: int) -> tuple[float, float]:
        """One forward pass, one backward pass, and one through both, about two, a probe."""
        del units
        return 1.0, 1.0 + 2.0 * self.probes

    def run(self, subject: Subject, progress: Callable[[str, int], None]) -> MethodScores:
        """Adds up the products of every batch with the same probes."""
        parameters = unit_parameters(subject)
        sums = [dict.fromkeys(parameters.of, 0.0) for _ in range(self.probes)]
        samples = 0
        for done, batch in enumerate(subject.batches()):
            with twice_differentiable():
                hessian = Hessian(subject, batch, parameters.all)
                samples += hessian.samples
                for signs, found in zip(self._signs(subject, parameters.all), sums, strict=True):
                    products = [
                        (h * v).sum() for h, v in zip(hessian.times(signs), signs, strict=True)
                    ]
                    for name, value in parameters.sums(products).items():
                        found[name] += value
            progress(self.name, done + 1)
        scores, each = {}, {}
        for name, places in parameters.of.items():
            moments = Moments()
            moments.add(torch.tensor([found[name] / samples for found in sums]))
            error = float(moments.standard_error)
            scores[name] = Score(float(moments.mean), error, samples)
            if count := sum(parameters.all[i].numel() for i in places):
                each[name] = float(moments.mean) / count
        return self.result(scores, {"per_parameter": each}, parameters.missing)

    def _signs(self, subject: Subject, parameters: list[Tensor]) -> Iterator[list[Tensor]]:
        """The same for every batch: drawn again rather than kept."""
        generator = subject.generator()
        for _ in range(self.probes):
            yield [
                torch.randint(0, 2, p.shape, generator=generator, device=p.device, dtype=p.dtype)
                * 2
                - 1
                for p in parameters
            ]
