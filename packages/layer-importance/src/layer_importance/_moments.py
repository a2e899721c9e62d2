"""Streaming mean and variance in float64, the same for every split of the data."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor


class Moments:
    """Count, mean and sum of squared deviations of what was added, entry by entry.

    Batches are combined by Chan, Golub and LeVeque (1983, eq. 2.1), so that neither the split into
    batches nor a mean far from zero costs accuracy. Rows with an entry that is not finite are left
    out and counted in ``skipped``.

    Args:
        shape: shape of one sample.

    Example:
        >>> import torch
        >>> moments = Moments()
        >>> moments.add(torch.tensor([1.0, 2.0, 3.0]))
        >>> float(moments.mean), float(moments.variance)
        (2.0, 1.0)
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0
        self.skipped = 0
        self.mean = torch.zeros(shape, dtype=torch.float64)
        self._m2 = torch.zeros(shape, dtype=torch.float64)

    def add(self, values: Tensor) -> None:
        """Adds samples ``[N, *shape]``."""
        rows = values.detach().to("cpu", torch.float64)
        if tuple(rows.shape[1:]) != tuple(self.mean.shape):
            raise ValueError(
                f"values must have shape [N, {', '.join(map(str, self.mean.shape))}], "
                f"got {list(rows.shape)}"
            )
        if not len(rows):
            return
        # numpy: on a few numbers, torch takes longer to begin than to end
        array = rows.numpy()
        finite = np.isfinite(array)
        if not finite.all():
            kept = finite.reshape(len(array), -1).all(1)
            self.skipped += int((~kept).sum())
            array = array[kept]
        if len(array):
            mean = array.mean(0)
            m2 = np.square(array - mean).sum(0)
            self._combine(len(array), torch.as_tensor(mean), torch.as_tensor(m2))

    def _combine(self, count: int, mean: Tensor, m2: Tensor) -> None:
        total = self.count + count
        delta = mean - self.mean
        self.mean = self.mean + delta * (count / total)
        self._m2 = self._m2 + m2 + delta.square() * (self.count * count / total)
        self.count = total

    def merge(self, other: "Moments") -> None:
        """Adds what ``other`` has seen."""
        self.skipped += other.skipped
        if other.count:
            self._combine(other.count, other.mean, other._m2)

    @property
    def variance(self) -> Tensor:
        """Unbiased variance; NaN below two samples."""
        if self.count < 2:
            return torch.full_like(self._m2, torch.nan)
        return self._m2 / (self.count - 1)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the mean; NaN below two samples."""
        return (self.variance / max(self.count, 1)).sqrt()

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        counts = torch.tensor([self.count, self.skipped], dtype=torch.float64)
        return {"counts": counts, "mean": self.mean.clone(), "m2": self._m2.clone()}

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Moments":
        """Returns what :meth:`state` was taken of."""
        moments = cls(tuple(state["mean"].shape))
        moments.count, moments.skipped = (int(n) for n in state["counts"])
        moments.mean, moments._m2 = state["mean"].clone(), state["m2"].clone()
        return moments
