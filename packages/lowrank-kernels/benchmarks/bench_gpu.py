"""Check the Triton kernels on a GPU against float64, then time them against torch's products.

Correctness comes first: a failure ends the run before anything is timed. Then, as ratios:

- `decode`: few rows; the fused launch against two products of torch, as they are called and
  inside a CUDA graph, and the bytes of the active weights a second over those of a large copy.
- `ranks`: one recorded graph with the rank in device memory, at each rank, against a graph
  recorded for that rank alone.
- `samples`: a rank for each row against a mask at the largest rank and against the ideal, two
  products at full rank times the mean share of it.
- `layers`: L small layers in one call against torch's batched products at the largest rank.

Without a GPU, `TRITON_INTERPRET=1 python bench_gpu.py` runs a few checks in the interpreter and
times nothing.

    python bench_gpu.py [--csv PATH]
"""

import argparse
import csv
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from triton.testing import do_bench

from lowrank_kernels import (
    lowrank_linear,
    lowrank_linear_batched,
    lowrank_linear_per_sample,
)
from lowrank_kernels.testing import (
    BATCHED_LAWS,
    LINEAR_LAWS,
    PER_SAMPLE_LAWS,
    assert_close,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
# what the kernels do not promise
LEFT_OUT = ("rows_do_not_see_each_other", "per_sample_gradients_are_differentiable")
SHAPES = ((1024, 1024, 512), (4096, 4096, 1024), (4096, 11008, 1024))
Call = Callable[[], object]


def triton_linear(*args: Any, **options: Any) -> Tensor:
    return lowrank_linear(*args, **options, implementation="triton")


def device_rank(
    x: Tensor, down: Tensor, up: Tensor, bias: Any = None, rank: Any = None, **options: Any
) -> Tensor:
    held = torch.as_tensor(down.shape[0] if rank is None else rank, device=x.device)
    return triton_linear(x, down, up, bias, held, **options)


def triton_samples(*args: Any, **options: Any) -> Tensor:
    return lowrank_linear_per_sample(*args, **options, implementation="triton")


def triton_layers(*args: Any, **options: Any) -> Tensor:
    return lowrank_linear_batched(*args, **options, implementation="triton")


def check_laws() -> None:
    """Hold each kernel against the laws of its product in each dtype."""
    suites = (
        (triton_linear, LINEAR_LAWS),
        (device_rank, LINEAR_LAWS),
        (triton_samples, PER_SAMPLE_LAWS),
        (triton_layers, BATCHED_LAWS),
    )
    for product, laws in suites:
        for dtype in DTYPES if DEVICE == "cuda" else DTYPES[:2]:
            kept = [law for law in laws if not law.__name__.endswith(LEFT_OUT)]
            for law in kept if DEVICE == "cuda" else kept[:1]:
                law(product, torch.empty(0, dtype=dtype, device=DEVICE))
            print(f"  {product.__name__:16} {dtype!s:16} {len(kept)} laws hold", flush=True)


def check_large() -> None:
    """Compare large products with float64."""
    for dtype in DTYPES:
        for n, m, R in SHAPES:
            x, down, up, bias = factors(130, n, m, R, dtype)
            ranks = torch.randint(0, R + 1, (130,), device=DEVICE)
            keep = torch.arange(R, device=DEVICE) < ranks[:, None]
            for rows, r in ((1, 16), (16, 64), (16, 200), (130, R)):
                h = x[:rows].double() @ down[:r].double().t()
                want = h @ up[:, :r].double().t() + bias.double()
                for product in (triton_linear, device_rank):
                    assert_close(product.__name__, product(x[:rows], down, up, bias, r), want)
            want = (x.double() @ down.double().t() * keep) @ up.double().t() + bias.double()
            assert_close("per sample", triton_samples(x, down, up, bias, ranks), want)
        print(f"  {dtype!s:16} large products equal float64", flush=True)


def factors(N: int, n: int, m: int, R: int, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((N, n), (R, n), (m, R), (m,))
    return [(torch.randn(s, device=DEVICE) / s[-1] ** 0.5).to(dtype) for s in shapes]


def ms(call: Call) -> float:
    return float(do_bench(call, warmup=25, rep=100, return_mode="median"))


def recorded(call: Call) -> torch.cuda.CUDAGraph:
    """Return the launches of a call as a graph."""
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph


def copy_bandwidth() -> float:
    """Return bytes a second of a large copy, read and written."""
    x = torch.empty(1 << 28, device=DEVICE, dtype=torch.uint8)
    y = torch.empty_like(x)
    return 2 * x.numel() / (ms(lambda: y.copy_(x)) * 1e-3)


def decode() -> Iterator[dict[str, Any]]:
    bandwidth = copy_bandwidth()
    for n, m, R in SHAPES:
        for dtype in (torch.float16, torch.float32):
            for rows in (1, 8, 16):
                x, down, up, bias = factors(rows, n, m, R, dtype)
                for r in (16, 32, 64, 256):
                    D, U = down[:r].clone(), up[:, :r].contiguous()
                    ours: Call = lambda x=x, d=down, u=up, b=bias, r=r: triton_linear(  # noqa: E731
                        x, d, u, b, r
                    )
                    torchs: Call = lambda x=x, D=D, U=U, b=bias: F.linear(  # noqa: E731
                        F.linear(x, D), U, b
                    )
                    graph, baseline = recorded(ours), recorded(torchs)
                    replayed = ms(graph.replay)
                    read = r * (n + m) * x.element_size() / (replayed * 1e-3)
                    yield {
                        "part": "decode", "shape": f"{n}x{m}", "dtype": str(dtype)[6:],
                        "rows": rows, "rank": r,
                        "over_torch": round(ms(ours) / ms(torchs), 3),
                        "over_torch_in_graph": round(replayed / ms(baseline.replay), 3),
                        "share_of_bandwidth": round(read / bandwidth, 3),
                    }  # fmt: skip


def ranks() -> Iterator[dict[str, Any]]:
    n, m, R = SHAPES[1]
    for rows in (1, 16, 512):
        x, down, up, bias = factors(rows, n, m, R, torch.float16)
        held = torch.tensor(R, device=DEVICE)
        graph = recorded(lambda x=x, d=down, u=up, b=bias, r=held: triton_linear(x, d, u, b, r))
        for r in (16, 64, 256, R):
            held.fill_(r)
            alone = recorded(lambda x=x, d=down, u=up, b=bias, r=r: triton_linear(x, d, u, b, r))
            yield {
                "part": "ranks", "shape": f"{n}x{m}", "dtype": "float16", "rows": rows, "rank": r,
                "over_own_graph": round(ms(graph.replay) / ms(alone.replay), 3),
            }  # fmt: skip


def samples() -> Iterator[dict[str, Any]]:
    for (n, m, R), dtype in ((s, d) for s in SHAPES for d in (torch.float16, torch.float32)):
        for rows in (256, 1024, 4096):
            x, down, up, bias = factors(rows, n, m, R, dtype)
            few = torch.arange(rows, device=DEVICE) % 10 == 0
            mixes = {
                "uniform": torch.randint(1, R + 1, (rows,), device=DEVICE),
                "90/10": torch.where(few, R, 32),
            }
            full = ms(lambda x=x, d=down, u=up, b=bias: F.linear(F.linear(x, d), u, b))
            for name, each in mixes.items():
                beyond = each[:, None] <= torch.arange(R, device=DEVICE)
                masked = ms(
                    lambda x=x, d=down, u=up, b=bias, k=beyond: F.linear(
                        F.linear(x, d).masked_fill_(k, 0.0), u, b
                    )
                )
                ours = ms(lambda x=x, d=down, u=up, b=bias, r=each: triton_samples(x, d, u, b, r))
                share = float(each.double().mean()) / R
                yield {
                    "part": "samples", "shape": f"{n}x{m}", "dtype": str(dtype)[6:],
                    "rows": rows, "rank": name,
                    "over_ideal": round(ours / (full * share), 3),
                    "over_mask": round(ours / masked, 3),
                }  # fmt: skip


def layers() -> Iterator[dict[str, Any]]:
    for L, rows, n, R in ((8, 1, 256, 32), (32, 1, 256, 32), (32, 16, 512, 64), (8, 128, 512, 64)):
        torch.manual_seed(0)
        shapes = ((L, rows, n), (L, R, n), (L, n, R), (L, n))
        x, down, up, bias = (torch.randn(s, device=DEVICE, dtype=torch.float16) for s in shapes)
        each = torch.randint(1, R + 1, (L,), device=DEVICE)
        ours = ms(lambda: triton_layers(x, down, up, bias, each))  # noqa: B023 - called at once
        torchs = ms(
            lambda: torch.baddbmm(bias[:, None], torch.bmm(x, down.mT), up.mT)  # noqa: B023
        )
        yield {
            "part": "layers", "shape": f"{L}x{n}x{n}", "dtype": "float16", "rows": rows,
            "rank": f"1..{R}", "over_torch": round(ours / torchs, 3),
        }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--csv", type=Path, help="write the rows here as well")
    given = parser.parse_args()
    print(f"torch {torch.__version__} on {DEVICE}; correctness")
    torch.backends.cuda.matmul.allow_tf32 = False  # as the kernels, which round to nothing shorter
    check_laws()
    if DEVICE != "cuda":
        print("no GPU: nothing is timed")
        return 0
    check_large()
    name = torch.cuda.get_device_name()
    print(f"{name}: times over what the column names")
    kept = []
    for part in (decode, ranks, samples, layers):
        with torch.no_grad():
            for row in part():
                print("  ".join(f"{k}={v}" for k, v in row.items()), flush=True)
                kept.append({"gpu": name, "torch": torch.__version__} | row)
    if given.csv:
        columns = list(dict.fromkeys(k for row in kept for k in row))
        with given.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(kept)
    return 0


if __name__ == "__main__":
    sys.exit(main())
