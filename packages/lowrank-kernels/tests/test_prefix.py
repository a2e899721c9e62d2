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
        with pytest.raises(ValueError, match="the last axis of x must be as long as"):
            product(x)
    with pytest.raises(TypeError, match="x must be a tensor, got list"):
        product([1.0])
