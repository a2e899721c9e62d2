"""Every kind of neuron against a loop written here from its definition, and built against it."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops.memory import SLTT
from spike_ops.neuron import (
    ALIF,
    CLIF,
    CUBA,
    EIF,
    GLIF,
    IF,
    ILIF,
    KLIF,
    LIAF,
    LIF,
    PLIF,
    PSN,
    QIF,
    SRM,
    AdEx,
    Delay,
    Diagonal,
    Izhikevich,
    MaskedPSN,
    Neuron,
    Recurrent,
    Refractory,
    SigmaDelta,
    SlidingPSN,
    TsodyksMarkram,
    build,
)
from spike_ops.surrogate import ATan, Sigmoid

Loop = Callable[[list[float]], list[float]]


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


def settled(h: float, s: float, reset: str, threshold: float = 1.0) -> float:
    return 0.0 if s and reset == "hard" else h - threshold * s if reset == "soft" else h


def plif(reset: str, decay_input: bool) -> Loop:
    def loop(x: list[float]) -> list[float]:
        v, out = 0.0, []
        for current in x:
            h = v + (current - v) / 3 if decay_input else v - v / 3 + current
            out.append(float(h >= 1))
            v = settled(h, out[-1], reset)
        return out

    return loop


def klif(x: list[float]) -> list[float]:
    v, out = 0.0, []
    for current in x:
        f = max(1.5 * (v / 2 + current / 2), 0)
        out.append(float(f >= 1))
        v = settled(f, out[-1], "hard")
    return out


def glif(x: list[float]) -> list[float]:
    v, s, out = 0.0, 0.0, []
    for current in x:
        h = (1 - 0.7 * (1 - 0.6)) * v - (1 - 0.7) * 0.05
        h += (1 - 0.2 * (1 - 0.3)) * current
        h -= (1 - 0.7 * (1 - 0.6)) * v * 0.4 * s + (1 - 0.4) * 0.8 * s
        v, s = h, float(h >= 0.75)
        out.append(s)
    return out


def alif(x: list[float]) -> list[float]:
    beta, rho = math.exp(-1 / 5), math.exp(-1 / 30)
    v, a, out = 0.0, 0.0, []
    for current in x:
        h, threshold = beta * v + (1 - beta) * current, 0.5 + 0.3 * a
        s = float(h >= threshold)
        v, a = h - threshold * s, rho * a + s
        out.append(s)
    return out


def cuba(first: bool) -> Loop:
    def loop(x: list[float]) -> list[float]:
        alpha, beta, i, v, out = math.exp(-1 / 3), math.exp(-1 / 6), 0.0, 0.0, []
        for current in x:
            old, i = i, alpha * i + current
            h = beta * v + (i if first else old)
            out.append(float(h >= 2))
            v = settled(h, out[-1], "hard")
        return out

    return loop


def qif(x: list[float]) -> list[float]:
    v, out = 0.0, []
    for current in x:
        h = v + 0.5 / 2 * (1.5 * (v - 0.1) * (v - 0.8) + current)
        out.append(float(h >= 1))
        v = settled(h, out[-1], "hard")
    return out


def adex(a: float, b: float) -> Loop:
    def loop(x: list[float]) -> list[float]:
        v, w, out = 0.0, 0.0, []
        for current in x:
            drive = 0.5 * math.exp(min((v - 0.8) / 0.5, 10)) - v
            h = v + (drive - w + current) / 2
            s = float(h >= 1)
            w += (a * v - w) / 20 + b * s
            v = settled(h, s, "hard")
            out.append(s)
        return out

    return loop


def izhikevich(x: list[float]) -> list[float]:
    v, u, out = -65.0, -13.0, []
    for current in x:
        h = v + 0.5 * (0.04 * v * v + 5 * v + 140 - u + current)
        u += 0.5 * 0.02 * (0.2 * v - u)
        s = float(h >= 30)
        v, u = (-65.0, u + 8) if s else (h, u)
        out.append(s)
    return out


def srm(x: list[float]) -> list[float]:
    def epsilon(j: int) -> float:
        return (math.exp(-j / 6) - math.exp(-j / 2)) * 6 / (6 - 2)

    out: list[float] = []
    for t in range(len(x)):
        u = sum(epsilon(t - k) * x[k] for k in range(t + 1))
        u -= sum(math.exp(-(t - k) / 4) * out[k] for k in range(t))
        out.append(float(u >= 1))
    return out


def clif(x: list[float]) -> list[float]:
    v, m, out = 0.0, 0.0, []
    for current in x:
        h = v / 2 + current
        s = float(h >= 1)
        m = m * sigmoid(h / 2) + s
        v = h - s * (1 + sigmoid(m))
        out.append(s)
    return out


def liaf(x: list[float]) -> list[float]:
    v, out = 0.0, []
    for current in x:
        h = 0.75 * v + 0.25 * current
        out.append(max(h, 0.0))
        v = settled(h, float(h >= 0.5), "soft", 0.5)
    return out


def ilif(x: list[float]) -> list[float]:
    v, out = 0.0, []
    for current in x:
        h = 0.25 * v + current
        out.append(float(round(min(max(h / 0.5, 0), 3))))
        v = h - 0.5 * out[-1]
    return out


def sigma_delta(x: list[float]) -> list[float]:
    r, out = 0.0, []
    for current in x:
        out.append(math.copysign(1, current - r) if abs(current - r) >= 0.3 else 0.0)
        r += 0.3 * out[-1]
    return out


def refractory(x: list[float]) -> list[float]:
    v, rest, out = 0.0, 0, []
    for current in x:
        s = 0.0
        if rest:
            rest -= 1
        else:
            h = v + (current - v) / 3
            s = float(h >= 0.5)
            v, rest = (0.0, 3) if s else (h, 0)
        out.append(s)
    return out


def recurrent(x: list[float]) -> list[float]:
    v, s, out = 0.0, 0.0, []
    for current in x:
        h = v / 2 + current / 2 + 0.5 * 0.75 * s
        s = float(h >= 1)
        v = settled(h, s, "hard")
        out.append(s)
    return out


ROWS: dict[str, tuple[Callable[..., Neuron], Loop, float]] = {
    "plif hard": (lambda **o: PLIF(3.0, **o), plif("hard", True), 2.0),
    "plif soft": (
        lambda **o: PLIF(3.0, reset="soft", decay_input=False, **o), plif("soft", False), 1.0
    ),
    "klif": (lambda **o: KLIF(2.0, slope=1.5, **o), klif, 2.0),
    "alif": (
        lambda **o: ALIF(
            5.0, tau_adaptation=30.0, kappa=0.3, threshold=0.5, reset="soft", **o
        ), alif, 3.0,
    ),
    "cuba current": (lambda **o: CUBA(3.0, 6.0, threshold=2.0, **o), cuba(True), 1.0),
    "cuba membrane": (
        lambda **o: CUBA(3.0, 6.0, threshold=2.0, order="membrane first", **o), cuba(False), 1.0
    ),
    "qif": (lambda **o: QIF(2.0, a=1.5, v_rest=0.1, v_c=0.8, dt=0.5, **o), qif, 2.0),
    "eif": (lambda **o: EIF(2.0, delta=0.5, **o), adex(0.0, 0.0), 1.0),
    "adex": (lambda **o: AdEx(2.0, delta=0.5, a=0.2, b=0.3, **o), adex(0.2, 0.3), 1.0),
    "izhikevich": (Izhikevich, izhikevich, 40.0),
    "srm": (
        lambda **o: SRM(6.0, tau_synapse=2.0, tau_refractory=4.0, **o), srm, 1.0
    ),
    "clif": (lambda **o: CLIF(2.0, **o), clif, 1.0),
    "glif": (
        lambda **o: GLIF(
            alpha=0.7, beta=0.2, gamma=0.4, decay=0.6, conductance=0.3, leak=0.05, subtract=0.8,
            threshold=0.75, **o,
        ), glif, 1.0,
    ),
    "liaf": (lambda **o: LIAF(4.0, threshold=0.5, reset="soft", **o), liaf, 2.0),
    "ilif": (lambda **o: ILIF(0.25, most=3, threshold=0.5, **o), ilif, 1.0),
    "sigma-delta": (lambda **o: SigmaDelta(0.3, **o), sigma_delta, 1.0),
    "refractory": (
        lambda **o: Refractory(LIF(3.0, threshold=0.5), 3, **o), refractory, 2.0
    ),
    "recurrent": (
        lambda **o: Recurrent(LIF(2.0), Diagonal(4, weight=0.75), **o), recurrent, 2.0
    ),
}  # fmt: skip
BUILT = [name for name in ROWS if name != "recurrent"]


def currents(scale: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(40, 3, 4, generator=generator, dtype=torch.float64)
    return scale * (0.4 + 0.6 * noise)


def by_loop(loop: Loop, x: Tensor) -> Tensor:
    out = torch.empty_like(x)
    for b in range(x.shape[1]):
        for i in range(x.shape[2]):
            out[:, b, i] = torch.tensor(loop(x[:, b, i].tolist()), dtype=x.dtype)
    return out


@pytest.mark.parametrize("row", ROWS)
def test_a_neuron_is_its_definition(row: str) -> None:
    make, loop, scale = ROWS[row]
    x = currents(scale)
    expected = by_loop(loop, x)
    torch.testing.assert_close(make().double()(x), expected, rtol=1e-12, atol=1e-12)
    assert 0.01 < (expected != 0).double().mean() < 1
    assert len(expected.unique()) > 1


@pytest.mark.parametrize("row", BUILT)
def test_a_built_neuron_has_the_spikes_and_gradients_of_its_steps(row: str) -> None:
    make, _, scale = ROWS[row]
    x, g = currents(scale), currents(1.0, seed=1)
    found = []
    for backend in ("reference", "compiled"):
        neuron, given = make(backend=backend).double(), x.clone().requires_grad_()
        out, after = neuron.run(given)
        loss = (out * g).sum() + sum((each * g[0]).sum() for each in after)
        inputs = [given, *neuron.parameters()]
        found.append([out.detach(), *after, *torch.autograd.grad(loss, inputs)])
    assert torch.equal(found[0][0].round(decimals=9), found[1][0].round(decimals=9))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("row", ["eif", "izhikevich", "clif"])
def test_single_precision_flips_no_more_than_one_spike_in_a_hundred_thousand(row: str) -> None:
    make, _, scale = ROWS[row]
    generator = torch.Generator().manual_seed(3)
    x = scale * (0.4 + 0.6 * torch.randn(50, 4, 500, generator=generator))
    flipped = (make()(x) != make(backend="compiled")(x)).double().mean()
    assert flipped <= 1e-5


SMOOTH = [row for row in ROWS if row not in {"ilif", "refractory", "izhikevich"}]


@pytest.mark.parametrize("row", SMOOTH)
def test_the_smooth_neuron_has_the_gradient_of_finite_differences(row: str) -> None:
    make, _, scale = ROWS[row]
    if row == "recurrent":
        smooth = LIF(2.0, surrogate=Sigmoid(spiking=False))
        neuron: Neuron = Recurrent(smooth, Diagonal(4, weight=0.75)).double()
    else:
        neuron = make(surrogate=Sigmoid(spiking=False)).double()
    x = currents(scale)[:6, :1].clone().requires_grad_()
    assert torch.autograd.gradcheck(neuron, (x,))


@pytest.mark.parametrize("row", ROWS)
def test_chunks_in_sequence_are_the_whole_run(row: str) -> None:
    make, _, scale = ROWS[row]
    x = currents(scale)
    whole = make().double()(x)
    streaming = make(stateful=True).double()
    parts = torch.cat([streaming(part) for part in x.split([1, 7, 32])])
    assert torch.equal(parts, whole)


def test_what_is_built_and_what_is_not_is_told() -> None:
    net = nn.Sequential(learned := PLIF(), ALIF(), Recurrent(IF(), Diagonal(4)))
    chosen = build(net, torch.zeros(1, 1))
    assert (chosen["0"].backend, chosen["1"].backend) == ("compiled", "compiled")
    assert chosen["2"].backend == "reference"
    assert "mixes neurons" in chosen["2"].reason
    assert learned.explain(torch.zeros(2, 2)).backend == "compiled"


def test_a_step_that_is_no_elementwise_formula_stays_as_it_is_and_says_why() -> None:
    neuron = LIAF(activation=lambda h: h.cumsum(-1))
    choice = build(neuron, torch.zeros(1, 1))[""]
    assert choice.backend == "reference"
    assert "cumsum" in choice.reason
    assert neuron(torch.rand(4, 2, 3)).shape == (4, 2, 3)


def test_learned_constants_of_any_shape_that_broadcasts_get_their_gradient() -> None:
    x, g = currents(2.0), currents(1.0, seed=1)
    for shape in ((), (4,), (3, 1)):
        found = []
        for backend in ("reference", "compiled"):
            neuron = PLIF(3.0, shape=shape, backend=backend).double()
            (neuron(x) * g).sum().backward()
            found.append(neuron.w.grad)
        assert found[0] is not None
        assert found[0].shape == shape
        torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=1e-10)
        assert found[0].abs().sum() > 0


def test_gates_at_their_ends_make_the_neurons_that_they_are_between() -> None:
    x = currents(1.0)
    for gamma, reset in ((-99.0, "soft"), (99.0, "hard")):
        gated = GLIF(decay=0.75).double()
        gates = {"alpha": 99.0, "beta": -99.0, "gamma": gamma, "decay": math.log(3)}
        gated.load_state_dict({name: torch.tensor(v) for name, v in gates.items()}, strict=False)
        leaky = LIF(4.0, decay_input=False, reset=reset, reset_delay=True)  # type: ignore[arg-type]
        assert torch.equal(gated(x), leaky(x))
        assert 0.1 < leaky(x).mean() < 0.9


def test_short_term_plasticity_is_its_definition() -> None:
    spikes = (currents(1.0) > 0.5).double()
    synapse = TsodyksMarkram(0.3, tau_depression=9.0, tau_facilitation=4.0)
    expected = torch.empty_like(spikes)
    for b, i in torch.cartesian_prod(torch.arange(3), torch.arange(4)).tolist():
        u, x = 0.3, 1.0
        for t, s in enumerate(spikes[:, b, i].tolist()):
            raised = u + 0.3 * (1 - u) * s
            r = raised * x * s
            x = x - r + (1 - x) / 9
            u = raised + (0.3 - raised) / 4
            expected[t, b, i] = r
    torch.testing.assert_close(synapse(spikes), expected, rtol=1e-12, atol=1e-12)
    built = TsodyksMarkram(0.3, tau_depression=9.0, tau_facilitation=4.0, backend="compiled")
    torch.testing.assert_close(built(spikes), expected, rtol=1e-12, atol=1e-12)


def test_sigma_delta_follows_a_slow_signal_within_its_threshold() -> None:
    x = torch.linspace(0, 6, 200, dtype=torch.float64).sin().reshape(-1, 1, 1)
    followed = 0.1 * SigmaDelta(0.1)(x).cumsum(0)
    assert (followed - x).abs().max() <= 0.1


def test_no_two_spikes_are_closer_than_the_refractory_period() -> None:
    spikes = Refractory(IF(), 4)(torch.full((50, 2, 3), 2.0))
    assert spikes[:, 0, 0].nonzero().flatten().diff().unique().tolist() == [5]


def test_neurons_rest_after_negative_spikes_too() -> None:
    x = torch.tensor([-1.0, -2.0, 3.0, -4.0]).reshape(4, 1, 1).double()
    for backend in ("reference", "compiled"):
        resting = Refractory(SigmaDelta(0.5), 2, backend=backend)  # type: ignore[arg-type]
        assert resting(x).flatten().tolist() == [-1, 0, 0, -1]


FORGETFUL: dict[str, Callable[[], nn.Module]] = {
    "psn": lambda: PSN(4),
    "masked psn": lambda: MaskedPSN(4, order=2),
    "sliding psn": lambda: SlidingPSN(2),
    "sigma-delta": lambda: SigmaDelta(0.3),
    "klif": lambda: KLIF(2.0),
    "klif, built": lambda: KLIF(2.0, backend="compiled"),
    "delay": lambda: Delay(1),
    "refractory": lambda: Refractory(IF(), 3),
    "recurrent": lambda: Recurrent(SigmaDelta(0.3), Diagonal(5)),
    "within a step": lambda: SLTT(SigmaDelta(0.3)),
}


@pytest.mark.parametrize("row", FORGETFUL)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_currents_that_leave_no_trace_are_refused_even_so(row: str, value: float) -> None:
    x = torch.full((4, 2, 5), 2.0)
    neuron = FORGETFUL[row]()
    neuron(x)
    x[1, 1, 3] = value
    with pytest.raises(ValueError, match=rf"currents must be finite, got {value} at \(1, 1, 3\)"):
        neuron(x)


def test_all_to_all_and_local_recurrence_hear_the_spikes_of_the_step_before() -> None:
    x = torch.zeros(3, 1, 2)
    x[0, 0, 0] = 1.0
    crossed = nn.Linear(2, 2, bias=False)
    crossed.weight.data = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    assert Recurrent(IF(), crossed)(x)[:, 0].tolist() == [[1, 0], [0, 1], [1, 0]]
    image = torch.zeros(2, 1, 1, 3, 3)
    image[0, 0, 0, 1, 1] = 1.0
    local = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    local.weight.data.fill_(1.0)
    assert Recurrent(IF(), local)(image)[1].sum() == 9
    with pytest.raises(ValueError, match="keep the shape"):
        Recurrent(IF(), nn.Linear(2, 3))(x)


def test_delays_shift_every_input_by_its_own_steps_and_gradients_back() -> None:
    delays = torch.tensor([0, 3, 1])
    x = torch.randn(10, 2, 3, dtype=torch.float64, requires_grad=True)
    out = Delay(delays)(x)
    for i, d in enumerate(delays.tolist()):
        assert torch.equal(out[d:, :, i], x[: 10 - d, :, i])
        assert not out[:d, :, i].any()
    out.sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].sum(0).tolist() == [10, 7, 9]
    streaming = Delay(delays, stateful=True)
    parts = torch.cat([streaming(part) for part in x.detach().split([1, 2, 7])])
    assert torch.equal(parts, out)


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: PLIF(1.0), "tau must be greater than 1"),
        (lambda: ALIF(kappa=-1.0), "kappa must not be negative"),
        (lambda: CUBA(order="both"), "order must be"),  # type: ignore[arg-type]
        (lambda: GLIF(gamma=1.0), "gamma must be between 0 and 1"),
        (lambda: QIF(tau=0.0), "tau must be positive"),
        (lambda: Izhikevich(dt=2.0), "dt must be at most 1 ms"),
        (lambda: SRM(5.0, tau_synapse=5.0), "must differ from tau"),
        (lambda: LIAF(spike_out=True), "spike_out must be False"),
        (lambda: ILIF(most=0), "most must be at least 1"),
        (lambda: Refractory(IF(), -1), "period must not be negative"),
        (lambda: Refractory(IF(), 2.5), "period must be a whole number"),  # type: ignore[arg-type]
        (lambda: Delay(torch.tensor([-1])), "not negative"),
        (lambda: EIF(threshold=math.inf), "finite threshold"),
        (lambda: TsodyksMarkram(0.0), "utilization must be in"),
        (lambda: LIF(backend="eager", surrogate=ATan(), tau=math.nan), "tau must be"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


# torch's own tracing instantiates what torch deprecates
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.parametrize("make", [LIF, PLIF, lambda: LIF(spike_out=True)])
def test_a_compiled_graph_holds_the_neurons_whole_and_computes_the_same(make: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(make(), nn.Linear(7, 3))
    x = (torch.randn(5, 2, 7) * 2).requires_grad_()
    whole = torch.compile(net, backend="aot_eager", fullgraph=True)
    out = whole(x)
    torch.testing.assert_close(out, net(x))
    (found,) = torch.autograd.grad(out.sum(), x)
    (expected,) = torch.autograd.grad(net(x).sum(), x)
    torch.testing.assert_close(found, expected)
    assert expected.abs().sum() > 0
