"""What a layer costs at each rank."""

from typing import NamedTuple

from adlrns_models._forms import weight_count

COSTS = ("flops", "parameters")


class LayerSize(NamedTuple):
    """What the cost of a layer depends on.

    Attributes:
        outputs: rows ``m`` of the weight as a matrix.
        inputs: columns ``n``.
        rows: rows (tokens, patches) that one sample puts through the layer.
    """

    outputs: int
    inputs: int
    rows: float

    @property
    def max_rank(self) -> int:
        """Full rank."""
        return min(self.outputs, self.inputs)


def rank_choices(size: LayerSize, multiple_of: int, form: str) -> list[int]:
    """Returns the ranks worth running: cheaper than dense, in steps, then full rank."""
    m, n = size.outputs, size.inputs
    step = max(1, multiple_of)
    cheaper = [r for r in range(step, size.max_rank, step) if weight_count(form, m, n, r) < m * n]
    return [*(cheaper or []), size.max_rank]


def layer_cost(
    cost: str, size: LayerSize, rank: int, form: str = "factored", *, groups: int = 1
) -> float:
    """Returns the FLOPs per sample or the weights of a layer; full rank is the dense weight.

    ``size`` is that of one of ``groups``. One multiply and one add are two FLOPs. Biases are not
    counted: every form has the same.
    """
    m, n = size.outputs, size.inputs
    weights = m * n if rank >= size.max_rank else weight_count(form, m, n, rank)
    weights *= groups
    return 2.0 * weights * size.rows if cost == "flops" else float(weights)
