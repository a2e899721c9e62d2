"""Time the dispatcher against every form it can choose from, and against the dense layer.

Each shape is calibrated first, in this process and without touching the cache on disk. The ratio
to the best form is the largest to any of them; see `_timing`.

    python bench_dispatch.py [--threads 1] [--dtype float32] [--seconds 1] [--csv PATH]
"""

from collections.abc import Iterator
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from _timing import Calls, Row, median_us, paired, ratio, run, show, to_best

from lowrank_kernels import Dispatcher, calibrate, dispatch, prefix

SHAPES = ((1024, 1024), (4096, 1024), (384, 1536))
BATCHES = (1, 8, 32, 256, 5, 48)  # the last two lie between the batches that are calibrated
RANKS = (8, 16, 32, 64, 128, 256, 384, 512)
FORMS = ("dense", "factored", "packed")


def candidates(x: torch.Tensor, f: dict[str, Any], r: int, measured: Dispatcher) -> Calls:
    down, up, bias = f["down"], f["up"], f["bias"]
    W = up[:, :r] @ down[:r]
    views, packed = prefix(down, up, bias, r), prefix(down, up, bias, r, packed=True)
    chosen = dispatch(down, up, bias, r, dispatcher=measured)
    frozen = dispatch(down, up, bias, r, dispatcher=measured, frozen=True)
    counted = dispatch(down, up, bias, r, dispatcher=Dispatcher(cache=False))
    return {
        "dense": lambda: F.linear(x, W, bias),
        "factored": lambda: views(x),
        "packed": lambda: packed(x),
        "dispatch": lambda: chosen(x),
        "dispatch_frozen": lambda: frozen(x),
        "dispatch_counted": lambda: counted(x),
    }


def row_of(x: torch.Tensor, f: dict[str, Any], r: int, measured: Dispatcher, seconds: float) -> Row:
    times = paired(candidates(x, f, r, measured), seconds)
    best = min(FORMS, key=lambda name: median_us(times, name))
    row: Row = {
        "chosen": measured.choose(f["down"], f["up"], r, batch=x.shape[0]),
        "best": best,
        "best_us": round(median_us(times, best), 1),
    }
    for name in ("dispatch", "dispatch_frozen", "dispatch_counted"):
        row[f"{name}/best"] = round(to_best(times, name, FORMS), 3)
        row[f"{name}/dense"] = round(ratio(times, name, "dense"), 3)
    return row


def products(
    dtype: torch.dtype, seconds: float, shapes: Any = SHAPES, batches: Any = BATCHES
) -> Iterator[Row]:
    for n, m in shapes:
        torch.manual_seed(0)
        R = min(n, m)
        start = perf_counter()
        table = calibrate(n, m, dtype=dtype, save=False)
        took = perf_counter() - start
        measured = Dispatcher([table], cache=False)
        f = {
            "down": torch.randn(R, n, dtype=dtype),
            "up": torch.randn(m, R, dtype=dtype),
            "bias": torch.randn(m, dtype=dtype),
        }
        for batch in batches:
            x = torch.randn(batch, n, dtype=dtype)
            for r in (r for r in RANKS if r <= R):
                yield {
                    "in": n, "out": m, "batch": batch, "rank": r,
                    "calibrated_s": round(took, 2),
                    **row_of(x, f, r, measured, seconds),
                }  # fmt: skip


def bench_dispatch() -> None:
    with torch.no_grad():
        assert show(products(torch.float32, 0.05, ((256, 256),), (1, 32)))


if __name__ == "__main__":
    run(__doc__, products)
