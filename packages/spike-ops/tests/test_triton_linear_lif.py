import os

import pytest
import torch

triton = pytest.importorskip("triton", reason="triton is not installed")
if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("TRITON_INTERPRET=1 must be set before the kernels", allow_module_level=True)

from spike_ops import SpikeTensor, surrogate as kinds  # noqa: E402
from spike_ops._triton import _linear_lif_ops as ops  # noqa: E402
from spike_ops._triton._lif import lif  # noqa: E402
from spike_ops._triton._lif_ops import numbers_of  # noqa: E402
from spike_ops._triton._products import packed_mm  # noqa: E402
from spike_ops.functional import linear_lif  # noqa: E402
from spike_ops.functional._linear_lif import linear_lif_reference  # noqa: E402
from spike_ops.neuron import LIF  # noqa: E402

RESETS = [("none", False), ("soft", False), ("soft", True), ("hard", False), ("hard", True)]
# steps, samples, inputs, neurons: one, inside a tile, around it, several, none of each
SIZES = [
    (1, 1, 1, 1), (1, 5, 16, 8), (3, 2, 37, 9), (4, 3, 8, 16), (9, 17, 40, 24), (5, 18, 33, 67),
    (2, 0, 4, 8), (3, 2, 0, 8), (3, 2, 4, 0),
]  # fmt: skip


def neurons_of(reset="soft", detach=False, surrogate=None, **options):
    given = {"threshold": 0.5, "v_reset": -0.125, "v_leak": 0.25, "backend": "triton"}
    given |= {"surrogate": surrogate or kinds.ATan(), "detach_reset": detach, "reset": reset}
    return LIF(4.0, **(given | options))


def layer(size, *, packed, dtype=torch.float32, bias=True, rate=0.3):
    """Return inputs, weight and bias whose products add up without rounding."""
    steps, samples, inputs, outputs = size
    generator = torch.Generator().manual_seed(sum(size))
    x = (torch.rand(steps, samples, inputs, generator=generator) < rate).to(dtype)
    if not packed:
        x = torch.randint(-8, 9, x.shape, generator=generator).to(dtype) / 8
    weight, b = (
        (torch.randint(-16, 20, shape, generator=generator).to(dtype) / 16).requires_grad_()
        for shape in ((outputs, inputs), (outputs,))
    )
    x = (SpikeTensor.from_dense(x) if packed else x).requires_grad_()
    return x, weight, b if bias else None


def gradients(spikes, after, given):
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(t.shape, generator=generator).to(t.dtype) for t in (spikes, after)]
    loss = (spikes * weights[0]).sum() + (after * weights[1]).sum()
    return torch.autograd.grad(loss, given, allow_unused=True, materialize_grads=True)


def assert_is_reference(neurons, given):
    x, weight, bias = given
    kept = [each for each in given if each is not None]
    got, want = (
        run(x, weight, bias, neurons=neurons) for run in (linear_lif, linear_lif_reference)
    )
    assert torch.equal(got[0], want[0])
    assert torch.equal(got[1][0], want[1][0])
    pairs = zip(*(gradients(s, v, kept) for s, (v,) in (got, want)), strict=True)
    for one, other in pairs:
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=4e-6, atol=4e-6)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("packed", [True, False])
def test_spikes_states_and_gradients_are_those_of_the_two_layers(size, packed):
    assert_is_reference(neurons_of(), layer(size, packed=packed))


@pytest.mark.parametrize("reset, detach", RESETS)
@pytest.mark.parametrize("strict", [False, True])
def test_every_reset_is_that_of_the_two_layers(reset, detach, strict):
    neurons = neurons_of(reset, detach, strict=strict)
    assert_is_reference(neurons, layer((6, 3, 12, 16), packed=True))


@pytest.mark.parametrize("width", [16, 9])
@pytest.mark.parametrize("reset, detach", [r for r in RESETS if r != ("hard", False)])
def test_two_bits_are_enough_for_a_rectangular_surrogate(reset, detach, width):
    neurons = neurons_of(reset, detach, kinds.Rectangular(0.75))
    assert_is_reference(neurons, layer((6, 3, 12, width), packed=True))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_silence_and_spikes_everywhere_are_inputs_too(rate, bias):
    x, weight, bias = layer((5, 3, 12, 16), packed=True, bias=bias, rate=rate)
    assert_is_reference(neurons_of(), (x, weight, bias))


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("width", [16, 9])
def test_half_precision_computes_in_single(packed, width):
    neurons, given = neurons_of(), layer((6, 3, 12, width), packed=packed, dtype=torch.float16)
    wide = [each.detach().float() for each in given]
    spikes, (after,) = linear_lif(*given, neurons=neurons)
    want, (state,) = linear_lif_reference(*wide, neurons=neurons)
    assert spikes.dtype == after.dtype == torch.float16
    assert torch.equal(spikes.float(), want)
    assert torch.equal(after, state.half())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("packed", [True, False])
def test_sums_in_another_order_move_hardly_a_spike(dtype, packed):
    torch.manual_seed(0)
    x = (torch.rand(16, 32, 80) < 0.2).to(dtype)
    weight, bias = torch.randn(128, 80).to(dtype) / 4, torch.randn(128).to(dtype) / 4
    neurons = neurons_of("hard")
    spikes, _ = linear_lif(
        SpikeTensor.from_dense(x) if packed else x, weight, bias, neurons=neurons
    )
    want, _ = linear_lif_reference(x.double(), weight.double(), bias.double(), neurons=neurons)
    assert 0.05 < float(want.mean()) < 0.95
    assert float((spikes.double() != want).double().mean()) <= 1e-5


def test_in_the_order_of_the_packed_product_every_bit_is_the_same():
    torch.manual_seed(0)
    x = SpikeTensor.from_dense((torch.rand(8, 16, 80) < 0.2).float())
    weight = torch.randn(64, 80)
    neurons = neurons_of("soft")
    spikes, (after,) = linear_lif(x, weight, neurons=neurons)
    currents = packed_mm(x.packed, 128, weight.t()).view(8, 16, 64)
    start = neurons.initial(currents[0])[0]
    want, state = lif(currents, start, neurons.rule, kept="membrane", spike_out=False)
    assert torch.equal(spikes, want)
    assert torch.equal(after, state)


@pytest.mark.parametrize("width", [16, 9])
def test_spikes_may_stay_packed(width):
    given = layer((6, 3, 12, width), packed=True)
    spikes, (after,) = linear_lif(*given, neurons=neurons_of(spike_out=True))
    dense, (state,) = linear_lif(*given, neurons=neurons_of())
    assert isinstance(spikes, SpikeTensor)
    assert torch.equal(spikes.to_dense(), dense)
    assert torch.equal(after, state)
    for one, other in zip(
        gradients(spikes, after, given), gradients(dense, state, given), strict=True
    ):
        assert torch.equal(one, other)


def test_a_turned_matrix_of_spikes_and_a_turned_weight_are_read_where_they_are():
    x, weight, bias = layer((6, 1, 12, 16), packed=True)
    turned = SpikeTensor.from_dense(x.detach().to_dense()[:, 0].t().contiguous()).t()
    same = weight.detach().t().contiguous().t()
    spikes, _ = linear_lif(turned, same, bias, neurons=neurons_of())
    want, _ = linear_lif(x, weight, bias, neurons=neurons_of())
    assert torch.equal(spikes, want[:, 0])


def test_tiles_of_every_width_give_the_same_bits(monkeypatch):
    torch.manual_seed(0)
    x, weight = SpikeTensor.from_dense((torch.rand(5, 9, 40) < 0.3).float()), torch.randn(150, 40)
    runs = []
    for processors in (1, 4, 10**6):
        monkeypatch.setattr(ops, "processors", lambda _, count=processors: count)
        runs.append(linear_lif(x, weight, neurons=neurons_of())[0])
    assert torch.equal(runs[0], runs[1])
    assert torch.equal(runs[0], runs[2])


def test_the_time_may_be_cut_anywhere():
    x, weight, bias = layer((9, 3, 12, 16), packed=False)
    whole, (end,) = linear_lif(x, weight, bias, neurons=neurons_of())
    first, state = linear_lif(x[:5], weight, bias, neurons=neurons_of())
    second, (after,) = linear_lif(x[5:], weight, bias, neurons=neurons_of(), state=state)
    assert torch.equal(torch.cat([first, second]), whole)
    assert torch.equal(after, end)


def test_neurons_that_keep_their_state_go_on_from_it():
    x, weight, bias = layer((9, 3, 12, 16), packed=False)
    neurons = neurons_of(stateful=True)
    whole, _ = linear_lif(x, weight, bias, neurons=neurons_of())
    parts = [linear_lif(part, weight, bias, neurons=neurons)[0] for part in (x[:4], x[4:])]
    assert torch.equal(torch.cat(parts), whole)


def test_nothing_is_kept_where_no_gradient_is_wanted(monkeypatch):
    asked, forward = [], ops.linear_lif_forward
    monkeypatch.setattr(
        "spike_ops._triton._linear_lif.linear_lif_forward",
        lambda *a: asked.append(a[-3:]) or forward(*a),
    )
    given = layer((3, 2, 4, 8), packed=True)
    linear_lif(*given, neurons=neurons_of())
    with torch.no_grad():
        linear_lif(*given, neurons=neurons_of(spike_out=True))
    assert asked == [("membrane", True, False), ("nothing", False, True)]


def test_what_leaves_the_kernel_is_as_small_as_it_says():
    x, weight, bias = layer((6, 3, 12, 16), packed=True)
    given = numbers_of(neurons_of(surrogate=kinds.Rectangular()).rule)
    call = (x.packed, [12, 1], weight.detach().t(), bias.detach(), torch.zeros(3, 16), 6, *given)
    for kept, size in {"nothing": 0, "bits": 36, "bytes": 288, "membrane": 1152}.items():
        spikes, bits, saved, _ = ops.linear_lif_forward(*call, kept, False, True)
        assert (spikes.nbytes, bits.nbytes, saved.nbytes) == (0, 36, size)


@pytest.mark.parametrize("width", [16, 9])
@pytest.mark.parametrize("kept", ["membrane", "bits", "bytes", "nothing"])
@pytest.mark.parametrize("packed", [True, False])
def test_the_operator_tells_the_compiler_what_it_returns(width, kept, packed):
    x, weight, bias = (each.detach() for each in layer((3, 2, 12, width), packed=packed))
    given = numbers_of(neurons_of(surrogate=kinds.Rectangular()).rule)
    first, strides = (x.packed, [12, 1]) if packed else (x.reshape(6, 12), [])
    call = (first, strides, weight.t(), bias, torch.zeros(2, width), 3, *given, kept)
    checks = ["test_schema", "test_faketensor"]
    arguments = (*call, not packed, packed)
    torch.library.opcheck(ops.linear_lif_forward, arguments, test_utils=checks)


def test_what_the_kernel_cannot_do_is_refused():
    x, weight, bias = (each.detach() for each in layer((3, 2, 12, 8), packed=False))
    with pytest.raises(TypeError, match="triton has no kernel for torch.float64 here"):
        linear_lif(x.double(), weight.double(), neurons=neurons_of())
    with pytest.raises(ValueError, match="backend 'triton' has no kernel for a delayed"):
        linear_lif(x, weight, bias, neurons=neurons_of(reset_delay=True))
