import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

from lowrank_kernels import _batched, lowrank_linear_batched, lowrank_linear_batched_reference
from lowrank_kernels.testing import BATCHED_LAWS, assert_close

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def masked(x, down, up, bias=None, ranks=None, **options):
    """Run under vmap, where the ranks are a mask."""

    def one(x):
        return lowrank_linear_batched(x, down, up, bias, ranks, **options)

    return torch.vmap(one)(x[None])[0]


def one_by_one(*args, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_batched, "_WORTH", 0)
        return lowrank_linear_batched(*args, **options)


PRODUCTS = [lowrank_linear_batched, masked, one_by_one]


@pytest.mark.parametrize("law", BATCHED_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("product", PRODUCTS, ids=lambda f: f.__name__)
def test_obeys(product, dtype, law):
    law(product, torch.empty(0, dtype=dtype))


def problem(dtype=torch.float64):
    torch.manual_seed(0)
    shapes = ((3, 4, 5), (3, 6, 5), (3, 2, 6), (3, 2), (3, 6))
    return [torch.randn(s, dtype=dtype) for s in shapes], torch.tensor([2, 0, 6])


def call(x, down, up, bias, inner, ranks):
    return lowrank_linear_batched(x, down, up, bias, ranks, inner_bias=inner)


@pytest.mark.parametrize("ranks", [[2, 0, 6], [3, 3, 3]])
def test_gradcheck_holds(ranks):
    leaves = [t.requires_grad_() for t in problem()[0]]
    ranks = torch.tensor(ranks)
    assert torch.autograd.gradcheck(lambda *t: call(*t, ranks), leaves)
    assert torch.autograd.gradgradcheck(lambda *t: call(*t, ranks), leaves, fast_mode=True)


def test_one_graph_serves_all_ranks():
    torch._dynamo.reset()
    tensors, _ = problem(torch.float32)
    counter = CompileCounterWithBackend("aot_eager")
    fast = torch.compile(call, backend=counter, fullgraph=True)
    for ranks in ([2, 0, 6], [1, 1, 1], [6, 6, 6], [0, 0, 0]):
        assert_close("y", fast(*tensors, torch.tensor(ranks)), call(*tensors, torch.tensor(ranks)))
    assert counter.frame_count == 1


def test_vmap_maps_ranks():
    tensors, ranks = problem()
    got = torch.vmap(lambda r: call(*tensors, r))(torch.stack([ranks, 6 - ranks]))
    assert_close("first", got[0], call(*tensors, ranks))
    assert_close("second", got[1], call(*tensors, 6 - ranks))


def test_one_rank_holds_for_all_layers():
    tensors, _ = problem()
    got = call(*tensors, torch.tensor(4))
    assert_close("y", got, call(*tensors, torch.tensor([4, 4, 4])))


def test_autocast_is_followed():
    (x, down, up, bias, inner), ranks = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        got = call(x, down, up, bias, inner, ranks)
    assert got.dtype == torch.bfloat16
    want = lowrank_linear_batched_reference(x, down, up, bias, ranks, inner_bias=inner)
    assert_close("y", got, want)


ones = torch.ones


@pytest.mark.parametrize("change, kind, message", [
    ({"x": ones(3)}, ValueError, r"x must be \[L, ..., in\], got \[3\]"),
    ({"x": ones(2, 4, 5)}, ValueError, r"x must be \[L, \.\.\., in\] with L = 3, as down"),
    ({"x": ones(3, 4, 6)}, ValueError, r"x must be \[L, \.\.\., in\] with in = 5, as down"),
    ({"down": ones(6, 5)}, ValueError, r"down must be \[L, R, in\], got \[6, 5\]"),
    ({"up": ones(3, 2, 7)}, ValueError, r"up must be \[L, out, R\] with R = 6, as down"),
    ({"up": ones(2, 2, 6)}, ValueError, r"up must be \[L, out, R\] with L = 3, as down"),
    ({"up": ones(3, 2, 6).half()}, TypeError, "up must have the dtype of x"),
    ({"bias": ones(2)}, ValueError, r"bias must be \[3, 2\], got \[2\]"),
    ({"inner_bias": ones(3, 2)}, ValueError, r"inner_bias must be \[3, 6\], got \[3, 2\]"),
    ({"ranks": torch.tensor([1, 7, 2])}, ValueError, r"ranks must be in 0\.\.6, got 7"),
    ({"ranks": torch.tensor([-1, 3, 2])}, ValueError, r"ranks must be in 0\.\.6, got -1"),
    ({"ranks": torch.tensor([1, 2])}, ValueError, r"leading axes of x, \[3\], got \[2\]"),
    ({"ranks": ones(3)}, TypeError, "ranks must be an integer tensor, got torch.float32"),
    ({"ranks": [1, 2, 3]}, TypeError, "ranks must be an integer tensor or None, got list"),
    ({"implementation": "fast"}, ValueError, "implementation must be 'torch', 'triton' or None"),
])  # fmt: skip
def test_what_is_wrong_is_named(change, kind, message):
    arguments = {"x": ones(3, 4, 5), "down": ones(3, 6, 5), "up": ones(3, 2, 6)}
    with pytest.raises(kind, match=message):
        lowrank_linear_batched(**(arguments | change))
