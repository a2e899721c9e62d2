"""Time this package against other ways to run two factors of the same rank.

- `sequential`: `nn.Sequential(nn.Linear(n, r, bias=False), nn.Linear(r, m))`, what adapters and
  factored checkpoints are usually run as; each rank is a model of its own.
- `compiled`: `torch.compile` of `F.linear(F.linear(x, D), U, bias)` with contiguous copies.
- `identity`: `lowrank_linear_identity`, which has r² fewer weights than the others;
  `identity_as_is` leaves its outputs in the order in which they are computed.

`best` of the others is the one of `sequential` and `compiled` that a ratio is larger against; see
`_timing`.

    python bench_compare.py [--threads 1] [--dtype float32] [--seconds 1] [--csv PATH]
"""

import warnings
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from _timing import Calls, Row, median_us, paired, run, show, to_best
from torch import nn

from lowrank_kernels import (
    Dispatcher,
    calibrate,
    dispatch,
    identity_block,
    lowrank_linear,
    lowrank_linear_identity,
    prefix,
)

BATCHES = (1, 8, 32, 256)
RANKS = (16, 64, 256, 512)
N, M, R = 1024, 1024, 512
OTHERS = ("sequential", "compiled")


def sequential(D: torch.Tensor, U: torch.Tensor, bias: torch.Tensor) -> nn.Module:
    r = D.shape[0]
    layers = nn.Sequential(nn.Linear(N, r, bias=False), nn.Linear(r, M)).to(D.dtype)
    for layer, weight in zip(layers, (D, U), strict=True):
        layer.weight.copy_(weight)
    layers[1].bias.copy_(bias)
    return layers.eval()


def compiled(D: torch.Tensor, U: torch.Tensor, bias: torch.Tensor) -> Any:
    torch._dynamo.reset()  # each row compiles for its own shapes
    return torch.compile(lambda x: F.linear(F.linear(x, D), U, bias), dynamic=False)


def candidates(
    x: torch.Tensor, down: Any, up: Any, bias: Any, r: int, measured: Dispatcher
) -> Calls:
    D, U, W = down[:r].clone(), up[:, :r].contiguous(), up[:, :r] @ down[:r]
    layers, graph, views = sequential(D, U, bias), compiled(D, U, bias), prefix(down, up, bias, r)
    best = dispatch(down, up, bias, r, dispatcher=measured)
    block = identity_block(down, up, bias, r)
    return {
        "sequential": lambda: layers(x),
        "compiled": lambda: graph(x),
        "dense": lambda: F.linear(x, W, bias),
        "lowrank_linear": lambda: lowrank_linear(x, down, up, bias, r),
        "prefix": lambda: views(x),
        "dispatch": lambda: best(x),
        "identity": lambda: lowrank_linear_identity(x, *block),
        "identity_as_is": lambda: lowrank_linear_identity(x, *block._replace(order=None)),
    }


def products(
    dtype: torch.dtype, seconds: float, batches: Any = BATCHES, ranks: Any = RANKS
) -> Iterator[Row]:
    torch.manual_seed(0)
    down, up, bias = (torch.randn(s).to(dtype) for s in ((R, N), (M, R), (M,)))
    measured = Dispatcher([calibrate(N, M, R, dtype=dtype, save=False)], cache=False)
    for batch in batches:
        x = torch.randn(batch, N).to(dtype)
        for r in ranks:
            times = paired(candidates(x, down, up, bias, r, measured), seconds)
            row: Row = {"batch": batch, "rank": r}
            row |= {f"{name}_us": round(median_us(times, name), 1) for name in OTHERS}
            for name in list(times)[2:]:
                row[f"{name}/best"] = round(to_best(times, name, OTHERS), 3)
            yield row


def bench_compare() -> None:
    with torch.no_grad(), warnings.catch_warnings():
        # inductor's own use of what torch has deprecated
        warnings.filterwarnings("ignore", ".*torch.jit", DeprecationWarning)
        assert show(products(torch.float32, 0.05, (1,), (16,)))


if __name__ == "__main__":
    run(__doc__, products)
