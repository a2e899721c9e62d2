"""Watching a layer's inputs at a cost that stays a small part of training it."""

import torch
from torch import Tensor

from fd_sketch import CovarianceSketch, ExactGram, FrequentDirections

# of the layer's own training FLOPs, what watching may cost, counted in FLOPs of equal speed
SHARE = 0.0015
# small decompositions in float64 run at a fraction of a large product's speed
SLOWNESS = 10.0

# what an older helping of rows still counts when the next comes: training moves the inputs
DECAY = 0.95


def make_sketch(
    n_features: int,
    sketch_size: int,
    *,
    exact_up_to: float = 2.0,
    buffer: int = 4,
    decay: float = 1.0,
) -> CovarianceSketch:
    """Returns the exact covariance where it is affordable, else a sketch; both centred.

    Args:
        n_features: columns ``n``.
        sketch_size: rows ``l`` of the sketch.
        exact_up_to: the exact covariance is kept for ``n`` up to this many times ``l``: more
            memory than a sketch's buffer takes, but no decompositions.
        buffer: rows of the sketch's buffer, in ``l``: with fewer shrinks it errs less.
        decay: what earlier rows still count at each helping.
    """
    if n_features <= exact_up_to * sketch_size:
        return ExactGram(n_features, center=True, decay=decay)
    return FrequentDirections(
        n_features, sketch_size, buffer_size=buffer * sketch_size, center=True, decay=decay
    )


class InputWatch:
    """A sketch of a layer's inputs and its latest rows, from a bounded share of what passes.

    Every row that passes earns a little credit and a row that is sketched costs one. The first
    rows are free: a rank should be decidable soon. Sampling makes the sketch's certificate one for
    the sampled rows.

    Args:
        n_features: inputs of the layer.
        n_outputs, max_rank: of the layer, for what one row costs to train.
        sketch_size: rows of the sketch.
        stride: only every ``stride``-th row counts.
        max_rows: largest number of rows taken at once.
    """

    def __init__(
        self,
        n_features: int,
        n_outputs: int,
        max_rank: int,
        *,
        sketch_size: int,
        stride: int,
        max_rows: int,
    ) -> None:
        self.sketch = make_sketch(n_features, sketch_size, exact_up_to=8.0, buffer=1, decay=DECAY)
        self.rate = _rate(self.sketch, n_outputs, max_rank, sketch_size)
        self.stride, self.max_rows = stride, max_rows
        self.free_rows = 2 * min(n_features, sketch_size)
        self.credit = float(self.free_rows)
        self.room = sketch_size
        self.recent = torch.zeros(0, n_features)

    def offer(self, available: int) -> Tensor | None:
        """Returns which of the ``available`` rows to feed, ``[k]``, as the credit allows, or None.

        Args:
            available: rows that pass, before the stride.
        """
        self.credit += self.rate * available
        strided = -(-available // self.stride)
        # waiting for a full helping keeps the number of calls, and their fixed cost, down
        wanted = min(strided, self.max_rows)
        if wanted > self.credit:
            if self.sketch.n_samples_seen >= self.free_rows:
                return None
            wanted = int(self.credit)
        if wanted < 1:
            return None
        self.credit -= wanted
        return torch.arange(wanted) * strided // wanted * self.stride

    def feed(self, rows: Tensor) -> None:
        """Takes in rows ``[k, n]``."""
        rows = rows.float()
        self.sketch.partial_fit(rows)
        rows = rows[rows.isfinite().all(1)]
        self.recent = torch.cat([self.recent.to(rows.device), rows])[-self.room :].clone()

    def clear(self) -> None:
        """Forgets everything seen."""
        self.sketch.reset()
        self.recent = self.recent[:0]
        self.credit = float(self.free_rows)


def _rate(sketch: CovarianceSketch, n_outputs: int, max_rank: int, size: int) -> float:
    """The share of rows that can be sketched for ``SHARE`` of the training FLOPs."""
    n = sketch.n_features
    training = 6.0 * max_rank * (n + n_outputs)  # forward, and backward to inputs and factors
    if isinstance(sketch, ExactGram):
        per_row = 2.0 * n * n
    else:  # Gram matrix, rotation, and an eigendecomposition of 2 l rows for every l
        per_row = 12.0 * n * size + SLOWNESS * 9.0 * (2 * size) ** 3 / size
    return min(1.0, SHARE * training / per_row)
