import copy

import pytest
import torch

from lowrank_kernels import Prefix, lowrank_linear, prefix
from lowrank_kernels.testing import assert_close


def factors():
    torch.manual_seed(0)
    return [torch.randn(s) for s in ((3, 6), (5, 6), (4, 5), (4,))]


def test_slices_are_views_that_follow_the_factors():
    x, down, up, bias = factors()
    product = prefix(down, up, bias, 3)
    assert product.down.data_ptr() == down.data_ptr()
    assert product.up.data_ptr() == up.data_ptr()
    down.mul_(3)
    assert_close("y", product(x), lowrank_linear(x, down, up, bias, 3))


def test_a_packed_copy_stays_as_it_was():
    x, down, up, bias = factors()
    product = prefix(down, up, bias, 3, packed=True)
    want = product(x)
    up.zero_()
    assert torch.equal(product(x), want)
    assert product.up.t().is_contiguous()
    assert product.up.untyped_storage().nbytes() == 4 * 3 * up.element_size()


def test_gradients_reach_the_factors():
    x, down, up, bias = (t.requires_grad_() for t in factors())
    y = prefix(down, up, bias, 3)(x)
    got = torch.autograd.grad(y.sum(), (x, down, up, bias))
    want = torch.autograd.grad(lowrank_linear(x, down, up, bias, 3).sum(), (x, down, up, bias))
    for name, g, w in zip(("x", "down", "up", "bias"), got, want, strict=True):
        assert_close(f"gradient of {name}", g, w)


def test_autocast_reaches_it():
    x, down, up, bias = factors()
    product = prefix(down, up, bias, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x).dtype == product(x[None]).dtype == torch.bfloat16


def test_says_what_it_is():
    _, down, up, bias = factors()
    product = prefix(down, up, bias, torch.tensor(3))
    assert isinstance(product, Prefix)
    assert repr(product) == "Prefix(rank=3, in_features=6, out_features=4)"


def test_names_the_argument_that_is_wrong():
    _, down, up, bias = factors()
    with pytest.raises(ValueError, match=r"rank must be in 0\.\.5, got 6"):
        prefix(down, up, bias, 6)
    with pytest.raises(ValueError, match=r"bias must be \[4\], got \[5\]"):
        prefix(down, up, torch.ones(5))
    with pytest.raises(TypeError, match="up must have the dtype of x"):
        prefix(down, up.double())


def test_names_what_is_wrong_with_the_input():
    _, down, up, bias = factors()
    product = prefix(down, up, bias, 3)
    for x in (torch.ones(2, 7), torch.ones(7), torch.ones(1, 2, 7)):
        with pytest.raises(ValueError, match=r"x must be \[\.\.\., in\] with in = 6, as down"):
            product(x)
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        product([1.0])


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("packed", [False, True])
def test_gradients_reach_the_factors_of_one_that_was_made_without(off, packed):
    x, *rest = factors()
    leaves = [torch.nn.Parameter(t) for t in (*rest, torch.ones(5))]
    down, up, bias, inner = leaves
    with off():
        product = prefix(down, up, bias, 3, inner_bias=inner, packed=packed)
        assert not product(x).requires_grad
    for _ in range(2):
        got = torch.autograd.grad(product(x).sum(), leaves)
        want = lowrank_linear(x, down, up, bias, 3, inner_bias=inner).sum()
        for g, w in zip(got, torch.autograd.grad(want, leaves), strict=True):
            assert_close("gradient", g, w)
        with torch.no_grad():  # a packed copy follows these alone
            down.mul_(2)
            inner.mul_(3)


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_one_that_was_made_without_gradients_follows_changes(off):
    x, *rest = factors()
    down, up, bias = leaves = [torch.nn.Parameter(t) for t in rest]
    with off():
        product = prefix(*leaves, 3)
    torch.optim.SGD(leaves, lr=0.1).zero_grad()
    with torch.no_grad():
        down.mul_(2)
        up.add_(1)
    assert_close("y", product(x), lowrank_linear(x, down, up, bias, 3))
    product(x).sum().backward()
    assert all(t.grad is not None for t in leaves)
    with off():
        assert_close("y", product(x), lowrank_linear(x, down, up, bias, 3))


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("packed", [False, True])
def test_a_deep_copy_has_factors_of_its_own(grad, packed):
    x, *rest = factors()
    model = torch.nn.Module()
    model.down, model.up, model.bias = (torch.nn.Parameter(t) for t in rest)
    with torch.set_grad_enabled(grad):
        model.product = prefix(model.down, model.up, model.bias, 3, packed=packed)
    twin = copy.deepcopy(model)
    assert torch.equal(twin.product(x), model.product(x))
    with torch.no_grad():
        twin.down.zero_()
    assert torch.equal(twin.product(x), twin.bias.expand(3, 4))
    assert not torch.equal(model.product(x), twin.product(x))
    twin.product(x).sum().backward()
    assert twin.up.grad is not None
    assert model.up.grad is None
