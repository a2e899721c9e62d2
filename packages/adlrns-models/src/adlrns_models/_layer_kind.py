"""What each kind of adaptive layer says about itself: how it is run and what it takes."""

from collections.abc import Callable

from torch import Tensor, nn


class LayerKind(nn.Module):
    """A layer whose subclasses say how rows are drawn from an input and the product is run."""

    def _product(self, x: Tensor, rank: int | Tensor) -> Tensor:
        """Returns the low-rank product."""
        raise TypeError(f"{type(self).__name__} must say how its product is run")

    def _prepare(self, rank: int, *, packed: bool = False) -> Callable[[Tensor], Tensor]:
        """Returns the low-rank product at a rank that stays, what can be done once done.

        ``packed``: by a copy of the active part of ``up``, where that is faster.
        """
        raise TypeError(f"{type(self).__name__} must say how its product is prepared")

    def _prepare_dense(self, weight: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
        """Returns the product with a dense weight."""
        raise TypeError(f"{type(self).__name__} must say how its dense product is run")

    def _takes(self, x: Tensor) -> bool:
        """Returns whether an input has the shape that the layer is made for."""
        raise TypeError(f"{type(self).__name__} must say which inputs it takes")

    def _row_count(self, x: Tensor) -> int:
        """Returns how many rows (tokens, patches) an input has."""
        raise TypeError(f"{type(self).__name__} must say how many rows an input has")

    def _take_rows(self, x: Tensor, numbers: Tensor) -> Tensor:
        """Returns the numbered rows ``[k, n]`` of an input."""
        raise TypeError(f"{type(self).__name__} must say how rows are taken from an input")
