"""What is kept beside the factors never outlives them, and transforms see the same product."""

import threading

import pytest
import torch
from torch.nn import Parameter

from lowrank_kernels import (
    Calibration,
    Dispatcher,
    calibrate,
    dispatch,
    lowrank_linear,
    lowrank_linear_batched,
    lowrank_linear_per_sample,
    lowrank_linear_per_sample_reference,
)
from lowrank_kernels._machine import cache_folder

# torch's own, where it makes forward derivatives
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
FUSED = [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.Adagrad]


def factors(m=40, R=64, n=48, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    shapes = ((R, n), (m, R), (32, n))
    return [torch.randn(*shape, dtype=dtype, generator=draw) for shape in shapes]


@pytest.mark.parametrize("rank, batch", [(60, 32), (4, 1)], ids=["dense", "packed"])
@pytest.mark.parametrize("optimizer", FUSED)
def test_copies_follow_fused_optimizers(optimizer, rank, batch):
    down, up, x = factors()
    down, up, x = Parameter(down), Parameter(up), x[:batch]
    product = dispatch(down, up, rank=rank, dispatcher=Dispatcher(cache=False))
    with torch.no_grad():
        before = product(x)
    product(x).square().sum().backward()
    optimizer([down, up], lr=0.1, fused=True).step()
    with torch.no_grad():
        after = product(x)
        torch.testing.assert_close(after, lowrank_linear(x, down, up, rank=rank))
    assert not torch.allclose(after, before)
    assert product.copied_bytes > 0


@pytest.mark.parametrize("rank, batch", [(60, 32), (4, 1)], ids=["dense", "packed"])
def test_a_write_while_a_copy_is_made_is_not_missed(rank, batch):
    down, up, x = factors(400, 64, 400)
    x = x[:batch]
    for _ in range(30):
        product = dispatch(down, up, rank=rank, dispatcher=Dispatcher(cache=False))
        writer = threading.Thread(target=lambda: [up.mul_(1.01) for _ in range(3)])
        writer.start()
        product(x)
        writer.join()
        torch.testing.assert_close(product(x), lowrank_linear(x, down, up, rank=rank))


@pytest.mark.parametrize("rank, batch", [(60, 32), (4, 1)], ids=["dense", "packed"])
def test_copies_made_in_inference_mode_serve_gradients_later(rank, batch):
    down, up, x = factors()
    x = x[:batch]
    product = dispatch(down, up, rank=rank, dispatcher=Dispatcher(cache=False))
    with torch.inference_mode():
        product(x)
    x.requires_grad_()
    product(x).sum().backward()
    wanted = (up[:, :rank] @ down[:rank]).sum(0).expand_as(x)
    torch.testing.assert_close(x.grad, wanted)


def per_sample(ranks, function=lowrank_linear_per_sample):
    down, up, x = factors(5, 8, 6)
    return x[: len(ranks)], lambda x: function(x, down, up, ranks=ranks)


@pytest.mark.parametrize("derivative", [torch.func.jacfwd, torch.func.jacrev, torch.func.hessian])
def test_transforms_see_the_product_of_each_sample(derivative):
    ranks = torch.tensor([0, 3, 8, 5])
    x, ours = per_sample(ranks)
    _, reference = per_sample(ranks, lowrank_linear_per_sample_reference)
    found = derivative(lambda x: ours(x).square().sum(1))(x)
    wanted = derivative(lambda x: reference(x).square().sum(1))(x)
    torch.testing.assert_close(found, wanted)
    assert wanted.abs().max() > 1


def test_forward_derivatives_are_those_of_the_reference():
    x, ours = per_sample(torch.tensor([0, 3, 8, 5]))
    _, tangent = torch.func.jvp(ours, (x,), (torch.ones_like(x),))
    torch.testing.assert_close(tangent, ours(torch.ones_like(x)))


@pytest.mark.parametrize("function", [lowrank_linear_per_sample, lowrank_linear_batched])
def test_ranks_without_values_are_refused(function):
    x = torch.ones(3, 2, 4)
    down, up = torch.ones(3, 5, 4), torch.ones(3, 6, 5)
    if function is lowrank_linear_per_sample:
        down, up = down[0], up[0]
    with pytest.raises(ValueError, match="ranks must have values"):
        function(x, down, up, ranks=torch.ones(3, dtype=torch.int64, device="meta"))


def test_gradients_of_layers_never_see_what_lies_beyond_their_ranks():
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 6, generator=draw, requires_grad=True)
    down, up = torch.randn(3, 8, 6, generator=draw), torch.randn(3, 4, 8, generator=draw)
    down[0, 5:], down[1] = torch.nan, torch.nan
    y = lowrank_linear_batched(x, down, up, ranks=torch.tensor([5, 0, 8]))
    y.square().sum().backward()
    assert y.isfinite().all()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize(
    "change", [lambda s: s.pop("factored"), lambda s: s.update(fused=s["factored"])]
)
def test_tables_that_would_mislead_are_refused(change):
    table = calibrate(8, 8, seconds=0.01, save=False)
    content = table.to_json()
    change(content["seconds"])
    with pytest.raises(ValueError, match="seconds of"):
        Calibration.from_json(table.key, content)


def test_users_without_a_home_have_a_place_for_calibrations(monkeypatch):
    for name in ("HOME", "LOWRANK_KERNELS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home(self):
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("pathlib.Path.expanduser", no_home)
    assert cache_folder().is_absolute()
    down, up, x = factors()
    torch.testing.assert_close(dispatch(down, up, rank=4)(x), lowrank_linear(x, down, up, rank=4))


def test_an_activation_that_is_no_name_is_refused_by_name():
    down, up, x = factors()
    with pytest.raises(ValueError, match="activation must be"):
        lowrank_linear(x, down, up, activation=["relu"])
