"""What happens to a gradient on its way back through a unit."""

import torch
from torch import Tensor

from layer_importance._events import UnitEvent
from layer_importance._method import MeanMethod
from layer_importance._scores import MethodScores
from layer_importance._subject import Subject


class GradientFlow(MeanMethod):
    """How far a unit is from handing gradients on unchanged in size: ``E |r - 1|``.

    ``r = |dL/dx| / |dL/dy|`` of one sample is the amplification of its gradient from the unit's
    output to its input. 0: the size stays, as for a unit that adds nothing; 1 if no gradient comes
    through. A sample whose gradient does not reach the output says nothing.

    Beside it ``amplification``, ``E r``; ``log_amplification``, ``E log r``; ``skip_share``, the
    part of the gradient at the input that came past the branch of a unit ``y = x + f(x)``:
    ``E |dL/dy| / (|dL/dy| + |dL/dx - dL/dy|)``, 1 for a zero branch; and ``log_slope``, one number
    a chain: the slope over depth of ``E log |dL/dx|``, above 0 where gradients vanish and below 0
    where they explode on their way to the front.

    Source: Pennington et al., arXiv 1711.04735, on gradients whose size stays; the share of the
    skip path: Veit et al., arXiv 1605.06431.
    """

    name = "gradient_flow"
    needs = frozenset({"data", "labels", "gradients"})
    columns = ("value", "amplification", "log_amplification", "skip_share", "log_norm")

    def begin(self, subject: Subject) -> None:
        """Notes the chains."""
        self._chains = {
            chain: [unit.name for unit in units] for chain, units in subject.units.chains.items()
        }

    def values(self, event: UnitEvent) -> tuple[Tensor, ...]:
        """Amplification, its logarithm, the skip's share and the log norm of every sample."""
        assert event.x_grad is not None
        assert event.y_grad is not None
        back, front = (event.dot(g, g).sqrt() for g in (event.x_grad, event.y_grad))
        ratio = torch.where(front > 0, back / front, torch.nan)
        share = torch.full_like(ratio, torch.nan)
        if event.x_grad.shape == event.y_grad.shape:
            branch = event.x_grad - event.y_grad
            branch = event.dot(branch, branch).sqrt()
            share = torch.where(front > 0, front / (front + branch), torch.nan)
        return (ratio - 1).abs(), ratio, ratio.log(), share, back.log()

    def scores(self) -> MethodScores:
        """Means, and the slope of each chain."""
        found = super().scores()
        extras = {name: dict(column) for name, column in found.extras.items()}
        sizes = extras.pop("log_norm")
        extras["log_slope"] = {}
        for names in self._chains.values():
            there = [(depth, sizes[name]) for depth, name in enumerate(names) if name in sizes]
            if len(there) > 1:
                slope = _slope(torch.tensor(there, dtype=torch.float64))
                extras["log_slope"].update(dict.fromkeys(names, slope))
        return self.result(found.scores, extras, found.missing)


def _slope(points: Tensor) -> float:
    centred = points - points.mean(0)
    return float((centred[:, 0] * centred[:, 1]).sum() / centred[:, 0].square().sum())
