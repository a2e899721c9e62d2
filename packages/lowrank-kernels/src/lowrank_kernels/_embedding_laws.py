"""The laws of the low-rank embedding."""

import torch
from torch import Tensor

from lowrank_kernels._embedding_reference import lowrank_embedding_reference
from lowrank_kernels._laws import (
    Law,
    Product,
    assert_close,
    doubles,
    gradients,
    random,
    ranks,
    second,
)

reference: Product = lowrank_embedding_reference
# shape of the indices, V, d, R: one of everything, odd, none, R above both, more rows than V
SIZES = (((1,), 1, 1, 1), ((3, 2), 7, 5, 4), ((0,), 4, 3, 2), ((5,), 3, 4, 9), ((40,), 11, 33, 17))


def _embedding(like: Tensor, size: tuple[tuple[int, ...], int, int, int]) -> tuple[Tensor, ...]:
    shape, V, d, R = size
    generator = torch.Generator().manual_seed(1)
    indices = torch.randint(V, shape, generator=generator).to(like.device)
    return indices, random(like, V, R, seed=1), random(like, d, R, seed=2)


def embedding_equals_the_reference_at_every_rank(product: Product, like: Tensor) -> None:
    """The result is the rows of the dense table of that rank."""
    for size in SIZES:
        indices, table, up = _embedding(like, size)
        for r in ranks(size[3]):
            got = product(indices, table, up, r)
            assert got.dtype == like.dtype
            want = reference(indices, *doubles(table, up), rank=r)
            assert_close(f"y of {size} at rank {r}", got, want)


def embedding_takes_none_and_tensors_as_ranks(product: Product, like: Tensor) -> None:
    """None is R; a 0-dim integer tensor is its number."""
    indices, table, up = _embedding(like, SIZES[1])
    assert torch.equal(product(indices, table, up), product(indices, table, up, 4))
    got = product(indices, table, up, torch.tensor(2, dtype=torch.int32))
    assert torch.equal(got, product(indices, table, up, 2))


def embedding_takes_indices_of_any_kind_and_shape(product: Product, like: Tensor) -> None:
    """One index, none, repeated ones and 32 bits all work."""
    indices, table, up = _embedding(like, SIZES[1])
    rows = product(torch.arange(7).to(like.device), table, up, 3)
    for given in (indices, indices[0, 0], indices[:0], indices.t(), indices.expand(4, 3, 2)):
        for dtype in (torch.int64, torch.int32):
            got = product(given.to(dtype), table, up, 3)
            assert_close(f"y of {list(given.shape)}", got, rows[given])


def embedding_takes_any_strides(product: Product, like: Tensor) -> None:
    """Transposed and sliced factors change nothing."""
    indices, table, up = _embedding(like, SIZES[1])
    want = product(indices, table, up, 3)
    wide = torch.full((7, 9), torch.nan).to(like)
    wide[:, 1::2] = table
    assert_close("table strided", product(indices, wide[:, 1::2], up, 3), want)
    other = table.t().contiguous().t(), up.t().contiguous().t()
    assert_close("factors transposed", product(indices, *other, 3), want)


def embedding_never_reads_the_tail(product: Product, like: Tensor) -> None:
    """What lies beyond the rank does not matter, not even where it is not a number."""
    indices, table, up = _embedding(like, SIZES[4])
    want = product(indices, table, up, 5)
    table[:, 5:], up[:, 5:] = torch.nan, torch.inf
    assert torch.equal(product(indices, table, up, 5), want)


def embedding_gradients_equal_the_reference(product: Product, like: Tensor) -> None:
    """Gradients are those of the dense table, and exact zeros beyond the rank."""
    for size in SIZES:
        indices, *factors = _embedding(like, size)
        for r in ranks(size[3]):
            got = gradients(lambda *t, i=indices, r=r: product(i, *t, r), factors)
            want = gradients(lambda *t, i=indices, r=r: reference(i, *t, rank=r), doubles(*factors))
            for name, g, w in zip(("table", "up"), got, want, strict=True):
                assert_close(f"gradient of {name} of {size} at rank {r}", g, w)
                assert not g[:, r:].any()


def embedding_gradients_leave_out_the_padding(product: Product, like: Tensor) -> None:
    """The padding's index gives the padding's row, and sends nothing back to either factor."""
    indices, *factors = _embedding(like, SIZES[4])
    indices[::3] = 2
    for padding in (2, 2 - 11):
        options = {"rank": 6, "padding_idx": padding}
        want = reference(indices, *doubles(*factors), **options)
        assert_close("y", product(indices, *factors, **options), want)
        got = gradients(lambda *t, o=options: product(indices, *t, **o), factors)
        wanted = gradients(lambda *t, o=options: reference(indices, *t, **o), doubles(*factors))
        for name, g, w in zip(("table", "up"), got, wanted, strict=True):
            assert_close(f"gradient of {name}", g, w)
        assert not got[0][2].any()


def embedding_gradients_are_differentiable(product: Product, like: Tensor) -> None:
    """Second derivatives are those of the reference too."""
    indices, *factors = _embedding(like, SIZES[1])
    for r in (0, 2, 4):
        got = second(lambda *t, r=r: product(indices, *t, r), factors)
        want = second(lambda *t, r=r: reference(indices, *t, rank=r), doubles(*factors))
        for name, g, w in zip(("table", "up"), got, want, strict=True):
            assert_close(f"second derivative in {name} at rank {r}", g, w)


EMBEDDING_LAWS: tuple[Law, ...] = (
    embedding_equals_the_reference_at_every_rank,
    embedding_takes_none_and_tensors_as_ranks,
    embedding_takes_indices_of_any_kind_and_shape,
    embedding_takes_any_strides,
    embedding_never_reads_the_tail,
    embedding_gradients_equal_the_reference,
    embedding_gradients_leave_out_the_padding,
    embedding_gradients_are_differentiable,
)
