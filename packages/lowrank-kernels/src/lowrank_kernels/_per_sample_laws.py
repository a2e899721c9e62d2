"""The laws of the product with a rank for each sample."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank_kernels._laws import (
    Law,
    Product,
    assert_close,
    doubles,
    gradients,
    no_worse,
    random,
    second,
    truth,
)
from lowrank_kernels._per_sample_reference import lowrank_linear_per_sample_reference

reference: Product = lowrank_linear_per_sample_reference
# rows, n, m, R: one of everything, odd, a vector, wider than a tile, R above n and m
SIZES = ((1, 1, 1, 1), (3, 5, 7, 4), (1, 33, 17, 20), (19, 70, 65, 67), (11, 6, 5, 9))
NAMES = ("x", "down", "up", "bias", "inner_bias")


def _factors(like: Tensor, size: tuple[int, int, int, int]) -> tuple[Tensor, ...]:
    N, n, m, R = size
    return (
        random(like, N, n),
        random(like, R, n, seed=1),
        random(like, m, R, seed=2),
        random(like, m, seed=3),
        random(like, R, seed=4),
    )


def _rank_vectors(like: Tensor, N: int, R: int) -> Iterator[tuple[str, Tensor]]:
    """Yield ranks of every kind: none, all, equal, rising, falling, mixed, few high."""
    generator = torch.Generator().manual_seed(N + R)
    i = torch.arange(N)
    vectors = {
        "none": 0 * i,
        "all": 0 * i + R,
        "equal": 0 * i + (R + 1) // 2,
        "rising": i % (R + 1),
        "falling": (i % (R + 1)).flip(0),
        "mixed": torch.randint(0, R + 1, (N,), generator=generator),
        "few high": torch.where(i % 7 == 3, R, min(R, 2)),
        "some none": torch.where(i % 2 == 1, R // 2, 0),
    }
    yield from ((name, v.to(like.device)) for name, v in vectors.items())


def _with_inner(product: Product, ranks: Tensor) -> Product:
    return lambda x, down, up, bias, inner, **_: product(x, down, up, bias, ranks, inner_bias=inner)


def per_sample_equals_the_reference_at_all_ranks(product: Product, like: Tensor) -> None:
    """Each row is its own product at its own rank, with and without the biases."""
    for size in SIZES:
        x, down, up, bias, inner = _factors(like, size)
        for name, ranks in _rank_vectors(like, size[0], size[3]):
            for b, c in ((bias, None), (None, None), (bias, inner), (None, inner)):
                got = product(x, down, up, b, ranks, inner_bias=c)
                assert got.dtype == like.dtype
                want = truth(_with_inner(reference, ranks), x, down, up, b, c)
                assert_close(f"y of {size}, ranks {name}", got, want)


def per_sample_ranks_cover_leading_axes(product: Product, like: Tensor) -> None:
    """Ranks of a leading part of the axes of x hold for all rows beneath; None is R."""
    _, down, up, bias, _ = _factors(like, (1, 6, 5, 4))
    for lead in ((3,), (2, 3), (2, 1, 3), (0,), (2, 0)):
        x = random(like, *lead, 6)
        for axes in range(len(lead) + 1):
            shape = lead[:axes]
            ranks = (torch.arange(torch.Size(shape).numel()) % 5).reshape(shape)
            got = product(x, down, up, bias, ranks.to(like.device))
            assert got.shape == (*lead, 5)
            want = truth(lambda *t, ranks=ranks: reference(*t, ranks), x, down, up, bias)
            assert_close(f"y of {lead}, ranks {shape}", got, want)
    x = random(like, 3, 6)
    full = torch.full((3,), 4, device=like.device, dtype=torch.int32)
    assert_close("y without ranks", product(x, down, up, bias), product(x, down, up, bias, full))


def per_sample_takes_any_strides(product: Product, like: Tensor) -> None:
    """Transposed, sliced and repeated memory changes nothing."""
    x, down, up, bias, inner = _factors(like, (7, 6, 5, 8))
    ranks = torch.tensor([3, 8, 0, 5, 5, 1, 2], device=like.device)
    want = product(x, down, up, bias, ranks, inner_bias=inner)
    wide = torch.full((7, 12), torch.nan).to(like)
    wide[:, ::2] = x
    spaced = torch.zeros(14, dtype=torch.int64, device=like.device)
    spaced[::2] = ranks
    other = (down.t().contiguous().t(), up.t().contiguous().t())
    for name, tensors, r in (
        ("x strided", (wide[:, ::2], down, up), ranks),
        ("x transposed", (x.t().contiguous().t(), down, up), ranks),
        ("factors transposed", (x, *other), ranks),
        ("ranks strided", (x, down, up), spaced[::2]),
    ):
        assert_close(name, product(*tensors, bias, r, inner_bias=inner), want)
    one = x[:1].expand(7, 6)
    want = product(one.clone(), down, up, bias, ranks)
    assert_close("x repeated", product(one, down, up, bias, ranks), want)


def per_sample_never_reads_beyond_the_largest_rank(product: Product, like: Tensor) -> None:
    """What no row reaches does not matter, not even where it is not a number."""
    x, down, up, bias, inner = _factors(like, (7, 6, 5, 8))
    ranks = torch.tensor([3, 5, 0, 5, 4, 1, 2], device=like.device)
    want = product(x, down, up, bias, ranks, inner_bias=inner)
    down[5:], up[:, 5:], inner[5:] = torch.nan, torch.inf, torch.nan
    assert torch.equal(product(x, down, up, bias, ranks, inner_bias=inner), want)


def per_sample_rows_do_not_see_each_other(product: Product, like: Tensor) -> None:
    """A row stays as it is where only others, or directions beyond its rank, are no numbers."""
    x, down, up, bias, inner = _factors(like, (7, 6, 5, 8))
    ranks = torch.tensor([3, 8, 0, 5, 5, 1, 7], device=like.device)
    want = product(x, down, up, bias, ranks, inner_bias=inner)
    down[5:], up[:, 6:], inner[7:], x[5] = torch.nan, torch.nan, torch.inf, torch.nan
    got = product(x, down, up, bias, ranks, inner_bias=inner)
    spared = torch.tensor([0, 2, 3, 4], device=like.device)
    assert_close("the rows that reach none of it", got[spared], want[spared])
    assert not got[torch.tensor([1, 5, 6], device=like.device)].isfinite().any()


def per_sample_is_no_worse_than_torch(product: Product, like: Tensor) -> None:
    """The error is at most twice that of torch's own two products in the same precision."""
    x, down, up, bias, _ = _factors(like, (19, 70, 65, 67))
    for name, ranks in _rank_vectors(like, 19, 67):
        if name != "none":
            want = truth(lambda *t, ranks=ranks: reference(*t, ranks), x, down, up, bias)
            keep = (torch.arange(67, device=like.device) < ranks[:, None]).to(like)
            plain = F.linear(F.linear(x, down) * keep, up, bias)
            no_worse(product(x, down, up, bias, ranks), plain, want)


def per_sample_gradients_equal_the_reference(product: Product, like: Tensor) -> None:
    """Gradients are those of the reference, and exact zeros beyond the largest rank."""
    for size in SIZES:
        tensors: Any = _factors(like, size)
        for kind, ranks in _rank_vectors(like, size[0], size[3]):
            got = gradients(_with_inner(product, ranks), tensors)
            want = gradients(_with_inner(reference, ranks), doubles(*tensors))
            for name, g, w in zip(NAMES, got, want, strict=True):
                assert_close(f"gradient of {name} of {size}, ranks {kind}", g, w)
            top = int(ranks.max())
            assert not got[1][top:].any()
            assert not got[2][:, top:].any()
            assert not got[4][top:].any()


def per_sample_gradients_are_differentiable(product: Product, like: Tensor) -> None:
    """Second derivatives are those of the reference too."""
    tensors = _factors(like, (6, 5, 4, 6))
    for kind, ranks in _rank_vectors(like, 6, 6):
        got = second(_with_inner(product, ranks), tensors)
        want = second(_with_inner(reference, ranks), doubles(*tensors))
        for name, g, w in zip(NAMES, got, want, strict=False):
            assert_close(f"second derivative in {name}, ranks {kind}", g, w)


PER_SAMPLE_LAWS: tuple[Law, ...] = (
    per_sample_equals_the_reference_at_all_ranks,
    per_sample_ranks_cover_leading_axes,
    per_sample_takes_any_strides,
    per_sample_never_reads_beyond_the_largest_rank,
    per_sample_rows_do_not_see_each_other,
    per_sample_is_no_worse_than_torch,
    per_sample_gradients_equal_the_reference,
    per_sample_gradients_are_differentiable,
)
