import os

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

from lowrank_kernels import (
    _staircase_kernels_triton as kernels,
    _tiles,
    lowrank_linear_per_sample,
    lowrank_linear_per_sample_reference,
)
from lowrank_kernels.testing import PER_SAMPLE_LAWS, assert_close

DTYPES = [torch.float32, torch.float16]
# what the kernels do not promise
LEFT_OUT = ("rows_do_not_see_each_other", "gradients_are_differentiable")
LAWS = [law for law in PER_SAMPLE_LAWS if not law.__name__.endswith(LEFT_OUT)]


def interpreted(*args, **options):
    return lowrank_linear_per_sample(*args, **options, implementation="triton")


@pytest.fixture
def guarded(monkeypatch):
    """Hand out memory full of nan with nan on both sides; return all of it."""
    blocks, empty = [], torch.Tensor.new_empty

    def new_empty(self, *shape, **options):
        if options:  # the interpreter's own copies
            return empty(self, *shape, **options)
        numbers = torch.Size(shape).numel()
        block = torch.full((numbers + 128,), torch.nan, dtype=self.dtype)
        blocks.append((block, numbers))
        return block[64 : 64 + numbers].view(shape)

    monkeypatch.setattr(torch.Tensor, "new_empty", new_empty)
    return blocks


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_obeys(dtype, law):
    law(interpreted, torch.empty(0, dtype=dtype))


def problem(dtype, N, n, m, R):
    torch.manual_seed(0)
    shapes = ((N, n), (R, n), (m, R), (m,), (R,))
    tensors = [(torch.randn(s) / s[-1] ** 0.5).to(dtype) for s in shapes]
    return tensors, torch.randint(0, R + 1, (N,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1, 1, 1), (70, 40, 70, 130), (33, 65, 31, 66)], ids=str)
def test_all_rows_are_written_and_nothing_beside_them(guarded, dtype, size):
    (x, down, up, bias, inner), ranks = problem(dtype, *size)
    got = interpreted(x, down, up, bias, ranks, inner_bias=inner)
    wide = [t.double() for t in (x, down, up, bias)]
    want = lowrank_linear_per_sample_reference(*wide, ranks, inner_bias=inner.double())
    assert_close("y", got, want)
    assert len(guarded) == 2
    for block, numbers in guarded:
        assert block[:64].isnan().all()
        assert block[64 + numbers :].isnan().all()


def test_what_lies_beyond_a_rank_is_not_written(guarded):
    (x, down, *_), ranks = problem(torch.float32, 40, 33, 8, 70)
    falling, order = ranks.sort(descending=True)
    h = kernels.descend(x, down, None, order, falling)
    beyond = torch.arange(70) >= falling[:, None]
    assert torch.equal(h.isnan(), beyond)
    assert_close("h", h[~beyond], (x @ down.t())[order][~beyond])


def test_gradients_have_no_trace_of_unwritten_memory(guarded):
    tensors, ranks = problem(torch.float32, 40, 33, 35, 70)
    found = []
    for product in (interpreted, lowrank_linear_per_sample):
        leaves = [t.detach().requires_grad_() for t in tensors]
        x, down, up, bias, inner = leaves
        y = product(x, down, up, bias, ranks, inner_bias=inner)
        found.append(torch.autograd.grad(y.square().sum(), leaves))
    for got, want, t in zip(*found, tensors, strict=True):
        assert got.stride() == t.stride()
        assert_close("gradient", got, want)
    assert guarded


def test_second_derivatives_are_refused():
    (x, down, up, *_), ranks = problem(torch.float32, 3, 4, 5, 6)
    y = interpreted(x.requires_grad_(), down, up, None, ranks)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


def test_ranks_are_put_into_range():
    (x, down, up, bias, _), ranks = problem(torch.float32, 5, 4, 5, 6)
    got = interpreted(x, down, up, bias, ranks * 9 - 5)
    want = lowrank_linear_per_sample(x, down, up, bias, (ranks * 9 - 5).clamp(0, 6))
    assert_close("y", got, want)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_tile_gives_the_same_product(dtype):
    (x, down, up, bias, inner), ranks = problem(dtype, 70, 40, 66, 130)
    falling, order = ranks.sort(descending=True)
    want = lowrank_linear_per_sample(x, down, up, bias, ranks, inner_bias=inner)
    want_g = torch.where(torch.arange(130) < ranks[:, None], x @ down.t() + inner, 0).t() @ x
    for tiles in _tiles.STAIRCASE[x.element_size()]:
        h = kernels.descend(x, down, inner, order, falling, tiles)
        assert_close("y", kernels.climb(h, up, bias, order, falling, tiles), want)
        g = kernels.weigh(h, x, torch.empty_like(down), order, falling, tiles)
        assert_close("g", g, want_g)


def test_what_it_cannot_do_is_refused():
    (x, down, up, bias, _), ranks = problem(torch.float64, 5, 4, 5, 6)
    with pytest.raises(TypeError, match="no kernel for torch.float64"):
        interpreted(x, down, up, bias, ranks)
