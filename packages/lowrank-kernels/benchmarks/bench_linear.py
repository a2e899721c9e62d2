"""Time the rank-r linear product against two compact products and against the dense layer.

Ratios are to two products with contiguous copies of the r rows and columns; see `_timing`.

    python bench_linear.py [--threads 1] [--dtype float32] [--seconds 1] [--csv PATH]
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from _timing import Calls, Row, paired, quartile_us, ratio, run, show

from lowrank_kernels import lowrank_linear, prefix

BATCHES = (1, 8, 32, 256)
RANKS = (8, 16, 32, 64, 128, 256, 512)
N, M, R = 1024, 1024, 512


def factors(dtype: torch.dtype) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    up = torch.randn(M, R, dtype=dtype)
    return {
        "down": torch.randn(R, N, dtype=dtype),
        "up": up,
        "up_t": up.t().contiguous().t(),
        "bias": torch.randn(M, dtype=dtype),
        "dense": torch.randn(M, N, dtype=dtype),
    }


def candidates(x: torch.Tensor, r: int, f: dict[str, torch.Tensor]) -> Calls:
    """Return what is compared: `_t` has the columns of up one after the other in memory."""
    down, up, up_t, bias = f["down"], f["up"], f["up_t"], f["bias"]
    D, U = down[:r].clone(), up[:, :r].contiguous()
    U_t = U.t().contiguous().t()
    rows, columns = prefix(down, up, bias, r), prefix(down, up_t, bias, r)
    packed = prefix(down, up, bias, r, packed=True)
    return {
        "compact": lambda: F.linear(F.linear(x, D), U, bias),
        "compact_t": lambda: F.linear(F.linear(x, D), U_t, bias),
        "dense": lambda: F.linear(x, f["dense"], bias),
        "lowrank_linear": lambda: lowrank_linear(x, down, up, bias, r),
        "lowrank_linear_t": lambda: lowrank_linear(x, down, up_t, bias, r),
        "prefix": lambda: rows(x),
        "prefix_t": lambda: columns(x),
        "prefix_packed": lambda: packed(x),
    }


def products(
    dtype: torch.dtype, seconds: float, batches: Any = BATCHES, ranks: Any = RANKS
) -> Iterator[Row]:
    f = factors(dtype)
    for batch in batches:
        x = torch.randn(batch, N, dtype=dtype)
        for r in ranks:
            calls = candidates(x, r, f)
            times = paired(calls, seconds)
            row: Row = {"batch": batch, "rank": r}
            row["compact_us"] = round(quartile_us(times, "compact"), 1)
            names = list(calls)[1:]
            yield row | {
                f"{name}/compact": round(ratio(times, name, "compact"), 3) for name in names
            }


def switches(dtype: torch.dtype, seconds: float) -> Iterator[Row]:
    """Yield what a change of rank costs, microseconds."""
    f, x = factors(dtype), torch.randn(1, N, dtype=dtype)
    down, up, bias, held = f["down"], f["up"], f["bias"], torch.tensor(64)

    def alternating() -> None:
        lowrank_linear(x, down, up, bias, 64)
        lowrank_linear(x, down, up, bias, 72)

    calls: Calls = {
        "64": lambda: lowrank_linear(x, down, up, bias, 64),
        "72": lambda: lowrank_linear(x, down, up, bias, 72),
        "64 then 72": alternating,
        "prefix": lambda: prefix(down, up, bias, 64),
        "prefix_packed": lambda: prefix(down, up, bias, 64, packed=True),
        "buffer": lambda: held.fill_(72),
    }
    rounds = paired(calls, seconds)
    times = {name: quartile_us(rounds, name) for name in calls}
    change = (times["64 then 72"] - times["64"] - times["72"]) / 2
    yield {"switch": "another int to lowrank_linear", "us": round(change, 2)}
    yield {"switch": "fill_ of a rank buffer", "us": round(times["buffer"], 2)}
    yield {"switch": "a new prefix", "us": round(times["prefix"], 2)}
    yield {"switch": "a new packed prefix, rank 64", "us": round(times["prefix_packed"], 2)}


def bench_linear() -> None:
    with torch.no_grad():
        assert show(products(torch.float32, 0.05, (1, 32), (8, 64, 256)))
        assert show(switches(torch.float32, 0.05))


if __name__ == "__main__":
    run(__doc__, products)
    with torch.no_grad():
        show(switches(torch.float32, 1.0))
