"""Learning forward in time, against its definition and against backpropagation through time."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor

from spike_ops import SpikeTensor
from spike_ops.learning import (
    DecolleLayer,
    EProp,
    as_gradient_,
    exponential_trace,
    feedback_matrix,
    trace_gradient,
)
from spike_ops.surrogate import Sigmoid

RULES = {
    "membrane": EProp(0.9),
    "readout": EProp(0.9, kappa=0.8),
    "readout, kept": EProp(0.9, kappa=0.8, carry=True),
    "adaptive": EProp(0.9, beta=0.3, rho=0.95),
    "adaptive, readout, kept": EProp(0.7, 0.8, 0.4, 0.9, carry=True),
}
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def window(steps: int, batch: int, before: int, after: int, seed: int) -> list[Tensor]:
    drawn = torch.Generator().manual_seed(seed)
    shape = (steps, batch, after)
    pre = (torch.rand(steps, batch, before, generator=drawn) < 0.3).double()
    psi = torch.rand(shape, generator=drawn, dtype=torch.float64)
    signal = torch.randn(shape, generator=drawn, dtype=torch.float64)
    return [pre, psi, signal, torch.randn(after, before, generator=drawn, dtype=torch.float64)]


def distance(left: Tensor, right: Tensor) -> float:
    return float((left - right).abs().max() / right.abs().max().clamp(min=1))


@each_rule
@settings(max_examples=20)
@given(st.tuples(*[st.integers(1, high) for high in (40, 3, 7, 7)]), st.integers(0, 99))
def test_a_window_is_its_definition_with_eligibilities_written_out(
    rule: EProp, shape: tuple[int, int, int, int], seed: int
) -> None:
    pre, psi, signal, weight = window(*shape, seed)
    wanted = rule.reference(pre, psi, signal, weight)
    largest = max(float(signal.abs().sum()) ** 0.5, float(wanted.dw.abs().max()), 1.0)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        for spikes in (pre.to(dtype), SpikeTensor.from_dense(pre)):
            found = rule(spikes, psi, signal, weight.to(dtype))
            assert (found.dw.double() - wanted.dw).abs().max() <= bound * largest
            for one, other in zip(found.state, wanted.state, strict=True):
                assert distance(one.double(), other) <= bound


@each_rule
def test_windows_in_sequence_are_one_window_where_eligibility_is_kept(rule: EProp) -> None:
    pre, psi, signal, weight = window(30, 3, 5, 4, 1)
    whole, parts, state = rule(pre, psi, signal, weight), torch.zeros_like(weight), None
    for s, slope, told in zip(*(x.split([7, 1, 12, 10]) for x in (pre, psi, signal)), strict=True):
        dw, state = rule(s, slope, told, weight, state)
        parts = parts + dw
    assert (distance(parts, whole.dw) <= 1e-12) == (rule.carry or rule == RULES["membrane"])


@pytest.mark.parametrize("beta", [0.0, 0.4], ids=["leaky", "adaptive"])
def test_one_layer_has_the_gradient_of_backpropagation_through_time(beta: float) -> None:
    torch.manual_seed(0)
    alpha, rho, kappa = 0.9, 0.95, 0.8
    pre = (torch.rand(25, 3, 6) < 0.4).double()
    weight = (0.6 * torch.randn(5, 6)).double().requires_grad_()
    readout, goal = torch.randn(2, 5).double(), torch.randn(25, 3, 2).double()
    surrogate = Sigmoid(2.0)
    v, z, a, slopes, fired = (*torch.zeros(3, 3, 5).double(), [], [])
    for x in pre:
        v = alpha * v + x @ weight.T - z.detach()  # the reset carries no gradient
        u = v - 1 - beta * a
        z = surrogate(u)
        a = rho * a + z
        slopes.append(surrogate.derivative(u.detach()))
        fired.append(z)
    y = exponential_trace_of(torch.stack(fired), kappa) @ readout.T
    loss = (y - goal).square().sum() / 2
    (wanted,) = torch.autograd.grad(loss, weight)
    signal = (y - goal).detach() @ readout
    rule = EProp(alpha, kappa, beta, rho)
    found = rule(pre, torch.stack(slopes), signal, weight)
    assert distance(-found.dw, wanted) <= 1e-12


def exponential_trace_of(spikes: Tensor, decay: float) -> Tensor:
    y, all_of_it = torch.zeros_like(spikes[0]), []
    for z in spikes:
        y = decay * y + z
        all_of_it.append(y)
    return torch.stack(all_of_it)


def test_a_trace_gradient_is_the_gradient_of_a_membrane_without_reset() -> None:
    torch.manual_seed(0)
    pre, start = (torch.rand(12, 3, 6) < 0.4).double(), torch.rand(3, 6).double()
    weight, goal = torch.randn(5, 6).double().requires_grad_(), torch.randn(12, 3, 5).double()
    trace = exponential_trace(pre, 0.8, initial=start)
    u = trace @ weight.T
    (wanted,) = torch.autograd.grad((u - goal).pow(4).sum(), weight)
    found = trace_gradient(pre, 4 * (u - goal).pow(3), 0.8, weight, start)
    assert distance(found.dw, wanted) <= 1e-12
    assert distance(found.state[0], trace[-1]) <= 1e-12


def test_signals_and_decays_that_do_not_fit_are_refused() -> None:
    pre, psi, signal, weight = window(5, 2, 4, 3, 0)
    with pytest.raises(ValueError, match="derivative must be"):
        EProp(0.9)(pre, psi[:, :1], signal, weight)
    with pytest.raises(ValueError, match="signal must be finite"):
        EProp(0.9)(pre, psi, signal / 0, weight)
    with pytest.raises(ValueError, match="kappa must be in"):
        EProp(0.9, kappa=1.5)
    with pytest.raises(ValueError, match="state must be tensors"):
        EProp(0.9)(pre, psi, signal, weight, (torch.zeros(3, 4),))


@pytest.mark.parametrize("kind", ["symmetric", "sign", "random"])
def test_feedback_has_the_size_of_the_readout(kind: str) -> None:
    readout = torch.randn(30, 40, dtype=torch.float64)
    found = feedback_matrix(readout, kind, seed=3)  # type: ignore[arg-type]
    assert torch.equal(found, feedback_matrix(readout, kind, seed=3))  # type: ignore[arg-type]
    assert float(found.norm() / readout.norm()) == pytest.approx(1, abs=0.3)
    alike = float((found * readout).sum() / found.norm() / readout.norm())
    assert alike == pytest.approx({"symmetric": 1, "sign": 0.8, "random": 0}[kind], abs=0.1)


def test_a_decolle_layer_is_its_equations() -> None:
    torch.manual_seed(0)
    layer = DecolleLayer(9, 7, 3, tau_mem=5.0, tau_syn=3.0, tau_ref=2.0).double()
    layer.weight.data *= 6
    x, state, before = (torch.rand(30, 2, 9) < 0.5).double(), None, None
    for part in x.split([11, 19]):
        found, wanted = layer(SpikeTensor.from_dense(part), state), layer.reference(part, before)
        state, before = found.state, tuple(each.detach() for each in wanted.state)
        assert 0.02 < float(found.spikes.mean()) < 0.9
        for name in ("spikes", "membrane", "readout"):
            assert distance(getattr(found, name), getattr(wanted, name).detach()) <= 1e-12
        for one, other in zip(state, before, strict=True):
            assert distance(one, other) <= 1e-12


def test_a_decolle_layer_has_the_gradient_of_its_local_loss() -> None:
    torch.manual_seed(0)
    layer = DecolleLayer(9, 7, 3, tau_mem=5.0, tau_syn=3.0, seed=2).double()
    x, goal = (torch.rand(20, 2, 9) < 0.5).double(), torch.randn(20, 2, 3).double()
    state = layer(x).state
    told = layer.learn_(x, layer(x, state), lambda y: (y - goal).square().sum())
    # by autograd: the state before and the refractory part carry no gradient
    loss = (layer.reference(x, state).readout - goal).square().sum()
    wanted = torch.autograd.grad(loss, [layer.weight, layer.bias])
    assert float(told) == pytest.approx(float(loss.detach()))
    assert layer.weight.grad is not None
    assert layer.bias.grad is not None
    assert distance(layer.weight.grad, wanted[0]) <= 1e-12
    assert distance(layer.bias.grad, wanted[1]) <= 1e-12


def test_decolle_layers_learn_to_tell_patterns_apart() -> None:
    torch.manual_seed(0)
    labels = torch.arange(40) % 4
    rates = torch.rand(4, 20)[labels] * 0.6
    x = (torch.rand(25, 40, 20) < rates).float()
    layers = [DecolleLayer(20, 40, 4, seed=1), DecolleLayer(40, 40, 4, seed=2)]
    optimizers = [torch.optim.Adam(layer.parameters(), 0.02) for layer in layers]
    losses = []
    for _ in range(25):
        spikes = x
        for layer, optimizer in zip(layers, optimizers, strict=True):
            optimizer.zero_grad()
            out = layer(spikes)
            loss = layer.learn_(spikes, out, lambda y: cross_entropy(y, labels))
            optimizer.step()
            spikes = out.spikes
        losses.append(float(loss))
    right = out.readout.mean(0).argmax(1) == labels
    assert losses[-1] < 0.7 * losses[0]
    assert float(right.float().mean()) > 0.9


def cross_entropy(y: Tensor, labels: Tensor) -> Tensor:
    return torch.nn.functional.cross_entropy(y.flatten(0, 1), labels.repeat(len(y)))


def test_eprop_learns_to_remember_a_cue_over_a_delay() -> None:
    # one of two groups of inputs fires at first; after a silence a go signal asks which
    torch.manual_seed(0)
    n, alpha, rho, beta, kappa = 40, 0.8, 0.97, 0.6, 0.8
    w_in = torch.nn.Parameter(0.5 * torch.randn(n, 30))
    w_rec = torch.nn.Parameter(0.25 * torch.randn(n, n) * (1 - torch.eye(n)))
    w_out = torch.nn.Parameter(0.2 * torch.randn(2, n))
    optimizer = torch.optim.Adam([w_in, w_rec, w_out], 0.01)
    adaptive = (torch.arange(n) < n // 2).float() * beta
    feedback = feedback_matrix(w_out, "random", seed=1)
    scores = []
    for _ in range(60):
        cue = torch.randint(2, (32,))
        rates = torch.zeros(30, 32, 3, 10)
        rates[:8, torch.arange(32), cue] = 0.5
        rates[24:, :, 2] = 0.5
        x = (torch.rand(30, 32, 30) < rates.flatten(2)).float()
        z, psi = simulate(x, w_in, w_rec, adaptive, alpha, rho)
        y = exponential_trace(z, kappa) @ w_out.T
        error = y.softmax(2) - torch.eye(2)[cue]
        error[:24] = 0  # only the answer counts
        before = torch.cat([torch.zeros_like(z[:1]), z[:-1]])
        optimizer.zero_grad()
        for neurons in (slice(0, n // 2), slice(n // 2, n)):
            rule = EProp(alpha, kappa, beta if neurons.start == 0 else 0.0, rho)
            told = (error @ feedback)[..., neurons]
            for weight, source in ((w_in, x), (w_rec, before)):
                dw = torch.zeros_like(weight)
                dw[neurons] = rule(source, psi[..., neurons], told, weight[neurons]).dw
                as_gradient_(weight, dw)
        as_gradient_(w_out, -torch.einsum("tbk,tbn->kn", error, exponential_trace(z, kappa)))
        w_rec.grad *= 1 - torch.eye(n)  # type: ignore[operator]
        optimizer.step()
        scores.append(float((y[24:].sum(0).argmax(1) == cue).float().mean()))
    assert sum(scores[:5]) / 5 < 0.8
    assert sum(scores[-10:]) / 10 > 0.95


@torch.no_grad()
def simulate(
    x: Tensor, w_in: Tensor, w_rec: Tensor, beta: Tensor, alpha: float, rho: float
) -> tuple[Tensor, Tensor]:
    v, z, a, fired, slopes = (*torch.zeros(3, x.shape[1], len(w_in)), [], [])
    for current in x @ w_in.T:
        v = alpha * v + current + z @ w_rec.T - z
        u = v - 1 - beta * a
        z = (u >= 0).float()
        a = rho * a + z
        slopes.append(0.3 * (1 - u.abs()).clamp(min=0))
        fired.append(z)
    return torch.stack(fired), torch.stack(slopes)
