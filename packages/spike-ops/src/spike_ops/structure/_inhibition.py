"""Lateral inhibition: neurons of a layer that silence each other."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def k_winners(activity: Tensor, k: int) -> Tensor:
    """Return where the k largest entries of the last axis are: booleans of the same shape.

    Exactly k of each row, whatever the ties: of equals the first ones.

    Args:
        activity: Currents, membranes or rates [..., N].
        k: How many win, in 1..N.

    Raises:
        ValueError: k is outside its range.

    Example:
        >>> k_winners(torch.tensor([0.1, 0.9, 0.5, 0.9]), 1)
        tensor([False,  True, False, False])
    """
    size = activity.shape[-1] if activity.ndim else 0
    if not 1 <= k <= size:
        raise ValueError(f"k must be in 1..{size}, got {k}")
    known = activity.detach()
    if k == 1:  # the first of equals, as below
        order = known.argmax(-1, keepdim=True)
    else:
        order = known.argsort(dim=-1, descending=True, stable=True)[..., :k]
    won = torch.zeros(activity.shape, dtype=torch.bool, device=activity.device)
    return won.scatter_(-1, order, True)


class KWinners(nn.Module):
    """Return activity of the k strongest neurons of a layer (of each group), zero elsewhere.

    k = 1 is winner takes all. Gradients reach the winners alone.

    Args:
        k: How many win.
        groups: Groups of equal size that compete among themselves, along the last axis.

    Raises:
        ValueError: k or groups are below 1, or do not fit the activity.

    Example:
        >>> KWinners(1, groups=2)(torch.tensor([1.0, 2.0, 4.0, 3.0]))
        tensor([0., 2., 4., 0.])
    """

    def __init__(self, k: int = 1, *, groups: int = 1) -> None:
        super().__init__()
        if k < 1 or groups < 1:
            raise ValueError(f"k and groups must be at least 1, got {k} and {groups}")
        self.k, self.groups = k, groups

    def forward(self, activity: Tensor) -> Tensor:
        """Return the activity [..., N] of winners."""
        size = activity.shape[-1]
        if size % self.groups:
            raise ValueError(f"groups must divide the {size} neurons, got {self.groups}")
        grouped = activity.unflatten(-1, (self.groups, -1))
        return (grouped * k_winners(grouped, self.k)).flatten(-2)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return f"k={self.k}, groups={self.groups}"


class GlobalInhibition(nn.Module):
    """Return activity less what the others of the layer send: y_i = x_i - w Σ_{j≠i} x_j / (N - 1).

    Args:
        strength: w.

    Example:
        >>> GlobalInhibition(0.5)(torch.tensor([1.0, 0.0, 1.0]))
        tensor([ 0.7500, -0.5000,  0.7500])
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def forward(self, activity: Tensor) -> Tensor:
        """Return the inhibited activity [..., N]."""
        others = activity.sum(-1, keepdim=True) - activity
        return activity - self.strength * others / max(activity.shape[-1] - 1, 1)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        return f"strength={self.strength}"


class MexicanHat(nn.Module):
    """Return activity on a grid, excited by near neurons and inhibited by those further away.

        y = x ⋆ (a_E G(σ_E) - a_I G(σ_I)),   G(σ) ~ e^(-d²/2σ²), each with sum 1

    With a_E = a_I (the default) uniform activity is answered with 0: contrasts are what is left.

    Args:
        sigma_e: σ_E, of the near.
        sigma_i: σ_I, of the far; greater.
        a_e: a_E.
        a_i: a_I.
        radius: Cells that the kernel reaches; 3 σ_I, rounded up, if None.
        periodic: Let opposite edges touch; otherwise beyond the edges is nothing.

    Raises:
        ValueError: σ_I is not above σ_E > 0, or the radius is below 1.

    Source: S. Amari, "Dynamics of pattern formation in lateral-inhibition type neural fields",
    Biol. Cybern. 1977.

    Example:
        >>> hat = MexicanHat(0.8, 1.6, periodic=True)
        >>> hat(torch.ones(1, 8, 8)).abs().max() < 1e-6
        tensor(True)
    """

    kernel: Tensor

    def __init__(
        self,
        sigma_e: float = 1.0,
        sigma_i: float = 2.0,
        *,
        a_e: float = 1.0,
        a_i: float = 1.0,
        radius: int | None = None,
        periodic: bool = False,
    ) -> None:
        super().__init__()
        if not 0 < sigma_e < sigma_i:
            raise ValueError(f"sigma_i must be above sigma_e > 0, got {sigma_i} and {sigma_e}")
        reach = int(-(-3 * sigma_i // 1)) if radius is None else radius
        if reach < 1:
            raise ValueError(f"radius must be at least 1, got {radius}")
        self.periodic = periodic
        kernel = a_e * _gaussian(sigma_e, reach) - a_i * _gaussian(sigma_i, reach)
        self.register_buffer("kernel", kernel.to(torch.get_default_dtype()), persistent=False)

    def forward(self, activity: Tensor) -> Tensor:
        """Return what neurons on a grid [..., H, W] send each other."""
        x = activity.to(self.kernel.dtype).reshape(-1, 1, *activity.shape[-2:])
        reach = self.kernel.shape[0] // 2
        if self.periodic:
            rows, columns = (
                torch.arange(-reach, size + reach, device=x.device) % size for size in x.shape[-2:]
            )
            x, reach = x[:, :, rows][..., columns], 0
        answer = F.conv2d(x, self.kernel[None, None], padding=reach)
        return answer.reshape(activity.shape)


def _gaussian(sigma: float, reach: int) -> Tensor:
    line = torch.exp(-torch.arange(-reach, reach + 1, dtype=torch.float64).square() / 2 / sigma**2)
    plane = line[:, None] * line
    return plane / plane.sum()
