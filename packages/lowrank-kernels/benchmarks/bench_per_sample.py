"""Time the product with a rank for each sample against what its FLOPs cost.

The ideal is the time of two compact products at rank R for all rows, times the mean rank over R:
nobody reaches it, as few rows and narrow products run below full speed. `gemms` are the matrix
products of the staircase alone, on rows that lie sorted already; `dispatch` chooses by a
calibration. See `_timing`.

    python bench_per_sample.py [--threads 1] [--dtype float32] [--seconds 1] [--csv PATH]
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from _timing import Calls, Row, paired, quartile_us, ratio, run, show
from torch import Tensor

from lowrank_kernels import (
    Dispatcher,
    calibrate,
    dispatch_per_sample,
    lowrank_linear,
    lowrank_linear_per_sample,
)
from lowrank_kernels._bands import Band
from lowrank_kernels._staircase import sort

BATCHES = (64, 256, 1024)
N, M, R = 1024, 1024, 512


def mixes(batch: int) -> dict[str, Tensor]:
    torch.manual_seed(0)
    shuffled, few = torch.randperm(batch), torch.arange(batch) % 10 == 0
    return {
        "uniform 1..512": torch.randint(1, R + 1, (batch,)),
        "8 values": 64 * torch.randint(1, 9, (batch,)),
        "90% 16, 10% 512": torch.where(few, R, 16)[shuffled],
        "90% 32, 10% 256": torch.where(few, R // 2, 32)[shuffled],
    }


def masked(x: Tensor, down: Tensor, up: Tensor, bias: Tensor, ranks: Tensor) -> Tensor:
    """Return the product at the largest rank, the rest put to zero."""
    top = int(ranks.max())
    h = F.linear(x, down[:top])
    h.masked_fill_(ranks[:, None] <= torch.arange(top), 0.0)
    return F.linear(h, up[:, :top], bias)


def by_rank(x: Tensor, down: Tensor, up: Tensor, bias: Tensor, ranks: Tensor) -> Tensor:
    """Return a product for each rank there is."""
    y = x.new_empty(x.shape[0], up.shape[0])
    for r in ranks.unique().tolist():
        rows = (ranks == r).nonzero()[:, 0]
        y[rows] = lowrank_linear(x[rows], down, up, bias, r)
    return y


def gemms(x: Tensor, down: Tensor, up: Tensor, bands: tuple[Band, ...]) -> Callable[[], None]:
    """Return the matrix products of the bands, on memory that is there."""
    h, y, U = x.new_zeros(len(x), R), x.new_zeros(len(x), M), up.t()

    def call() -> None:
        for S, start, stop, _ in bands:
            torch.mm(x[:S], down[start:stop].t(), out=h[:S, start:stop])
            y[:S].addmm_(h[:S, start:stop], U[start:stop])

    return call


def products(dtype: torch.dtype, seconds: float, batches: Any = BATCHES) -> Iterator[Row]:
    torch.manual_seed(0)
    down, up, bias = (torch.randn(s).to(dtype) for s in ((R, N), (M, R), (M,)))
    table = calibrate(N, M, R, dtype=dtype, per_sample=True, save=False)
    chosen = dispatch_per_sample(down, up, bias, dispatcher=Dispatcher([table], cache=False))
    for batch in batches:
        x = torch.randn(batch, N).to(dtype)
        for name, ranks in mixes(batch).items():
            bands = sort(ranks, R, N + M, x.device).bands
            given = (x, down, up, bias, ranks)
            calls: Calls = {
                "full": lambda x=x: F.linear(F.linear(x, down), up, bias),
                "per_sample": lambda g=given: lowrank_linear_per_sample(*g),
                "gemms": gemms(x, down, up, bands),
                "masked": lambda g=given: masked(*g),
                "by_rank": lambda g=given: by_rank(*g),
                "dispatch": lambda x=x, ranks=ranks: chosen(x, ranks),
            }
            times = paired(calls, seconds)
            share = float(ranks.double().mean()) / R
            row: Row = {"batch": batch, "ranks": name, "bands": len(bands)}
            row |= {"share": round(share, 3), "chosen": chosen.form(ranks)}
            row["ideal_us"] = round(quartile_us(times, "full") * share)
            for call in list(calls)[1:]:
                row[f"{call}/ideal"] = round(ratio(times, call, "full") / share, 2)
            for call in ("masked", "by_rank"):
                row[f"{call}/per_sample"] = round(ratio(times, call, "per_sample"), 2)
            yield row


def bench_per_sample() -> None:
    with torch.no_grad():
        assert show(products(torch.float32, 0.1, (64,)))


if __name__ == "__main__":
    run(__doc__, products)
