"""What each kind of dynamic layer says about itself: how it is run, what it takes and costs."""

from torch import Tensor

from adlrns_models._dynamic_factored import FactoredLayer
from rank_sched import Cost


class DynamicKind(FactoredLayer):
    """A layer of nested factors whose subclasses say how the two products are run."""

    dim = -1  # the axis of features

    def inner(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Returns ``down[start:stop] @ x + inner_bias[start:stop]``."""
        raise TypeError(f"{type(self).__name__} must say how its first product is run")

    def outer(self, z: Tensor) -> Tensor:
        """Returns ``up[:, :r] @ z + outer_bias`` for inner values of ``r`` directions."""
        raise TypeError(f"{type(self).__name__} must say how its second product is run")

    def outer_at(self, z: Tensor, rank: Tensor) -> Tensor:
        """Returns ``up[:, :rank] @ z[:rank] + outer_bias``, the rank read when the graph runs."""
        raise TypeError(f"{type(self).__name__} must say how its second product is compiled")

    def at_ranks(self, x: Tensor, ranks: Tensor) -> Tensor:
        """Returns the output of a batch at a 0-dim rank, or at ``[N]``, one per sample."""
        raise TypeError(f"{type(self).__name__} must say how it runs at ranks of tensors")

    def run(self, x: Tensor, chosen: Tensor, bias: Tensor | None) -> Tensor:
        """Returns ``up[:, chosen] @ (down[chosen] @ x + inner_bias[chosen]) + bias``."""
        raise TypeError(f"{type(self).__name__} must say how chosen directions are run")

    def input_energy(self, x: Tensor) -> Tensor:
        """Returns ``[N]`` float64, the squared norm of all rows (patches) of each sample."""
        raise TypeError(f"{type(self).__name__} must say what energy an input has")

    def rows(self, x: Tensor, most: int) -> Tensor:
        """Returns at most so many rows (patches) ``[k, n]`` of an input, evenly spaced."""
        raise TypeError(f"{type(self).__name__} must say how rows are taken from an input")

    def cost(self, rank: int | None = None, *, batch: int = 1) -> Cost:
        """Returns the predicted cost of a call on samples of the size last seen; None is dense."""
        raise TypeError(f"{type(self).__name__} must say what it costs")

    def _check(self, x: Tensor) -> None:
        raise TypeError(f"{type(self).__name__} must say which inputs it takes")

    def _is_batch(self, x: Tensor) -> bool:
        raise TypeError(f"{type(self).__name__} must say which inputs are batches")

    def _sample_of(self, x: Tensor) -> tuple[int, ...]:
        raise TypeError(f"{type(self).__name__} must say what the size of a sample is")

    def _smallest_sample(self) -> tuple[int, ...]:
        raise TypeError(f"{type(self).__name__} must say what its smallest sample is")

    @property
    def rows_per_sample(self) -> int:
        """Rows (tokens, positions) of one sample of the size last seen."""
        raise TypeError(f"{type(self).__name__} must say how many rows a sample has")

    def row_count(self, x: Tensor) -> int:
        """Returns how many rows (tokens, positions) a batch has."""
        raise TypeError(f"{type(self).__name__} must say how many rows an input has")
