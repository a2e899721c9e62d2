"""How much work the kernels of a layer do: shapes in, counts out."""

from typing import NamedTuple

from rank_sched._numbers import whole

Pair = int | tuple[int, int]


class Kernel(NamedTuple):
    """Counts of one kernel, in numbers and multiply-adds."""

    read: int
    weights: int
    written: int
    macs: int


def linear_kernels(rows: int, n: int, m: int, rank: int | None) -> list[Kernel]:
    """Return the kernels of W [m, n] on `rows` rows: one, or two with a rank, or a bare write."""
    rows = whole("batch", rows, at_least=1)
    n, m = whole("in_features", n, at_least=1), whole("out_features", m, at_least=1)
    if rank is None:
        return [Kernel(rows * n, n * m, rows * m, rows * n * m)]
    r = _rank(rank, most=min(n, m))
    down = Kernel(rows * n, n * r, rows * r, rows * n * r)
    return _factors(down, Kernel(rows * r, r * m, rows * m, rows * r * m))


def conv2d_kernels(
    images: int,
    n: int,
    m: int,
    *,
    kernel_size: Pair,
    input_size: Pair,
    rank: int | None,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> list[Kernel]:
    """Return the kernels of a convolution: one, or two with a rank, or a bare write."""
    g = whole("groups", groups, at_least=1)
    n, m = _channels("in_channels", n, g), _channels("out_channels", m, g)
    kernel, size = pair("kernel_size", kernel_size, 1), pair("input_size", input_size, 1)
    strides, pads = pair("stride", stride, 1), pair("padding", padding, 0)
    out = _out_size(size, kernel, strides, pads, pair("dilation", dilation, 1))
    images = whole("batch", images, at_least=1)
    before, places = images * n * size[0] * size[1], images * out[0] * out[1]
    patch = kernel[0] * kernel[1] * n // g  # weights behind one number of the output
    if rank is None:
        return [Kernel(before, patch * m, places * m, places * patch * m)]
    r = _rank(rank, most=min(patch, m // g))
    inner = r * g
    down = Kernel(before, patch * inner, places * inner, places * patch * inner)
    return _factors(down, Kernel(places * inner, r * m, places * m, places * r * m))


def _factors(down: Kernel, up: Kernel) -> list[Kernel]:
    # rank 0 computes nothing: what is left is to write the output
    return [down, up] if down.macs else [Kernel(0, 0, up.written, 0)]


def _rank(rank: int, *, most: int) -> int:
    rank = whole("rank", rank)
    if rank > most:
        raise ValueError(f"rank must be in 0..{most}, got {rank}")
    return rank


def _channels(argument: str, value: int, groups: int) -> int:
    value = whole(argument, value, at_least=1)
    if value % groups:
        raise ValueError(f"{argument} must be a multiple of groups={groups}, got {value}")
    return value


def pair(argument: str, value: Pair, at_least: int) -> tuple[int, int]:
    """Return both sides of a size, each of `at_least` or more; one number means a square."""
    both = value if isinstance(value, tuple | list) else (value, value)
    if len(both) != 2:
        raise ValueError(f"{argument} must be one number or two, got {value!r}")
    return whole(argument, both[0], at_least=at_least), whole(argument, both[1], at_least=at_least)


def _out_size(
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
) -> tuple[int, int]:
    columns = zip(size, kernel, stride, padding, dilation, strict=True)
    high, wide = ((s + 2 * p - d * (k - 1) - 1) // t + 1 for s, k, t, p, d in columns)
    if high < 1 or wide < 1:
        raise ValueError(
            f"kernel_size must fit into the padded input, got {kernel} with dilation {dilation} "
            f"on {size} with padding {padding}"
        )
    return high, wide
