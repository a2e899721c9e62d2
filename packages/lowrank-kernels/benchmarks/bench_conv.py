"""Time the rank-r convolution against two compact convolutions, the dense one and the dispatcher.

Columns over `compact` are ratios to two convolutions with contiguous copies of the factors; over
`best`, to the best of the dense convolution, two with views and two with copies. Each shape is
calibrated first; see `_timing`.

    python bench_conv.py [--threads 1] [--dtype float32] [--seconds 1] [--csv PATH]
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from _timing import Calls, Row, paired, quartile_us, ratio, run, show, to_best

from lowrank_kernels import Dispatcher, calibrate_conv2d, dispatch_conv2d, lowrank_conv2d

# batch, channels in and out, side, kernel
SHAPES = ((1, 128, 28, 3), (8, 128, 28, 3), (8, 256, 14, 3), (8, 256, 14, 1))
RANKS = (16, 32, 64, 96, 128)
FORMS = ("dense", "factored", "compact")


def candidates(
    x: torch.Tensor, f: dict[str, torch.Tensor], r: int, p: int, measured: Dispatcher
) -> Calls:
    down, up, bias = f["down"], f["up"], f["bias"]
    D, V, U = down[:r].clone(), up[:, :r, None, None], up[:, :r].contiguous()[..., None, None]
    W = (up[:, :r] @ down[:r].flatten(1)).reshape(-1, *down.shape[1:])
    chosen = dispatch_conv2d(down, up, bias, r, padding=p, dispatcher=measured)
    return {
        "compact": lambda: F.conv2d(F.conv2d(x, D, padding=p), U, bias),
        "factored": lambda: F.conv2d(F.conv2d(x, down[:r], padding=p), V, bias),
        "dense": lambda: F.conv2d(x, W, bias, padding=p),
        "lowrank_conv2d": lambda: lowrank_conv2d(x, down, up, bias, r, padding=p),
        "dispatch": lambda: chosen(x),
    }


def row_of(times: Any, chosen: str) -> Row:
    return {
        "compact_us": round(quartile_us(times, "compact")),
        "dense/compact": round(ratio(times, "dense", "compact"), 3),
        "lowrank_conv2d/compact": round(ratio(times, "lowrank_conv2d", "compact"), 3),
        "chosen": chosen,
        "dispatch/best": round(to_best(times, "dispatch", FORMS), 3),
        "dispatch/dense": round(ratio(times, "dispatch", "dense"), 3),
    }


def products(
    dtype: torch.dtype, seconds: float, shapes: Any = SHAPES, ranks: Any = RANKS
) -> Iterator[Row]:
    for batch, c, side, k in shapes:
        torch.manual_seed(0)
        R, p = max(RANKS), k // 2
        table = calibrate_conv2d(c, c, k, side, R, padding=p, dtype=dtype, save=False)
        measured = Dispatcher([table], cache=False)
        x = torch.randn(batch, c, side, side).to(dtype)
        shapes_of = {"down": (R, c, k, k), "up": (c, R), "bias": (c,)}
        f = {name: torch.randn(shape).to(dtype) for name, shape in shapes_of.items()}
        for r in ranks:
            times = paired(candidates(x, f, r, p, measured), seconds)
            options = {"padding": p, "dispatcher": measured}
            chosen = dispatch_conv2d(f["down"], f["up"], rank=r, **options).form(x.shape)
            sizes = {"batch": batch, "channels": c, "side": side, "kernel": k, "rank": r}
            yield sizes | row_of(times, chosen)


def bench_conv() -> None:
    with torch.no_grad():
        assert show(products(torch.float32, 0.1, ((1, 32, 14, 3),), (8, 32)))


if __name__ == "__main__":
    run(__doc__, products)
