"""Dynamic layers inside the transforms of torch.func."""

import copy

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, jvp, vmap

from adlrns_models import DynamicConv2d, DynamicLinear, DynamicLowRankLayer

double = torch.float64
each_kind = pytest.mark.parametrize("kind", ["linear", "conv"])
each_gate = pytest.mark.parametrize("gate", ["spectral", "learned", "block"])
each_granularity = pytest.mark.parametrize("granularity", ["call", "sample"])
each_mode = pytest.mark.parametrize("training", [True, False])


def make(kind, gate, granularity="call"):
    torch.manual_seed(0)
    options = {"r_max": 8, "r_min": 2, "gate": gate, "granularity": granularity, "dtype": double}
    if kind == "conv":
        layer, x = DynamicConv2d(2, 8, 3, **options), torch.randn(3, 2, 5, 5, dtype=double)
    else:
        layer, x = DynamicLinear(8, 8, **options), torch.randn(3, 4, 8, dtype=double)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer, x * torch.logspace(0, -3, 3, dtype=double).reshape(3, *[1] * (x.ndim - 1))


def loss_of(layer, x):
    def loss(parameters):
        torch.manual_seed(1)
        return functional_call(layer, parameters, (x,)).square().sum()

    return loss


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")
@each_kind
@each_gate
@each_granularity
@each_mode
def test_gradients_are_those_of_a_backward_pass(kind, gate, granularity, training):
    layer, x = make(kind, gate, granularity)
    layer.train(training).set_budget(0.9, unit="flops")
    plain = copy.deepcopy(layer)
    parameters = {name: p.detach() for name, p in layer.named_parameters()}
    found = grad(loss_of(layer, x))(parameters)  # the first call, of samples of many rows
    _, along = jvp(loss_of(layer, x), (parameters,), (parameters,))
    slope = jacrev(lambda x: loss_of(layer, x)(parameters))(x)
    x.requires_grad_()
    loss_of(plain, x)(dict(plain.named_parameters())).backward()
    for name, parameter in plain.named_parameters():
        wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(found[name], wanted)
    torch.testing.assert_close(slope, x.grad)
    torch.testing.assert_close(along, sum((found[n] * p).sum() for n, p in parameters.items()))


@each_kind
@each_gate
def test_a_transform_leaves_nothing_behind(kind, gate):
    layer, x = make(kind, gate)
    model = nn.Sequential(layer)
    for training in (True, False):
        model.train(training)
        torch.manual_seed(2)
        y, rank = model(x[:1]).detach(), layer.last_rank
        before = copy.deepcopy(model.state_dict())
        grad(loss_of(model, 10 * x))(dict(model.named_parameters()))
        assert layer.last_rank == rank
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        if not training:
            torch.testing.assert_close(model(x[:1]), y, rtol=0, atol=0)
        copy.deepcopy(model)
        model(x).square().sum().backward()


def test_the_budget_is_kept_for_the_size_of_sample_inside_too():
    layer, x = make("linear", "learned")
    layer.eval().set_budget(0.5, unit="flops")
    grad(loss_of(layer, x))({name: p.detach() for name, p in layer.named_parameters()})
    assert layer._ceiling.sample == (4,)
    assert int(layer._cap) == layer._ceiling.rank == 2


@each_kind
@pytest.mark.parametrize("gate", ["learned", "block"])
def test_gates_that_train_give_each_sample_its_gradient(kind, gate):
    layer, x = make(kind, gate)
    layer.gate.rate = layer.gate.gain = 0.0  # of a block gate, whose offsets would move
    layer.gate.temperature = None if gate == "block" else torch.tensor(1e-9)
    with torch.no_grad():  # a temperature of nearly zero draws what the noise says
        layer.gate.scorer.last.bias.copy_(torch.linspace(0, 1e12, len(layer.gate.scorer.last.bias)))
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters, x):
        return functional_call(layer, parameters, (x[None],)).square().sum()

    found = vmap(grad(loss), in_dims=(None, 0), randomness="different")(parameters, x)
    for i, each in enumerate(x):
        for name, wanted in grad(loss)(parameters, each).items():
            torch.testing.assert_close(found[name][i], wanted)


@each_kind
@each_gate
def test_a_rank_by_force_serves_vmap_and_a_gate_that_cannot_is_named(kind, gate):
    layer, x = make(kind, gate)
    layer.eval()
    name, chooser = type(layer).__name__, type(layer.gate).__name__
    with pytest.raises(RuntimeError, match=rf"{name}: its {chooser} could not decide under vmap"):
        vmap(layer)(x)
    layer.force_rank(5)
    torch.testing.assert_close(vmap(layer)(x), layer.at_rank(x, 5))


def test_a_layer_that_tells_its_rank_tells_that_of_this_call():
    torch.manual_seed(0)
    layer = DynamicLowRankLayer(8, 8, r_max=8, r_min=2, budget_unit="flops")
    x, ranks = torch.randn(4, 8), []

    def loss(x, budget):
        y, rank = layer(x, budget)
        ranks.append(rank)
        return y.square().sum()

    layer(x, 1.0)
    for budget in (0.5, 1.0):
        grad(loss)(x, budget)
    assert ranks == [2, 4]
    assert layer.last_rank == 4
