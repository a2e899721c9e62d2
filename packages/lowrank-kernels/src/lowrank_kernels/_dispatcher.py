"""Choose the form of a product: by measured times where there are any, by counting else."""

from collections.abc import Iterable

from torch import Tensor

from lowrank_kernels import _checks, _forms
from lowrank_kernels._calibrate import calibrate as measure
from lowrank_kernels._calibration import Calibration, Key
from lowrank_kernels._calibration_file import cache_file, load, stamp
from lowrank_kernels._explanation import Explanation
from lowrank_kernels._types import Rank


class Dispatcher:
    """Knows which form of a product is the fastest, for each batch and rank.

    The forms are `"dense"`, one product with `W_r` formed once; `"factored"`, two products with
    views of the factors; `"packed"`, two with the columns of `up` copied together; and on a GPU
    with triton `"fused"`, one launch.

    Without a calibration multiplications are counted: dense from `r* = mn / (m + n)` on, where the
    factors take as many; below, the factors as they are, or packed for a single row. With one,
    measured times decide, and what keeps no copy wins within 1 %; a batch of four times the
    largest measured one, and above, is counted again.

    Args:
        calibrations: what `calibrate` returned; they go before those on disk.
        calibrate: measure a product the first time it is asked about, unless it was measured
            before. That takes up to two seconds for each; it is never done unless asked for.
        cache: read calibrations of this machine from disk, and keep new ones there.

    Example:
        >>> import torch
        >>> down, up = torch.ones(8, 12), torch.ones(24, 8)
        >>> dispatcher = Dispatcher(cache=False)
        >>> dispatcher.choose(down, up, 4, batch=32), dispatcher.choose(down, up, 8, batch=32)
        ('factored', 'dense')
    """

    def __init__(
        self,
        calibrations: Iterable[Calibration] = (),
        *,
        calibrate: bool = False,
        cache: bool = True,
    ) -> None:
        self._given = {table.key: table for table in calibrations}
        self._measures, self._cache = calibrate, cache
        self._read: dict[Key, tuple[object, Calibration | None]] = {}

    def calibration(self, down: Tensor, up: Tensor) -> Calibration | None:
        """Return the measured times of a product with such factors; None where there are none."""
        key = Key.of(down, up)
        table = self._given.get(key) or self._on_disk(key, down)
        if table is None and self._measures and down.numel() and up.numel():
            n, m, R, dtype, _ = key
            device = down.device
            table = measure(n, m, R, dtype=dtype, device=device, save=self._cache)
            self._given[key] = table
        return table

    def order(self, down: Tensor, up: Tensor, rank: Rank = None, *, batch: int) -> tuple[str, ...]:
        """Return the forms from best to worst, as `choose` does the best."""
        r, rows = _checks.rank_value(rank, down.shape[0]), _checks.whole("batch", batch, 0)
        table = self.calibration(down, up)
        if table is not None and table.covers(rows):
            return table.order(r, rows)
        return _forms.by_rule(down.shape[1], up.shape[0], r, rows)

    def choose(self, down: Tensor, up: Tensor, rank: Rank = None, *, batch: int) -> str:
        """Return the best form.

        Args:
            down: first factor `[R, n]`.
            up: second factor `[m, R]`.
            rank: r in 0..R; None is R.
            batch: rows N.

        Raises:
            ValueError: the rank is not in 0..R, or `batch` is negative.
        """
        return self.order(down, up, rank, batch=batch)[0]

    def explain(self, down: Tensor, up: Tensor, rank: Rank = None, *, batch: int) -> Explanation:
        """Return why `choose` chooses what it does: print it, or read its fields.

        Example:
            >>> import torch
            >>> down, up = torch.ones(8, 12), torch.ones(24, 8)
            >>> print(Dispatcher(cache=False).explain(down, up, 4, batch=32))
            12 -> 24 features, rank 4 of 8, 32 rows, torch.float32 on cpu: factored
            counted, as nothing is measured near it; dense from rank 8 on
              factored         144 multiplications a row    0.50 of dense
              packed           144 multiplications a row    0.50 of dense
              dense            288 multiplications a row    1.00 of dense
        """
        forms = self.order(down, up, rank, batch=batch)
        key, r = Key.of(down, up), _checks.rank_value(rank, down.shape[0])
        table = self.calibration(down, up)
        if table is None or not table.covers(batch):
            costs: dict[str, float] = {**_forms.counted(key.n, key.m, r)}
            at, dense_from = None, _forms.break_even(key.n, key.m, key.R)
        else:
            costs = table.predict(r, batch)
            at, dense_from = table.stand_in(batch), table.break_even(batch)
        costs = {form: costs[form] for form in forms}
        return Explanation(key, r, batch, at, costs, dense_from, forms[0])

    def _on_disk(self, key: Key, down: Tensor) -> Calibration | None:
        if not self._cache:
            return None
        path = cache_file(down.device)
        state = path, stamp(path)
        known = self._read.get(key)
        if known is None or known[0] != state:
            known = self._read[key] = (state, load(key, down.device))
        return known[1]
