"""What is kept beside the factors never outlives them, and transforms see the same product."""

import threading

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn import Parameter

from lowrank_kernels import (
    Calibration,
    Dispatcher,
    calibrate,
    dispatch,
    identity_block,
    lowrank_conv2d,
    lowrank_embedding,
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


def held_rank(kind):
    """A product whose rank is a tensor, as a function of its input, and a row of it."""
    down, up, x = factors(5, 8, 6)
    bias, inner, rank = torch.ones(5).double(), torch.ones(8).double(), torch.tensor(3)
    poisoned = down.clone()
    poisoned[3:] = torch.nan
    if kind == "linear":
        return x, lambda x: lowrank_linear(x, poisoned, up, bias, rank, inner_bias=inner)
    if kind == "per sample":
        ranks = torch.arange(9).repeat(4)[:32]
        return x, lambda x: lowrank_linear_per_sample(x, down, up, bias, ranks, inner_bias=inner)
    if kind == "embedding":
        words = torch.tensor([[4, 0], [2, 4]])
        return down.t().contiguous(), lambda t: lowrank_embedding(words, t, up, rank)
    kernel = poisoned.view(8, 2, 3, 1) if kind == "conv" else poisoned.view(2, 4, 2, 3, 1)
    up, inner = (up, inner) if kind == "conv" else (up[:4].view(2, 2, 8)[..., :4], inner.view(2, 4))
    options = {"inner_bias": inner, "padding": "same", "groups": 1 + (kind == "groups")}
    if kind == "groups":
        kernel, bias = kernel.nan_to_num(1.0), bias[:4]
    image = x[:, : 2 * options["groups"]].reshape(-1, 2 * options["groups"], 2, 2)
    return image, lambda x: lowrank_conv2d(x, kernel, up, bias, rank, **options)


def tangent(function):
    return lambda x: torch.func.jvp(function, (x,), (x.cos(),))[1]


def forward_mode(function):
    def call(x):
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(x, x.cos())
            return torch.autograd.forward_ad.unpack_dual(function(dual)).tangent

    return call


def gradient(function):
    return torch.func.grad(lambda x: function(x).square().sum())


@pytest.mark.parametrize("derivative", [tangent, forward_mode, gradient])
@pytest.mark.parametrize("kind", ["linear", "conv", "groups", "embedding", "per sample"])
def test_a_graph_has_the_derivatives_that_the_product_has_without_one(kind, derivative):
    x, function = held_rank(kind)
    want = derivative(function)(x)
    assert want.abs().max() > 0.1
    torch._dynamo.reset()
    compiled = torch.compile(derivative(function), backend="aot_eager")
    torch.testing.assert_close(compiled(x), want)


def test_a_graph_that_was_made_without_a_derivative_is_not_used_for_one():
    x, function = held_rank("linear")
    torch._dynamo.reset()
    compiled = torch.compile(function, backend="aot_eager")
    compiled(x)
    torch.testing.assert_close(tangent(compiled)(x), tangent(function)(x))


def test_an_operator_refuses_what_it_has_no_derivative_for():
    x, function = held_rank("per sample")
    leaf, g = x.clone().requires_grad_(), torch.ones(32, 5).double()
    y = function(leaf)
    with torch.autograd.forward_ad.dual_level():
        g = torch.autograd.forward_ad.make_dual(g, g)
        with pytest.raises(NotImplementedError, match="no derivative in forward mode"):
            torch.autograd.grad(y, leaf, g)


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


class Ranked(torch.nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, ranks):
        return self.function(ranks)


def ranked(function):
    """A function of three ranks in 0..5, with the other arguments held."""
    x, down, up = torch.ones(3, 2, 4), torch.ones(3, 5, 4), torch.ones(3, 6, 5)
    if function is lowrank_linear_per_sample:
        down, up = down[0], up[0]
    return lambda ranks: function(x, down, up, ranks=ranks)


@pytest.mark.parametrize("wrong", [-1, 6])
@pytest.mark.parametrize("function", [lowrank_linear_per_sample, lowrank_linear_batched])
def test_ranks_out_of_range_are_refused_when_a_graph_runs(function, wrong):
    call, good, bad = ranked(function), torch.tensor([1, 5, 0]), torch.tensor([1, wrong, 0])
    torch._dynamo.reset()
    compiled = torch.compile(call, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(good), call(good))
    mapped = torch.vmap(call)
    torch.testing.assert_close(mapped(good[None])[0], call(good))
    for refused in (compiled, lambda ranks: mapped(ranks[None]), call):
        with pytest.raises(ValueError, match=rf"ranks must be in 0\.\.5, got {wrong}"):
            refused(bad)
    program = torch.export.export(Ranked(call), (good,))
    assert not any("lowrank" in str(node.target) for node in program.graph.nodes)
    torch.testing.assert_close(program.module()(good), call(good))
    with pytest.raises(RuntimeError, match=r"ranks must be in 0\.\.5"):
        program.module()(bad)


def test_derivatives_of_samples_at_ranks_out_of_range_are_refused():
    x, ours = per_sample(torch.tensor([0, 3, 9, 5]))
    with pytest.raises(ValueError, match=r"ranks must be in 0\.\.8, got 9"):
        torch.func.jacrev(ours)(x)


@pytest.mark.parametrize("rank", [4, 60])
def test_a_first_call_with_fake_tensors_leaves_no_trace(rank):
    down, up, x = factors()
    product = dispatch(down, up, rank=rank, dispatcher=Dispatcher(cache=False))
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=ShapeEnv()) as mode:
        assert product(mode.from_tensor(x)).shape == (32, 40)
    with torch.no_grad():
        y = product(x)
    assert type(y) is torch.Tensor
    torch.testing.assert_close(y, lowrank_linear(x, down, up, rank=rank))


def test_tensors_without_values_give_the_shape():
    down, up, x = (t.to("meta") for t in factors())
    assert dispatch(down, up, rank=60)(x).shape == (32, 40)
    assert dispatch(down, up, dispatcher=Dispatcher(calibrate=True, cache=False))(x).is_meta
    ranks = torch.ones(32, dtype=torch.int64, device="meta")
    assert lowrank_linear_per_sample(x, down, up, ranks=ranks).shape == (32, 40)
    y = lowrank_linear_batched(x[:2, None], down.expand(2, -1, -1), up.expand(2, -1, -1),
                               ranks=ranks[:2])  # fmt: skip
    assert y.shape == (2, 1, 40)


def test_tensors_without_values_are_refused_by_name_where_values_are_needed():
    down, up, x = factors()
    with pytest.raises(ValueError, match="up must have values, got a tensor on meta"):
        identity_block(down.to("meta"), up.to("meta"), rank=3)
    with pytest.raises(ValueError, match="down must be on the device of x, meta, got cpu"):
        dispatch(down, up)(x.to("meta"))
    with pytest.raises(ValueError, match="device must be one that computes, got meta"):
        calibrate(8, 8, device="meta")


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
