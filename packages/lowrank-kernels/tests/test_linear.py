import pytest
import torch
from hypothesis import given, strategies as st
from torch import Tensor

from lowrank_kernels import lowrank_linear, lowrank_linear_reference, prefix
from lowrank_kernels._linear_op import linear_at
from lowrank_kernels.testing import LINEAR_LAWS, assert_close, check_linear

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16]


def without_gradients(*args, **options):
    with torch.no_grad():
        return lowrank_linear(*args, **options)


def operator(x, down, up, bias=None, rank=None, *, inner_bias=None):
    rank = torch.as_tensor(down.shape[0] if rank is None else rank)
    return linear_at(x, down, up, bias, rank, inner_bias)


def prepared(x, down, up, bias=None, rank=None, *, inner_bias=None):
    return prefix(down, up, bias, rank, inner_bias=inner_bias)(x)


def packed(x, down, up, bias=None, rank=None, *, inner_bias=None):
    return prefix(down, up, bias, rank, inner_bias=inner_bias, packed=True)(x)


IMPLEMENTATIONS = [lowrank_linear, operator, prepared, packed]


@pytest.mark.parametrize("law", LINEAR_LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS, ids=lambda f: f.__name__)
def test_obeys(implementation, dtype, law):
    law(implementation, torch.empty(0, dtype=dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_obeys_without_gradients(dtype):
    check_linear(without_gradients, torch.empty(0, dtype=dtype), gradients=False)


@given(
    st.lists(st.integers(0, 4), max_size=3),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 40),
    st.data(),
)
def test_equals_the_reference_for_any_shape(lead, n, m, R, data):
    r = data.draw(st.integers(0, R))
    with_bias, transposed = data.draw(st.booleans()), data.draw(st.booleans())
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    x, down, up = random(*lead, n), random(R, n), random(m, R)
    up = up.t().contiguous().t() if transposed else up
    bias = random(m) if with_bias else None
    want = lowrank_linear_reference(x, down, up, bias, r)
    assert_close("y", lowrank_linear(x, down, up, bias, r), want, rtol=1e-11)
    assert_close("y in no_grad", without_gradients(x, down, up, bias, r), want, rtol=1e-11)


def factors(dtype=torch.float32):
    torch.manual_seed(0)
    x, down, up, bias = (torch.randn(s, dtype=dtype) for s in ((3, 6), (5, 6), (4, 5), (4,)))
    return x, down, up, bias


def test_gradcheck_holds_at_every_rank():
    leaves = [t.requires_grad_() for t in factors(torch.float64)]
    for r in range(6):
        assert torch.autograd.gradcheck(lambda *t, r=r: lowrank_linear(*t, r), leaves)
        assert torch.autograd.gradgradcheck(lambda *t, r=r: lowrank_linear(*t, r), leaves)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("r", [0, 3, torch.tensor(3)], ids=str)
def test_autocast_casts_as_for_a_linear_layer(dtype, r, grad):
    x, down, up, bias = factors()
    with torch.autocast("cpu", dtype), torch.set_grad_enabled(grad):
        got = lowrank_linear(x, down, up, bias, r)
        want = torch.nn.functional.linear(
            torch.nn.functional.linear(x, down[: int(r)]), up[:, : int(r)], bias
        )
    assert got.dtype == want.dtype == dtype
    assert torch.equal(got, want)


def test_autocast_mixes_dtypes_as_a_linear_layer_does():
    x, down, up, bias = factors()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        got = lowrank_linear(x.bfloat16(), down, up, bias, 3)
        assert torch.equal(got, lowrank_linear(x, down, up, bias, 3))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("in_dims", [(0, None, None, None), (1, 0, None, None), (0, 0, 1, 0)])
def test_vmap_maps_each_argument(in_dims, grad):
    torch.manual_seed(0)
    shapes = [(3, 6), (5, 6), (4, 5), (4,)]
    batched = [
        torch.randn(*s) if d is None else torch.randn(2, *s).movedim(0, d)
        for s, d in zip(shapes, in_dims, strict=True)
    ]
    with torch.set_grad_enabled(grad):
        got = torch.vmap(lambda *t: lowrank_linear(*t, 3), in_dims)(*batched)
    for i in range(2):
        one = [t if d is None else t.select(d, i) for t, d in zip(batched, in_dims, strict=True)]
        assert_close("y", got[i], lowrank_linear_reference(*one, 3))


def test_vmap_refuses_a_rank_per_sample():
    x, down, up, bias = factors()
    ranks = torch.tensor([1, 2, 3])
    with pytest.raises(ValueError, match="rank must be readable as one number"):
        torch.vmap(lambda x, r: lowrank_linear(x, down, up, bias, r))(x, ranks)


def test_per_sample_gradients_come_from_func():
    x, down, up, bias = factors(torch.float64)

    def loss(down, row):
        return lowrank_linear(row, down, up, bias, 3).square().sum()

    got = torch.vmap(torch.func.grad(loss), (None, 0))(down, x)
    want = torch.stack([torch.func.grad(loss)(down, row) for row in x])
    assert_close("gradients", got, want)
    assert not got[:, 3:].any()


def test_the_rank_may_change_between_calls_and_come_back():
    x, down, up, bias = factors()
    first = lowrank_linear(x, down, up, bias, 2)
    lowrank_linear(x, down, up, bias, 5)
    assert torch.equal(lowrank_linear(x, down, up, bias, 2), first)


def test_a_change_of_the_factors_is_seen_at_once():
    x, down, up, bias = factors()
    with torch.no_grad():
        lowrank_linear(x, down, up, bias, 3)
        down.mul_(2)
        up.data = up.data.t().contiguous().t() + 1
        got = lowrank_linear(x, down, up, bias, 3)
    assert_close("y", got, lowrank_linear_reference(x, down, up, bias, 3))


def test_torch_may_be_asked_for_by_name():
    x, down, up, bias = factors()
    got = lowrank_linear(x, down, up, bias, 3, implementation="torch")
    assert torch.equal(got, lowrank_linear(x, down, up, bias, 3))


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
@pytest.mark.parametrize("rank", [3, torch.tensor(3)], ids=str)
def test_an_activation_follows_the_product_in_and_out_of_graphs(activation, rank):
    x, down, up, bias = factors()
    want = getattr(torch.nn.functional, activation)(lowrank_linear(x, down, up, bias, 3))

    def call(x, rank):
        return lowrank_linear(x, down, up, bias, rank, activation=activation)

    assert torch.equal(call(x, rank), want)
    torch._dynamo.reset()
    fast = torch.compile(call, backend="aot_eager", fullgraph=True)
    assert torch.equal(fast(x, rank), want)
