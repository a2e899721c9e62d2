"""Choose the form of a product: by measured times where there are any, by counting else."""

from collections.abc import Iterable

import torch
from torch import Tensor

from lowrank_kernels import _checks, _forms
from lowrank_kernels._calibrate import measure
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
    measured times decide: factors where they are 4 % faster than dense (from r* on 12 %),
    packed where that is 1 % faster than views; a batch of four times the largest measured one, and
    above, is counted again.

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
        self._given = {table.key: table for table in _tables(calibrations)}
        self._measures = _checks.flag("calibrate", calibrate)
        self._cache = _checks.flag("cache", cache)
        self._read: dict[Key, tuple[object, Calibration | None]] = {}

    def calibration(self, down: Tensor, up: Tensor) -> Calibration | None:
        """Return the measured times of a product with such factors; None where there are none."""
        return self._table(Key.of(down, up), down.device)

    def order(self, down: Tensor, up: Tensor, rank: Rank = None, *, batch: int) -> tuple[str, ...]:
        """Return the forms from best to worst, as `choose` does the best."""
        key = Key.of(down, up)
        return self._order(key, down.device, _checks.rank_value(rank, key.R), batch)

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
        key = Key.of(down, up)
        return self._explain(key, down.device, _checks.rank_value(rank, key.R), batch)

    def _order(self, key: Key, device: torch.device, r: int, batch: int) -> tuple[str, ...]:
        rows = _checks.whole("batch", batch, 0)
        table = self._table(key, device)
        if table is not None and table.covers(rows):
            return table.order(r, rows)
        # an image is many rows, whatever their number
        return _forms.by_rule(key.n, key.m, r, rows if key.images is None else 2)

    def _explain(self, key: Key, device: torch.device, r: int, batch: int) -> Explanation:
        forms, table = self._order(key, device, r, batch), self._table(key, device)
        if table is None or not table.covers(batch):
            costs: dict[str, float] = {**_forms.counted(key.n, key.m, r)}
            at, dense_from = None, _forms.break_even(key.n, key.m, key.R)
        else:
            costs = table.predict(r, batch)
            at, dense_from = table.stand_in(batch), table.break_even(batch)
        costs = {form: costs[form] for form in forms}
        return Explanation(key, r, batch, at, costs, dense_from, forms[0])

    def _table(self, key: Key, device: torch.device) -> Calibration | None:
        table = self._given.get(key) or self._on_disk(key, device)
        measurable = min(key[:3]) > 0 and device.type != "meta"
        if table is None and self._measures and measurable:
            table = self._given[key] = measure(key, device, save=self._cache)
        return table

    def _on_disk(self, key: Key, device: torch.device) -> Calibration | None:
        if not self._cache:
            return None
        path = cache_file(key, device)
        state = path, stamp(path)
        known = self._read.get(key)
        if known is None or known[0] != state:
            known = self._read[key] = (state, load(key, device))
        return known[1]


def _tables(calibrations: object) -> list[Calibration]:
    kind = type(calibrations).__name__
    if isinstance(calibrations, (Calibration, str)) or not isinstance(calibrations, Iterable):
        raise TypeError(f"calibrations must be several, such as [table], got {kind}")
    tables = list(calibrations)
    for table in tables:
        if not isinstance(table, Calibration):
            raise TypeError(f"calibrations must be Calibrations, got {type(table).__name__}")
    return tables
