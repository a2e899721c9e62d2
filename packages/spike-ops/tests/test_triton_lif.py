import os
from dataclasses import dataclass

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

import triton.language as tl  # noqa: E402

from spike_ops import SpikeTensor, surrogate as kinds  # noqa: E402
from spike_ops._triton import _lif_ops as ops, _surrogates  # noqa: E402
from spike_ops._triton._lif import lif  # noqa: E402
from spike_ops.neuron._lif_rule import LifRule  # noqa: E402
from spike_ops.surrogate import Surrogate  # noqa: E402

RESETS = [("none", False), ("soft", False), ("soft", True), ("hard", False), ("hard", True)]
ATAN = kinds.ATan()
SURROGATES = [
    kinds.Sigmoid(3.0),
    kinds.ATan(1.5),
    kinds.Rectangular(0.75),
    kinds.Triangle(0.75, 0.5),
    kinds.PiecewiseQuadratic(1.25),
    kinds.LeakyRectangular(0.5, 1.5, 0.125),
    kinds.StraightThrough(),
    kinds.LeakySpike(0.25),
    kinds.SparseFastSigmoid(3.0, 0.5),
    kinds.FastSigmoid(4.0),
    kinds.Gaussian(0.6),
    kinds.MultiGaussian(0.6, 0.2),
    kinds.PiecewiseExponential(1.5),
    kinds.SoftSign(1.5),
]
ONE = 8 * ops.BYTES[4]  # neurons of a program
# none, one, whole bytes, bytes that reach over two steps, several programs
SHAPES = [(3, 0), (0, 5), (1, 1), (6, 8), (5, 37), (3, ONE + 16), (2, 2 * ONE + 3)]


@dataclass(frozen=True)
class Rounded(Surrogate):
    """The derivative of another surrogate as a byte holds it."""

    exact: Surrogate

    def derivative(self, u):
        peak = self.exact.peak
        return (self.exact.derivative(u) * (255 / peak)).round().clamp(0, 255) * (peak / 255)

    def primitive(self, u):
        raise NotImplementedError


def rule_of(reset="hard", detach=False, surrogate=ATAN, strict=False, **options):
    given = {"beta": 0.75, "gain": 0.5, "offset": 0.0625, "threshold": 0.5, "v_reset": -0.125}
    given |= {"reset": reset, "detach_reset": detach, "strict": strict, "surrogate": surrogate}
    return LifRule(**(given | options))


def currents(shape, dtype=torch.float32):
    """Return currents that are sums of few powers of two: ties at the threshold are frequent."""
    generator = torch.Generator().manual_seed(sum(shape))
    x = torch.randint(-16, 40, shape, generator=generator).to(dtype) / 16
    v = torch.randint(-8, 8, shape[1:], generator=generator).to(dtype) / 16
    return x.requires_grad_(), v.requires_grad_()


def by_steps(x, v, rule):
    spikes = []
    for current in x:
        s, v = rule.step(current, v)
        spikes.append(s)
    return (torch.stack(spikes) if spikes else torch.zeros_like(x)), v


def gradients(spikes, after, x, v):
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in (spikes, after)]
    loss = (spikes * weights[0]).sum() + (after * weights[1]).sum()
    return torch.autograd.grad(loss, (x, v), allow_unused=True, materialize_grads=True)


def assert_is_reference(rule, shape, kept="membrane", reference=None):
    x, v = currents(shape)
    want = by_steps(x, v, reference or rule)
    got = lif(x, v, rule, kept=kept, spike_out=False)
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1], want[1])
    for one, other in zip(gradients(*got, x, v), gradients(*want, x, v), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("strict", [False, True])
def test_spikes_states_and_gradients_are_those_of_the_steps(shape, strict):
    assert_is_reference(rule_of(strict=strict), shape)


@pytest.mark.parametrize("reset, detach", RESETS)
@pytest.mark.parametrize("strict", [False, True])
def test_every_reset_is_that_of_the_steps(reset, detach, strict):
    assert_is_reference(rule_of(reset, detach, strict=strict), (9, 11))


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_every_surrogate_has_its_gradient(surrogate):
    assert_is_reference(rule_of("soft", surrogate=surrogate), (6, 9))


@pytest.mark.parametrize("surrogate", SURROGATES, ids=lambda s: type(s).__name__)
def test_every_surrogate_has_its_derivative(surrogate):
    u = torch.cat([torch.linspace(-2, 2, 254), torch.tensor([-200.0, 200.0])])
    number, constants = _surrogates.row_of(surrogate)
    got = torch.empty_like(u)
    slope_kernel[(1,)](u, got, *constants, SURROGATE=number, SIZE=256)
    torch.testing.assert_close(got, surrogate.derivative(u), rtol=2e-6, atol=1e-7)


@triton.jit
def slope_kernel(U, Y, a, b, c, SURROGATE: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(Y + at, _surrogates.slope_at(tl.load(U + at), a, b, c, SURROGATE))


def test_every_surrogate_of_the_package_has_a_kernel():
    classes = {getattr(kinds, name) for name in kinds.__all__}
    known = {c for c in classes if isinstance(c, type)} - {Surrogate}
    assert known == set(_surrogates.SETTINGS) == {type(s) for s in SURROGATES}


@pytest.mark.parametrize("reset, detach", [r for r in RESETS if r != ("hard", False)])
@pytest.mark.parametrize("shape", [(5, 16), (5, 13)], ids=str)
def test_two_bits_are_enough_for_a_rectangular_surrogate(reset, detach, shape):
    rule = rule_of(reset, detach, kinds.Rectangular(0.75))
    assert_is_reference(rule, shape, "bits")
    x, v = currents(shape)
    wide, bits = (
        gradients(*lif(x, v, rule, kept=kept, spike_out=False), x, v)
        for kept in ("membrane", "bits")
    )
    for one, other in zip(wide, bits, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("reset, detach", [r for r in RESETS if r != ("hard", False)])
@pytest.mark.parametrize("surrogate", [kinds.Triangle(), kinds.Sigmoid()], ids=repr)
def test_bytes_hold_the_derivative_in_255_levels(reset, detach, surrogate):
    rule = rule_of(reset, detach, surrogate)
    rounded = rule_of(reset, detach, Rounded(surrogate))
    assert_is_reference(rule, (5, 13), "bytes", rounded)


def test_what_is_kept_is_as_small_as_it_says():
    x, v = (t.detach() for t in currents((6, 16)))
    given = ops.numbers_of(rule_of("soft", surrogate=kinds.Rectangular()))
    sizes = {"nothing": 0, "bits": 12, "bytes": 96, "membrane": 384}
    for kept, size in sizes.items():
        _, bits, saved, _ = ops.lif_forward(x, v, *given, kept, True, True)
        assert bits.nbytes == 12
        assert saved.nbytes == size


@pytest.mark.parametrize("kept", ["membrane", "bytes"])
def test_half_precision_computes_in_single(kept):
    rule = rule_of("soft", surrogate=kinds.Sigmoid())
    x, v = currents((7, 8 * ops.BYTES[2] + 5), torch.float16)
    wide = [t.detach().float().requires_grad_() for t in (x, v)]
    got = lif(x, v, rule, kept=kept, spike_out=False)
    want = by_steps(*wide, rule)
    assert got[0].dtype == got[1].dtype == torch.float16
    assert torch.equal(got[0].float(), want[0])
    assert torch.equal(got[1], want[1].half())
    bound = {"membrane": 4e-3, "bytes": 2e-2}[kept]
    for one, other in zip(gradients(*got, x, v), gradients(*want, *wide), strict=True):
        torch.testing.assert_close(one.float(), other, rtol=bound, atol=bound)


@pytest.mark.parametrize("shape", [(5, 2, 8), (5, 3, 7)], ids=str)
@pytest.mark.parametrize("kept", ["membrane", "bytes"])
def test_spikes_may_stay_packed(shape, kept):
    rule = rule_of("soft")
    x, v = currents(shape)
    spikes, after = lif(x, v, rule, kept=kept, spike_out=True)
    dense, state = lif(x, v, rule, kept=kept, spike_out=False)
    assert isinstance(spikes, SpikeTensor)
    assert torch.equal(spikes.to_dense(), dense)
    assert torch.equal(after, state)
    assert 0 < float(dense.detach().mean()) < 1
    weights = torch.randn(shape)
    packed, plain = (
        torch.autograd.grad((s * weights).sum(), x, retain_graph=True)[0] for s in (spikes, dense)
    )
    assert torch.equal(packed, plain)


def test_nothing_is_kept_where_no_gradient_is_wanted(monkeypatch):
    asked, forward = [], ops.lif_forward
    monkeypatch.setattr(
        "spike_ops._triton._lif.lif_forward", lambda *a: asked.append(a[4]) or forward(*a)
    )
    x, v = currents((3, 8))
    lif(x.detach(), v.detach(), rule_of(), kept="membrane", spike_out=False)
    with torch.no_grad():
        lif(x, v, rule_of(), kept="membrane", spike_out=False)
    lif(x, v, rule_of(), kept="membrane", spike_out=False)
    assert asked == ["nothing", "nothing", "membrane"]


@pytest.mark.parametrize("shape", [(3, 16), (3, 5)], ids=str)
@pytest.mark.parametrize("kept", ["membrane", "bits", "bytes", "nothing"])
@pytest.mark.parametrize("dense, packed", [(True, False), (False, True)])
def test_the_operators_tell_the_compiler_what_they_return(shape, kept, dense, packed):
    x, v = (t.detach() for t in currents(shape))
    given = ops.numbers_of(rule_of("soft", surrogate=kinds.Rectangular()))
    checks = ["test_schema", "test_faketensor"]
    torch.library.opcheck(ops.lif_forward, (x, v, *given, kept, dense, packed), test_utils=checks)
    _, bits, saved, _ = ops.lif_forward(x, v, *given, kept, dense, True)
    if kept != "nothing":
        arguments = (x, v, bits, saved, *given, kept)
        torch.library.opcheck(ops.lif_backward, arguments, test_utils=checks)


def test_what_the_kernels_cannot_do_is_refused():
    x, v = (t.detach() for t in currents((3, 4)))
    with pytest.raises(ValueError, match="triton has no kernel for reset_delay"):
        lif(x, v, rule_of(reset_delay=True), kept="membrane", spike_out=False)
    rule = rule_of(surrogate=Rounded(ATAN))
    with pytest.raises(TypeError, match="triton has no kernel for the surrogate Rounded"):
        lif(x, v, rule, kept="membrane", spike_out=False)
    with pytest.raises(TypeError, match="triton has no kernel for torch.float64 here"):
        lif(x.double(), v.double(), rule_of(), kept="membrane", spike_out=False)


@pytest.mark.parametrize(
    "kept, options, message",
    [
        ("nothing", {}, "kept must be membrane, bits or bytes, got 'nothing'"),
        ("bytes", {}, "kept must be membrane for a hard reset with gradient, got 'bytes'"),
        ("bits", {"reset": "soft"}, "kept='bits' needs a rectangular surrogate, got ATan"),
        (
            "bytes",
            {"reset": "soft", "surrogate": kinds.MultiGaussian()},
            "kept='bytes' needs a derivative of one sign, got MultiGaussian",
        ),
    ],
)
def test_what_is_kept_must_be_enough_for_the_backward_pass(kept, options, message):
    x, v = currents((3, 4))
    with pytest.raises(ValueError, match=message):
        lif(x, v, rule_of(**options), kept=kept, spike_out=False)
