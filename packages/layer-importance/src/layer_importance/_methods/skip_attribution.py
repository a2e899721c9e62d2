"""What the loss would do, to first order, if a unit handed its input on."""

from torch import Tensor

from layer_importance._events import UnitEvent
from layer_importance._method import MeanMethod


class SkipAttribution(MeanMethod):
    """Mean size of ``q = <dL/dy, x - y>``: to first order, the change of the loss without the unit.

    The mean of *absolute* values over samples is the score: removal is a finite step, and at an
    optimum the signs of samples cancel. The signed mean is beside it as ``signed``; where loss and
    head are linear in the unit's output it is the exact change.

    Source: Molchanov et al., arXiv 1611.06440, eq. 7, for a whole unit; Kramár et al., arXiv
    2403.00745, on cancellation.
    """

    name = "skip_attribution"
    measure = "nats"
    needs = frozenset({"data", "labels", "gradients"})
    columns = ("value", "signed")

    def values(self, event: UnitEvent) -> tuple[Tensor, ...]:
        """Size and sign of the change of every sample's loss."""
        assert event.y_grad is not None
        if event.x.shape != event.y.shape:
            return (event.x.new_empty(0), event.x.new_empty(0))
        x, y = (t if t.dtype.itemsize > 2 else t.float() for t in (event.x, event.y))
        change = event.dot(event.y_grad, x - y)
        return change.abs(), change
