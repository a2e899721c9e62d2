"""What stands in for removed units in closed form: the ridge map of their input to their change."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from layer_importance._comoments import Comoments, finite_rows, gram, wide


class Bridge(nn.Module):
    """Hands its input on with an affine change: ``x + (x - mean) W + b``.

    Args:
        weight: ``W``, ``[D, D]``.
        bias: ``b``, ``[D]``: the mean change.
        mean: mean of ``x``, ``[D]``; kept apart from ``b``, so that low precision loses nothing.
        channels: dimension of ``x`` that holds its ``D`` features: -1, or 1 for channels before
            places.

    Example:
        >>> import torch
        >>> bridge = Bridge(torch.zeros(3, 3), torch.ones(3), torch.zeros(3))
        >>> bridge(torch.zeros(2, 5, 3)).unique().tolist()
        [1.0]
    """

    mean: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, mean: Tensor, *, channels: int = -1) -> None:
        super().__init__()
        width = len(bias)
        if tuple(weight.shape) != (width, width) or tuple(mean.shape) != (width,):
            raise ValueError(
                "weight, bias and mean must have shapes [D, D], [D] and [D], got "
                f"{list(weight.shape)}, {list(bias.shape)}, {list(mean.shape)}"
            )
        self.weight, self.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.register_buffer("mean", mean)
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        """Returns ``x`` with its affine change; the shape is the same."""
        moved = x.movedim(self.channels, -1)
        change = torch.addmm(
            self.bias, (moved - self.mean).reshape(-1, len(self.bias)), self.weight
        )
        return x + change.reshape(moved.shape).movedim(-1, self.channels)

    def extra_repr(self) -> str:
        """Width and channel dimension."""
        return f"{len(self.bias)}, channels={self.channels}"


class BridgeMoments:
    """All that a bridge over one unit or a span of units needs: sums of ``[D, D]`` in float64.

    With the change ``f = y - x``: the means of ``x`` and ``f``, ``E x x^T``, ``E x f^T`` and
    ``E |f|^2``, all centred. Nothing of a batch survives, splits of the data do not matter.

    Args:
        width: ``D``, features of a token.

    Example:
        >>> import torch
        >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0)).double()
        >>> moments = BridgeMoments(4)
        >>> moments.add(x, 3 * x + 1)
        >>> bridge = moments.solve(ridge=0.0)
        >>> bool(torch.allclose(bridge(x), 3 * x + 1))
        True
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._joint = Comoments(width, 2 * width)  # of x with x and f, in one product
        self._squares = torch.zeros((), dtype=torch.float64)  # sum |f - E f|^2

    @property
    def count(self) -> int:
        """Number of tokens seen."""
        return self._joint.count

    @property
    def skipped(self) -> int:
        """Number of tokens left out because a number in them was not finite."""
        return self._joint.skipped

    @property
    def _xx(self) -> Tensor:
        return self._joint.products[:, : self.width]

    @property
    def _xf(self) -> Tensor:
        return self._joint.products[:, self.width :]

    @property
    def _f_mean(self) -> Tensor:
        return self._joint.y_mean[self.width :]

    def add(self, x: Tensor, y: Tensor) -> None:
        """Adds tokens: what goes in and what comes out, ``[..., D]``.

        Rows that are not finite on either side are left out.

        Raises:
            ValueError: if shapes differ or the last dimension is not ``D``.
        """
        self._check(x, y, "y")
        self.add_change(wide(x), wide(y) - wide(x))

    def add_change(self, x: Tensor, f: Tensor) -> None:
        """Adds tokens: what goes in and what is added to it, ``[..., D]``.

        Raises:
            ValueError: if shapes differ or the last dimension is not ``D``.
        """
        self.added_change(x, f)

    def added_change(self, x: Tensor, f: Tensor) -> Comoments:
        """Adds tokens as :meth:`add_change` does, and returns the covariance of what is added."""
        self._check(x, f, "f")
        D, change = self.width, Comoments(self.width, self.width)
        both = torch.cat([wide(t).reshape(-1, D) for t in (x, f)], 1)
        if (finite := finite_rows(both)) is not None:
            self._joint.skipped += int((~finite).sum())
            both = both[finite]
        if len(both):
            mean = both.mean(0)
            # of x and f with themselves and each other, for the price of the two that are needed
            products, mean = gram(both.sub_(mean)).cpu(), mean.cpu()
            self._spread(len(both), mean[D:], products.diagonal()[D:].sum())
            self._joint.combine(len(both), mean[:D], mean, products[:D])
            change.combine(len(both), mean[D:], mean[D:], products[D:, D:])
        return change

    def _check(self, x: Tensor, other: Tensor, name: str) -> None:
        if x.shape != other.shape or x.shape[-1] != self.width:
            raise ValueError(
                f"x and {name} must both have shape [..., {self.width}], "
                f"got {list(x.shape)} and {list(other.shape)}"
            )

    def _spread(self, count: int, mean: Tensor, squares: Tensor) -> None:
        """Combines ``sum |f - E f|^2``; to be called before the means are."""
        shift = (mean - self._f_mean).square().sum()
        between = shift * (self.count * count / (self.count + count))
        self._squares = self._squares + squares + between

    def merge(self, other: "BridgeMoments") -> None:
        """Adds what ``other`` has seen.

        Raises:
            ValueError: if it is of another width.
        """
        if other.width != self.width:
            raise ValueError(f"width must be {self.width}, got {other.width}")
        if other.count:
            self._spread(other.count, other._f_mean, other._squares)
        self._joint.merge(other._joint)

    def solve(self, *, ridge: float = 1e-4, channels: int = -1) -> Bridge:
        """Returns the bridge that minimises ``E |f - (x - mean) W - b|^2 + penalty``, in float64.

        ``W = (E xx^T + l I)^-1 E x f^T`` and ``b = E f`` with ``l = ridge * tr(E xx^T) / D``.
        Directions that ``x`` never takes get no weight, so that ``ridge=0`` is allowed.

        Args:
            ridge: the penalty, relative to the mean eigenvalue of the input's covariance.
            channels: as for :class:`Bridge`.

        Raises:
            ValueError: if ``ridge`` is negative or no token was seen.

        Source: Hoerl and Kennard (1970); as a stand-in for blocks: Shopkhoev et al., ReplaceMe,
        arXiv 2505.02819.
        """
        if not ridge >= 0:
            raise ValueError(f"ridge must be at least 0, got {ridge}")
        if not self.count:
            raise ValueError("a bridge must have seen at least one token, got none")
        values, vectors = torch.linalg.eigh((self._xx + self._xx.T) / 2)
        floor = values.max().clamp_min(0) * self.width * torch.finfo(torch.float64).eps
        damped = values + ridge * values.clamp_min(0).mean()
        inverse = torch.where(values > floor, 1 / damped, 0.0)
        weight = vectors @ (inverse[:, None] * (vectors.T @ self._xf))
        return Bridge(weight, self._f_mean.clone(), self._joint.x_mean.clone(), channels=channels)

    def residual(self, bridge: Bridge) -> float:
        """Returns the mean of ``|y - bridge(x)|^2`` over the tokens seen here.

        On tokens other than those the bridge was solved on it says what the bridge is worth.
        """
        W = bridge.weight.detach().to("cpu", torch.float64)
        bias, mean = (t.detach().to("cpu", torch.float64) for t in (bridge.bias, bridge.mean))
        offset = self._f_mean - bias - (self._joint.x_mean - mean) @ W
        spread = self._squares - 2 * (W * self._xf).sum() + (W * (self._xx @ W)).sum()
        return float(spread / max(self.count, 1) + offset.square().sum())

    @property
    def variance(self) -> float:
        """Mean of ``|f - E f|^2``: what the best constant change leaves over."""
        return float(self._squares) / max(self.count, 1)

    @property
    def is_constant(self) -> bool:
        """Whether the change is the same for all tokens, to the rounding of a float32 stream."""
        size = (self._joint.x_mean + self._f_mean).square().sum() + self.output_variance
        return self.variance <= torch.finfo(torch.float32).eps ** 2 * float(size)

    @property
    def output_variance(self) -> float:
        """Mean of ``|y - E y|^2``."""
        along = (self._xx + 2 * self._xf).diagonal().sum()
        return float(along + self._squares) / max(self.count, 1)

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        return {**self._joint.state(), "squares": self._squares.clone()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "BridgeMoments":
        """Returns what :meth:`state` was taken of."""
        moments = cls(len(state["x_mean"]))
        moments._joint = Comoments.from_state(state)
        moments._squares = state["squares"].clone()
        return moments
