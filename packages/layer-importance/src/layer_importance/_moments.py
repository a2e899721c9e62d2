"""Streaming mean and variance in float64, the same for every split of the data."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_ENOUGH = 1024
"""So many numbers are worth a sum."""


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
        self.shape = shape
        self._count = self._skipped = 0
        self._mean = torch.zeros(shape, dtype=torch.float64)
        self._m2 = torch.zeros(shape, dtype=torch.float64)
        self._waiting: list[np.ndarray] = []
        self._numbers = 0

    def add(self, values: Tensor) -> None:
        """Adds samples ``[N, *shape]``; a few of them wait for more before they are summed up.

        Raises:
            ValueError: if they have another shape.
        """
        if values.shape[1:] != self.shape:
            raise ValueError(
                f"values must have shape [N, {', '.join(map(str, self.shape))}], "
                f"got {list(values.shape)}"
            )
        # numpy: on a few numbers, torch takes longer to begin than to end; a copy: it may wait
        self._waiting.append(values.detach().to("cpu", torch.float64, copy=True).numpy())
        self._numbers += values.numel()
        if self._numbers >= _ENOUGH:
            self._settle()

    def _settle(self) -> None:
        """Sums up what waits."""
        if not self._waiting:
            return
        waiting, self._waiting, self._numbers = self._waiting, [], 0
        array = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        finite = np.isfinite(array)
        if not finite.all():
            kept = finite.reshape(len(array), -1).all(1)
            self._skipped += int((~kept).sum())
            array = array[kept]
        if len(array):
            mean = array.mean(0)
            m2 = np.square(array - mean).sum(0)
            self._combine(len(array), torch.as_tensor(mean), torch.as_tensor(m2))

    def combine(self, count: int, mean: Tensor, m2: Tensor) -> None:
        """Adds finite samples by their number, mean and squared deviations from it."""
        self._settle()
        self._combine(count, mean, m2)

    def _combine(self, count: int, mean: Tensor, m2: Tensor) -> None:
        total = self._count + count
        delta = mean - self._mean
        self._mean = self._mean + delta * (count / total)
        self._m2 = self._m2 + m2 + delta.square() * (self._count * count / total)
        self._count = total

    def merge(self, other: "Moments") -> None:
        """Adds what ``other`` has seen."""
        self._skipped += other._skipped
        if other._count:
            self._combine(other._count, other._mean, other._m2)
        # what waits there waits here: one that goes on from a state sums up what it would have
        for array in other._waiting:
            self.add(torch.from_numpy(array))

    @property
    def count(self) -> int:
        """Number of samples."""
        self._settle()
        return self._count

    @property
    def skipped(self) -> int:
        """Number of samples left out because a number in them was not finite."""
        self._settle()
        return self._skipped

    @property
    def mean(self) -> Tensor:
        """Mean of the samples; zero if there are none."""
        self._settle()
        return self._mean

    @property
    def variance(self) -> Tensor:
        """Unbiased variance; NaN below two samples."""
        if self.count < 2:
            return torch.full_like(self._m2, torch.nan)
        return self._m2 / (self._count - 1)

    @property
    def standard_error(self) -> Tensor:
        """Standard error of the mean; NaN below two samples."""
        return (self.variance / max(self.count, 1)).sqrt()

    def state(self) -> dict[str, Tensor]:
        """Returns all of it as float64 tensors."""
        counts = torch.tensor([self._count, self._skipped], dtype=torch.float64)
        waiting = [torch.from_numpy(array) for array in self._waiting]
        return {
            "counts": counts,
            "mean": self._mean.clone(),
            "m2": self._m2.clone(),
            "waiting": torch.cat(waiting) if waiting else counts.new_empty(0, *self.shape),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Tensor]) -> "Moments":
        """Returns what :meth:`state` was taken of."""
        moments = cls(tuple(state["mean"].shape))
        moments._count, moments._skipped = (int(n) for n in state["counts"])
        moments._mean, moments._m2 = state["mean"].clone(), state["m2"].clone()
        if len(state["waiting"]):
            moments.add(state["waiting"])
        return moments


def moments_of(state: Mapping[str, Tensor]) -> dict[str, Moments]:
    """Returns the moments that states were taken of, by what stands before their last ``/``."""
    groups: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        key, _, part = name.rpartition("/")
        groups.setdefault(key, {})[part] = tensor
    return {key: Moments.from_state(parts) for key, parts in sorted(groups.items())}
