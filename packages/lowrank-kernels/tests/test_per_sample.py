import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.utils.flop_counter import FlopCounterMode

from lowrank_kernels import (
    _bands,
    _scratch,
    lowrank_linear,
    lowrank_linear_per_sample,
    lowrank_linear_per_sample_reference,
)
from lowrank_kernels.testing import PER_SAMPLE_LAWS, assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]
ops = torch.ops.lowrank_kernels


@pytest.fixture(params=["one band", "many bands"])
def bands(request, monkeypatch):
    """Small products are one band by themselves; cut them as if calls were free."""
    if request.param == "many bands":
        monkeypatch.setattr(_bands, "CALLS", 0)
        monkeypatch.setattr(_bands, "STEP", 2)


@pytest.mark.parametrize("law", PER_SAMPLE_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.usefixtures("bands")
def test_obeys(dtype, law):
    law(lowrank_linear_per_sample, torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_wide_products_equal_the_reference_in_the_bands_they_are_cut_in(dtype):
    torch.manual_seed(0)
    N, n, m, R = 130, 900, 800, 200
    x, down, up = ((torch.randn(s) / s[1] ** 0.5).to(dtype) for s in ((N, n), (R, n), (m, R)))
    ranks = torch.randint(0, R + 1, (N,))
    assert len(_bands.cut(ranks.sort(descending=True)[0].tolist(), n + m)) > 2
    got = lowrank_linear_per_sample(x, down, up, None, ranks)
    keep = torch.arange(R) < ranks[:, None]
    want = (x.double() @ down.double().t() * keep) @ up.double().t()
    assert_close("y", got, want)


@given(st.lists(st.integers(0, 300), min_size=1, max_size=300), st.integers(1, 4000))
def test_bands_cover_the_staircase_and_little_more(ranks, features):
    falling = sorted(ranks, reverse=True)
    for bands in (_bands.cut(falling, features), _bands.cut_exactly(falling)):
        assert len(bands) <= max(_bands.LIMIT, len(set(ranks)))
        edges = [0, *(b.stop for b in bands)]
        assert [b.start for b in bands] == edges[:-1]
        assert edges[-1] == falling[0]
        for band in bands:
            assert band.rows == sum(r > band.start for r in ranks)
            assert band.exact == sum(r >= band.stop for r in ranks)
    area = sum(b.rows * (b.stop - b.start) for b in _bands.cut(falling, features))
    assert sum(ranks) <= area <= len(ranks) * falling[0]
    assert sum(b.rows * (b.stop - b.start) for b in _bands.cut_exactly(falling)) == sum(ranks)


def test_two_ranks_far_apart_are_two_bands_without_waste():
    bands = _bands.cut([512] * 26 + [16] * 230, 2048)
    assert [(b.rows, b.start, b.stop) for b in bands] == [(256, 0, 16), (26, 16, 512)]


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((6, 5), (7, 5), (4, 7), (4,), (7,))
    tensors = [torch.randn(s, dtype=dtype) for s in shapes]
    return tensors, torch.tensor([3, 7, 0, 5, 5, 1])


def call(x, down, up, bias, inner, ranks):
    return lowrank_linear_per_sample(x, down, up, bias, ranks, inner_bias=inner)


@pytest.mark.usefixtures("bands")
def test_gradcheck_holds():
    tensors, ranks = problem()
    leaves = [t.requires_grad_() for t in tensors]
    assert torch.autograd.gradcheck(lambda *t: call(*t, ranks), leaves)
    assert torch.autograd.gradgradcheck(lambda *t: call(*t, ranks), leaves)


def operators():
    (x, down, up, bias, inner), ranks = problem()
    h = torch.randn(6, 7, dtype=torch.float64)
    return {
        "linear_per_sample": (x, down, up, bias, inner, ranks),
        "shrink_per_sample": (x, down, inner, ranks),
        "expand_per_sample": (h, down, ranks),
        "outer_per_sample": (h, x, ranks, False),
    }


@pytest.mark.parametrize("name", operators())
@pytest.mark.usefixtures("bands")
def test_opcheck_finds_nothing(name):
    arguments = operators()[name]
    leaves = [t.requires_grad_() if i < 2 else t for i, t in enumerate(arguments)]
    torch.library.opcheck(getattr(ops, name), leaves)
    if name == "outer_per_sample":
        torch.library.opcheck(getattr(ops, name), (*leaves[:3], True))


@pytest.mark.parametrize("name", operators())
@pytest.mark.usefixtures("bands")
def test_derivatives_of_any_order_are_right(name):
    arguments = operators()[name]
    count = 2 if name in ("expand_per_sample", "outer_per_sample") else len(arguments) - 1
    leaves = [t.requires_grad_() for t in arguments[:count]]
    function = lambda *t: getattr(ops, name)(*t, *arguments[count:])  # noqa: E731
    assert torch.autograd.gradcheck(function, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(function, leaves, fast_mode=True)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        (_, *factors), _ = problem(torch.float32)
        self.down, self.up, self.bias, self.inner = (nn.Parameter(t) for t in factors)

    def forward(self, x, ranks):
        return call(x, self.down, self.up, self.bias, self.inner, ranks).relu()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_graph_serves_all_ranks(backend):
    torch._dynamo.reset()
    layer, counter = Layer(), CompileCounterWithBackend(backend)
    fast = torch.compile(layer, backend=counter, fullgraph=True)
    x = torch.randn(2, 3, 5, requires_grad=True)
    for top in (0, 1, 3, 7):
        for ranks in (torch.randint(0, top + 1, (2, 3)), torch.full((2, 3), top)):
            grads = []
            for function in (fast, layer):
                y = function(x, ranks)
                leaves = [x, *layer.parameters()]
                grads.append([y, *torch.autograd.grad(y.square().sum(), leaves)])
            for got, want in zip(*grads, strict=True):
                assert_close("a result", got, want)
    assert counter.frame_count == 1


def test_an_exported_program_needs_torch_alone_and_takes_any_ranks():
    layer, x = Layer().eval(), torch.randn(4, 5)
    program = torch.export.export(layer, (x, torch.tensor([1, 2, 3, 4])))
    assert not any("lowrank" in str(node.target) for node in program.graph.nodes)
    ranks = torch.tensor([7, 0, 5, 1])
    assert_close("y", program.module()(x, ranks), layer(x, ranks))


def test_vmap_maps_rows_and_ranks():
    (x, *factors), ranks = problem()
    want = call(x, *factors, ranks)
    by_row = torch.vmap(lambda x, r: call(x, *factors, r))
    assert_close("rows and ranks", by_row(x, ranks), want)
    many = torch.vmap(lambda x: call(x, *factors, ranks), in_dims=1, out_dims=1)
    assert_close("rows", many(torch.stack([x, 2 * x], 1))[:, 0], want)
    several = torch.vmap(lambda r: call(x, *factors, r))(torch.stack([ranks, 7 - ranks]))
    assert_close("ranks", several[0], want)


def test_vmap_over_a_factor_says_what_to_do_instead():
    (x, down, up, bias, inner), ranks = problem()
    stacked = torch.stack([down, down])
    with pytest.raises(NotImplementedError, match="map x and ranks alone"):
        torch.vmap(lambda d: call(x, d, up, bias, inner, ranks))(stacked)


def test_flops_follow_the_ranks():
    (x, down, up, *_), ranks = problem()
    with FlopCounterMode(display=False) as counter:
        lowrank_linear_per_sample(x, down, up, None, ranks)
    assert counter.get_total_flops() == 2 * int(ranks.sum()) * (5 + 4)


def test_equal_ranks_are_the_product_of_one_rank():
    (x, down, up, bias, inner), _ = problem()
    for r in (0, 3, 7):
        got = call(x, down, up, bias, inner, torch.full((6,), r))
        assert_close("y", got, lowrank_linear(x, down, up, bias, r, inner_bias=inner))


@pytest.mark.parametrize("n, m, R", [(0, 4, 3), (5, 0, 3), (5, 4, 0), (0, 0, 0)])
def test_sizes_of_nothing_work(n, m, R):
    leaves = [torch.randn(s, requires_grad=True) for s in ((6, n), (R, n), (m, R), (m,))]
    ranks = torch.tensor([0, R, 1, R, 0, R]).clamp(max=R)
    y = lowrank_linear_per_sample(*leaves, ranks)
    assert torch.equal(y, leaves[3].expand(6, m))
    for g, t in zip(torch.autograd.grad(y.sum(), leaves), leaves, strict=True):
        assert g.shape == t.shape
        assert not g.any() or t is leaves[3]


def test_autocast_is_followed():
    tensors, ranks = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = call(*tensors, ranks)
    assert got.dtype == torch.bfloat16
    x, down, up, bias, inner = tensors
    want = lowrank_linear_per_sample_reference(x, down, up, bias, ranks, inner_bias=inner)
    assert_close("y", got, want)


def test_results_do_not_share_memory():
    (x, down, up, bias, _), ranks = problem()
    first = lowrank_linear_per_sample(x, down, up, bias, ranks)
    kept = first.clone()
    lowrank_linear_per_sample(2 * x, down, up, bias, 7 - ranks)
    assert torch.equal(first, kept)


@pytest.mark.usefixtures("bands")
def test_inference_mode_leaves_nothing_behind(monkeypatch):
    monkeypatch.setattr(_scratch, "_kept", threading.local())
    tensors, ranks = problem(torch.float32)
    wide = [t.repeat_interleave(40, 0) if i == 0 else t for i, t in enumerate(tensors)]
    with torch.inference_mode():
        first = call(*wide, ranks.repeat_interleave(40))
    leaves = [t.requires_grad_() for t in tensors]
    y = call(*leaves, ranks)
    y.sum().backward()
    assert_close("y", y, first[::40])


def test_threads_do_not_share_intermediate_results():
    tensors, ranks = problem()
    want = [call(*tensors, r) for r in (ranks, 7 - ranks)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: call(*tensors, (ranks, 7 - ranks)[i % 2]), range(400)))
    for i, got in enumerate(found):
        assert_close("y", got, want[i % 2])


@pytest.mark.parametrize("ranks, kind, message", [
    (torch.tensor([1, 2, 8, 0, 0, 0]), ValueError, r"ranks must be in 0\.\.7, got 8"),
    (torch.tensor([1, 2, -1, 0, 0, 0]), ValueError, r"ranks must be in 0\.\.7, got -1"),
    (torch.tensor([1, 2]), ValueError, r"leading axes of x, \[6\], got \[2\]"),
    (torch.ones(6, 5, dtype=torch.int64), ValueError, r"leading axes of x, \[6\], got \[6, 5\]"),
    (torch.ones(6), TypeError, "ranks must be an integer tensor, got torch.float32"),
    (torch.ones(6, dtype=torch.bool), TypeError, "integer tensor, got torch.bool"),
    ([1] * 6, TypeError, "ranks must be an integer tensor or None, got list"),
    (3, TypeError, "ranks must be an integer tensor or None, got int"),
])  # fmt: skip
def test_wrong_ranks_are_named(ranks, kind, message):
    (x, *factors), _ = problem()
    with pytest.raises(kind, match=message):
        call(x, *factors, ranks)


def test_wrong_arguments_are_named():
    (x, down, up, bias, inner), ranks = problem()
    with pytest.raises(ValueError, match=r"x must be \[\.\.\., in\] with in = "):
        call(x[:, 1:], down, up, bias, inner, ranks)
    with pytest.raises(ValueError, match="implementation must be 'torch', 'staircase', 'masked'"):
        lowrank_linear_per_sample(x, down, up, bias, ranks, implementation="fast")
