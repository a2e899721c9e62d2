"""How large the gradients of a unit's parameters are, sample by sample."""

from torch import Tensor

from layer_importance._events import ParameterEvent
from layer_importance._method import ParameterMethod


class GradientBased(ParameterMethod):
    """Mean norm of the loss's gradient with respect to a unit's parameters: ``E |g_i|``.

    ``g_i`` is the gradient of one sample's loss. 0: no sample's loss depends on the parameters, to
    first order. A loss ``c`` times as large gives ``c`` times as much.

    Beside it the first-order change of the loss if all parameters of the unit went to zero:
    ``taylor``, ``E |<g_i, theta>|``, and with its sign ``taylor_signed``, ``E <g_i, theta>``, which
    is the inner product with the mean gradient. For layers without offset between functions that
    are positively homogeneous (ReLU), ``<g_i, theta>`` is the same for every layer of a chain.

    Source: Molchanov et al., arXiv 1906.10771, eq. 8 and 11, for a whole unit.
    """

    name = "gradient_based"
    measure = "nats"
    needs = frozenset({"data", "labels", "per_sample"})
    columns = ("value", "taylor", "taylor_signed")

    def values(self, event: ParameterEvent) -> tuple[Tensor, ...]:
        """Norms, sizes of products with the parameters, and the products."""
        return event.squares.sqrt(), event.products.abs(), event.products
