"""Time products of spikes against the best dense product: forward, weight gradient, convolution.

`ours` starts at packed bits: counting, deciding, finding the positions and adding are all in it;
`from dense` packs as well. Columns over a baseline are its time over ours, so more is better;
`best` is the better of torch's default product and oneDNN's, both float32. `bf16` and `int8` are
less exact and stand beside. Every call gets the next of several tensors of spikes, so that no
branch is learned by heart; candidates take turns in an order drawn anew each round, and a ratio is
the median over the rounds of the ratio within a round.

    python bench_products.py mm|wide|dw|conv|patterns [--kernels] [--threads 1] [--csv PATH]
"""

import argparse
import csv
import random
import statistics
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from spike_ops import SpikeTensor, pack_bits
from spike_ops._conv_product import ConvOptions, kernel_gradient
from spike_ops._native import compile_kernels
from spike_ops.functional import conv2d, explain, explain_conv, spike_mm

Calls = dict[str, Callable[[], object]]
Row = dict[str, Any]
DENSITIES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0)
COPIES = 6
onednn = torch.ops.mkldnn._linear_pointwise.default


def paired(calls: Calls, seconds: float, least: int = 9) -> dict[str, list[float]]:
    """Return the seconds of one call of each candidate, round by round."""
    once = {name: timed(call, 2) for name, call in calls.items()}
    repeats = {name: max(1, int(3e-4 / t)) for name, t in once.items()}
    cost = sum(t * (repeats[name] + 1) for name, t in once.items())
    times: dict[str, list[float]] = {name: [] for name in calls}
    names, order = list(calls), random.Random(0)
    for _ in range(min(200, max(least, int(seconds / cost)))):
        order.shuffle(names)
        for name in names:
            calls[name]()
            times[name].append(timed(calls[name], repeats[name]))
    return times


def timed(call: Callable[[], object], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        call()
    return (perf_counter() - start) / repeats


def gain(times: dict[str, list[float]], name: str, ours: str = "ours") -> float:
    return statistics.median(t / o for t, o in zip(times[name], times[ours], strict=True))


def drawn(shape: tuple[int, ...], density: float, pattern: str = "even") -> list[Tensor]:
    """Return several dense tensors of spikes with about that density."""
    generator = torch.Generator().manual_seed(0)
    chance = torch.full(shape, density)
    if pattern == "silent channels":  # three of four never fire
        chance[..., torch.arange(shape[-1]) % 4 > 0] = 0
        chance *= 4
    made = []
    for _ in range(COPIES):
        if pattern == "clustered":  # sixteen neighbours fire together
            part = (*shape[:-1], shape[-1] // 16)
            draw = torch.rand(part, generator=generator) < density
            made.append(draw.repeat_interleave(16, -1).float())
        else:
            made.append((torch.rand(shape, generator=generator) < chance).float())
    return made


def row_of(times: dict[str, list[float]], sizes: Row, baselines: tuple[str, ...]) -> Row:
    best = min(baselines, key=lambda name: statistics.median(times[name]))
    row = sizes | {"ours_us": round(statistics.median(times["ours"]) * 1e6, 1), "best": best}
    row["best/ours"] = round(gain(times, best), 2)
    others = [name for name in times if name not in {"ours", "from dense"}]
    row |= {f"{name}/ours": round(gain(times, name), 2) for name in others}
    if "from dense" in times:
        row["best/from dense"] = round(gain(times, best, "from dense"), 2)
    return row


def mm_row(m: int, k: int, n: int, density: float, seconds: float, pattern: str = "even") -> Row:
    dense = drawn((m, k), density, pattern)
    packed, weight = [pack_bits(each) for each in dense], torch.randn(k, n)
    low, whole = weight.bfloat16(), torch.randint(-127, 127, (k, n), dtype=torch.int8)
    lows, ints = [each.bfloat16() for each in dense], [each.to(torch.int8) for each in dense]
    nexts = {name: cycle(each) for name, each in (("x", dense), ("p", packed))}
    low_next, int_next = cycle(lows), cycle(ints)
    calls: Calls = {
        "torch": lambda: next(nexts["x"]) @ weight,
        "onednn": lambda: onednn(next(nexts["x"]), weight.t(), None, "none", [], ""),
        "bf16": lambda: next(low_next) @ low,
        "ours": lambda: spike_mm(SpikeTensor(next(nexts["p"]), (m, k)), weight),
        "from dense": lambda: spike_mm(next(nexts["x"]), weight),
    }
    if m > 16:
        calls["int8"] = lambda: torch._int_mm(next(int_next), whole)
    sizes = {"pattern": pattern, "M": m, "K": k, "N": n, "density": density}
    sizes["way"] = explain(dense[0], weight).method
    return row_of(paired(calls, seconds), sizes, ("torch", "onednn"))


def mm(seconds: float) -> Iterator[Row]:
    for m in (1, 4, 8, 32, 256, 1024):
        for density in DENSITIES:
            yield mm_row(m, 1024, 1024, density, seconds)
    for density in (0.01, 0.05, 0.2):
        yield mm_row(4096, 1024, 1024, density, seconds)


def wide(seconds: float) -> Iterator[Row]:
    for m, density in ((1, 0.02), (1, 0.5), (64, 0.05), (256, 0.01), (256, 0.05), (256, 0.5)):
        yield mm_row(m, 4096, 4096, density, seconds)
    yield mm_row(1024, 4096, 4096, 0.05, seconds)


def patterns(seconds: float) -> Iterator[Row]:
    for pattern in ("even", "silent channels", "clustered"):
        for density in (0.01, 0.05, 0.2):
            yield mm_row(1024, 1024, 1024, density, seconds, pattern)


def dw(seconds: float) -> Iterator[Row]:
    for m in (256, 1024, 4096):
        for density in (0.01, 0.02, 0.05, 0.1, 0.5):
            yield dw_row(m, density, seconds)


def dw_row(m: int, density: float, seconds: float) -> Row:
    dense, gradient = drawn((m, 1024), density), torch.randn(m, 1024)
    packed, x, y = cycle([pack_bits(each) for each in dense]), cycle(dense), cycle(dense)
    turned = gradient.t()
    calls: Calls = {
        "torch": lambda: next(x).t() @ gradient,
        "onednn": lambda: onednn(next(y).t(), turned, None, "none", [], ""),
        "ours": lambda: SpikeTensor(next(packed), (m, 1024)).t() @ gradient,
    }
    sizes = {"M": m, "K": 1024, "N": 1024, "density": density}
    return row_of(paired(calls, seconds), sizes, ("torch", "onednn"))


def conv(seconds: float) -> Iterator[Row]:
    shapes = ((8, 64, 32, 64, 3, 1), (8, 128, 16, 128, 3, 1), (64, 64, 8, 64, 3, 1))
    shapes += ((1, 64, 32, 64, 3, 1), (8, 64, 32, 128, 3, 2), (8, 64, 32, 64, 1, 1))
    for shape in shapes:
        for density in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5):
            yield conv_row(*shape, density, seconds)


def conv_row(
    b: int, c: int, side: int, o: int, k: int, stride: int, density: float, seconds: float
) -> Row:
    dense = drawn((b, c, side, side), density)
    packed, weight = [pack_bits(each) for each in dense], torch.randn(o, c, k, k)
    last = torch.channels_last
    lasts, low = [each.contiguous(memory_format=last) for each in dense], weight.bfloat16()
    low_next = cycle([each.bfloat16() for each in lasts])
    xs, ls, ps, qs = cycle(dense), cycle(lasts), cycle(packed), cycle(packed)
    weight_last, pad = weight.contiguous(memory_format=last), k // 2
    options = {"stride": stride, "padding": pad}
    out = F.conv2d(dense[0], weight, **options)
    gradient, shape = torch.randn_like(out), dense[0].shape
    sizes = ConvOptions((stride, stride), (pad, pad), (1, 1), 1)

    def torch_gradient() -> object:
        pair, mask = ([stride] * 2, [pad] * 2), [False, True, False]
        call = torch.ops.aten.convolution_backward
        return call(gradient, next(xs), weight, None, *pair, [1, 1], False, [0, 0], 1, mask)

    calls: Calls = {
        "torch": lambda: F.conv2d(next(xs), weight, **options),
        "channels last": lambda: F.conv2d(next(ls), weight_last, **options),
        "bf16": lambda: F.conv2d(next(low_next), low, **options),
        "ours": lambda: conv2d(SpikeTensor(next(ps), shape), weight, **options),
        "from dense": lambda: conv2d(next(xs), weight, **options),
        "dw torch": torch_gradient,
        "dw ours": lambda: kernel_gradient(
            SpikeTensor(next(qs), shape), weight.shape, gradient, sizes
        ),
    }
    times = paired(calls, seconds)
    ratio = round(gain(times, "dw torch", "dw ours"), 2)
    del times["dw torch"], times["dw ours"]
    told = {"B": b, "C": c, "side": side, "O": o, "k": k, "stride": stride, "density": density}
    told["way"] = explain_conv(dense[0], weight, **options).method
    return row_of(times, told, ("torch", "channels last")) | {"dw best/ours": ratio}


PARTS = {"mm": mm, "wide": wide, "dw": dw, "conv": conv, "patterns": patterns}


def bench_products() -> None:
    row = mm_row(64, 128, 128, 0.05, 0.01)
    assert row["best/ours"] > 0
    assert conv_row(1, 8, 8, 8, 3, 1, 0.05, 0.01)["dw best/ours"] > 0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--kernels", action="store_true", help="with the compiled kernels")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    parser.add_argument("--csv", type=Path, help="append the rows to this file as well")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.kernels:
        compile_kernels()
    rows = []
    with torch.no_grad():
        for row in PARTS[given.part](given.seconds):
            if not rows:
                print("  ".join(f"{name:>12}" for name in row))
            print("  ".join(f"{v!s:>{max(12, len(name))}}" for name, v in row.items()), flush=True)
            same = {"part": given.part, "threads": given.threads, "kernels": given.kernels}
            rows.append({"torch": torch.__version__} | same | row)
    if given.csv:
        new = not given.csv.exists()
        with given.csv.open("a", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
            if new:
                writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
