"""Spikes in a rule: their places for additions, their values for all else."""

import torch
import torch.nn.functional as F
from torch import Tensor

from spike_ops._bits import in_numpy, pack_bits
from spike_ops._checked import tensor
from spike_ops._index import SpikeIndex
from spike_ops._mm import mm_transposed, plan_mm
from spike_ops._spike_tensor import SpikeTensor, check_binary, dense_of
from spike_ops.learning._traces import last_trace, powers


class Spikes:
    """Zeros and ones [T, B, ...]: dense in the weight's type, and where they are.

    Args:
        given: A `SpikeTensor`, or dense zeros and ones.
        dtype: The type to calculate in.
        scale: Values [T, B, ...] that stand in place of the ones.
    """

    def __init__(self, given: Tensor, dtype: torch.dtype, scale: Tensor | None = None) -> None:
        self.given, self.dtype, self.scale = given, dtype, scale
        self._dense: Tensor | None = None
        self._index: SpikeIndex | None = None

    @property
    def shape(self) -> torch.Size:
        """The shape [T, B, ...]."""
        return self.given.shape

    @property
    def dense(self) -> Tensor:
        """Zeros and ones."""
        if self._dense is None:
            given, kind = self.given, self.dtype
            self._dense = (
                dense_of(given, kind) if isinstance(given, SpikeTensor) else given.to(kind)
            )
        return self._dense

    def last_trace(self, decay: float, initial: Tensor) -> Tensor:
        """Return Σ_t λ^(T-1-t) s[t] + λ^T x̄ [B, ...], by the places of few spikes."""
        packed = isinstance(self.given, SpikeTensor) and in_numpy(self.index.packed)
        if not packed or self.index.count > FEW * self.given.numel():
            return last_trace(self.dense, decay, initial)
        size, ahead = initial.numel(), powers(decay, len(self.given) + 1, like=initial)
        steps = torch.div(self.index.positions, max(size, 1), rounding_mode="floor")
        left = (initial * ahead[-1]).flatten()
        places = self.index.positions - steps * size
        return left.index_add_(0, places, ahead[len(self.given) - 1 - steps]).reshape(initial.shape)

    @property
    def values(self) -> Tensor:
        """The ones times the scale."""
        return self.dense if self.scale is None else self.dense * self.scale

    @property
    def index(self) -> SpikeIndex:
        """Where they are, found once."""
        if self._index is None:
            given = self.given
            if isinstance(given, SpikeTensor) and not given._transposed:
                self._index = given.index
            else:
                self._index = SpikeIndex(pack_bits(self.dense), self.dense.numel())
        return self._index

    def scaled(self, scale: Tensor) -> "Spikes":
        """Return the same spikes with other values; their places are shared."""
        other = Spikes(self.given, self.dtype, scale)
        other._dense, other._index = self.dense, self.index
        return other


# of many spikes the dense values are faster
FEW = 0.1


def values_of(activity: Tensor | Spikes) -> Tensor:
    """Return dense values [T, B, ...]."""
    return activity.values if isinstance(activity, Spikes) else activity


def sums_over_spikes(spikes: Spikes, values: Tensor) -> Tensor:
    """Return Σ_{t,b} s[t,b,n] y[t,b,m]: [N, M], spikes [T, B, N] and values [T, B, M].

    By additions of the rows of y where a neuron fired, if the cost model finds that cheaper.
    """
    size, rows = spikes.shape[-1], values.shape[0] * values.shape[1]
    table = values.flatten(0, 1)
    if spikes.scale is None:
        return mm_transposed(spikes.index, size, table)
    if plan_mm(spikes.index, size, table, "auto").method == "dense":
        return spikes.values.reshape(rows, size).t() @ table
    bags = spikes.index.by_column(size)
    starts = bags.starts.long()
    places = torch.arange(len(bags.entries), device=starts.device)
    column = torch.bucketize(places, starts, right=True) - 1
    weights = spikes.scale.reshape(rows, size)[bags.entries.long(), column]
    return F.embedding_bag(
        bags.entries, table.contiguous(), bags.starts, mode="sum", per_sample_weights=weights
    )


def checked(given: Tensor, name: str, *, binary: bool = True) -> Tensor:
    """Return an activity outside autograd.

    Raises:
        ValueError: It has no axes of time and batch, or must be spikes and is not 0 or 1, or is
            not finite.
    """
    if tensor(name, given).ndim < 3 or given.shape[0] == 0:
        shape = tuple(given.shape)
        raise ValueError(f"{name} must be [T, B, ...] with T at least 1, got {shape}")
    if binary and not _is_binary(given):
        try:
            check_binary(given)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    if not binary and not isinstance(given, SpikeTensor) and not bool(given.isfinite().all()):
        where = tuple((~given.isfinite()).nonzero()[0].tolist())
        raise ValueError(f"{name} must be finite, got {given[where].item()} at {where}")
    return given.detach()


def _is_binary(given: Tensor) -> bool:
    if isinstance(given, SpikeTensor) or given.dtype == torch.bool:
        return True
    return torch.equal((given != 0).to(given.dtype), given)
