"""Less memory over time: the same gradients where that is claimed, the definition's elsewhere."""

import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from spike_ops._produced import Packed, Produced
from spike_ops.memory import (
    OTTT,
    SLTT,
    CheckpointedTime,
    backward_in_parts,
    mark_spikes,
    packed_saved_tensors,
)
from spike_ops.neuron import (
    ALIF,
    IF,
    ILIF,
    LIF,
    PLIF,
    PSN,
    Diagonal,
    LIFNode,
    MaskedPSN,
    Neuron,
    Recurrent,
    Refractory,
    SlidingPSN,
)
from spike_ops.nn import (
    Conv2d,
    Linear,
    SparseSynapse,
    TemporalEffectiveBatchNorm,
    ThresholdBatchNorm,
    TimeBatchNorm,
)
from spike_ops.surrogate import Rectangular, Sigmoid


def net(*, seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, 16), LIF(3.0, reset="soft"), nn.Linear(16, 12), ALIF(3.0, threshold=0.2),
        nn.Linear(12, 4), PLIF(3.0, threshold=0.3),
    ).double()  # fmt: skip


def image_net() -> nn.Sequential:
    torch.manual_seed(0)

    class Steps(nn.Module):
        def __init__(self, layer: nn.Module) -> None:
            super().__init__()
            self.layer = layer

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x.flatten(0, 1)).unflatten(0, x.shape[:2])

    return nn.Sequential(
        Steps(nn.Conv2d(2, 6, 3, padding=1)), LIF(2.0, threshold=0.3),
        Steps(nn.Conv2d(6, 4, 3, padding=1)), LIF(2.0, threshold=0.3, reset="soft"),
        nn.Flatten(2), nn.Linear(4 * 36, 3),
    )  # fmt: skip


def inputs(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=dtype) * 2


def gradients(module: nn.Module, out: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(out.square().sum(), list(module.parameters())))


def equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    "make, x",
    [(net, inputs(7, 3, 8)), (image_net, inputs(4, 2, 2, 6, 6, dtype=torch.float32))],
    ids=["linear", "convolution"],
)
def test_gradients_through_packed_spikes_are_the_same_to_the_last_bit(
    make: Callable[[], nn.Module], x: Tensor
) -> None:
    module = make()
    plain = gradients(module, module(x))
    with packed_saved_tensors():
        out = module(x)
    assert equal(gradients(module, out), plain)
    assert all(each.abs().sum() > 0 for each in plain)


def held(module: nn.Module, x: Tensor) -> tuple[int, Tensor]:
    """Bytes of what is saved that are neither parameters nor the input; bits counted once."""
    left_out = {each.untyped_storage().data_ptr() for each in (*module.parameters(), x)}
    sizes: dict[int, int] = {}

    def note(saved: Any) -> Any:
        if isinstance(saved, Tensor) and saved.untyped_storage().data_ptr() not in left_out:
            sizes[saved.untyped_storage().data_ptr()] = saved.untyped_storage().nbytes()
        return saved

    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        out = module(x)
    return sum(sizes.values()), out


def test_a_linear_layer_saves_a_thirty_second_of_its_spikes_and_both_that_save_share_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Packed] = []
    start = Packed.__init__

    def counted(self: Packed, entry: Any, tensor: Tensor) -> None:
        start(self, entry, tensor)
        made.append(self)

    monkeypatch.setattr(Packed, "__init__", counted)
    spikes = LIF(2.0)
    first, second = nn.Linear(64, 8), nn.Linear(64, 8)
    with packed_saved_tensors():
        fired = spikes(torch.randn(4, 2, 64) * 3)
        out = first(fired) + second(fired)
    assert len(made) == 2
    assert made[0].bits is made[1].bits
    assert made[0].bits.nbytes == 4 * 2 * 64 * 4 // 32
    out.sum().backward()


def test_the_dense_spikes_are_freed() -> None:
    produced = Produced()
    layer = nn.Linear(64, 8)
    with packed_saved_tensors():
        fired = LIF(2.0)(torch.randn(4, 2, 64))
        produced.add(fired)
        out = layer(fired)
        (entry,) = produced._entries.values()
        assert not entry.reference.expired()
        del fired
    gc.collect()
    assert entry.reference.expired()
    out.sum().backward()


def test_spikes_that_were_written_into_are_no_longer_taken_for_spikes() -> None:
    layer = nn.Linear(8, 2)
    with packed_saved_tensors():
        fired = LIF(2.0, backend="eager")(inputs(3, 2, 8, dtype=torch.float32)).detach()
        fired.mul_(0.5)
        out = layer(fired)
    (found,) = torch.autograd.grad(out.sum(), layer.weight)
    torch.testing.assert_close(found[0], fired.sum((0, 1)))


def test_what_is_not_a_spike_is_saved_as_it_is() -> None:
    torch.manual_seed(0)
    counts, smooth = ILIF(most=4), LIF(surrogate=Sigmoid(spiking=False))
    layer = nn.Linear(8, 2)
    for neuron in (counts, smooth):
        x = inputs(3, 2, 8, dtype=torch.float32)
        (plain,) = torch.autograd.grad(layer(neuron(x)).sum(), layer.weight)
        with packed_saved_tensors():
            out = layer(neuron(x))
        (packed,) = torch.autograd.grad(out.sum(), layer.weight)
        assert torch.equal(packed, plain)
        assert ((neuron(x) != 0) & (neuron(x) != 1)).any()


def test_marked_spikes_are_packed_and_others_refused() -> None:
    encoded = (inputs(3, 2, 8) > 0).double()
    layer = nn.Linear(8, 2).double()
    with packed_saved_tensors():
        out = layer(mark_spikes(encoded))
    (found,) = torch.autograd.grad(out.sum(), layer.weight)
    assert torch.equal(found[0], encoded.sum((0, 1)))
    with pytest.raises(ValueError, match="must be 0 or 1"):
        mark_spikes(torch.tensor([0.5]))


@pytest.mark.parametrize("steps", [1, 3, 4, 11, 20])
def test_checkpointed_time_is_the_whole_run(steps: int) -> None:
    module, x = net(), inputs(11, 3, 8).requires_grad_()
    whole = module(x)
    inputs_and_weights = [x, *module.parameters()]
    expected = torch.autograd.grad(whole.square().sum(), inputs_and_weights)
    out = CheckpointedTime(module, steps=steps)(x)
    assert torch.equal(out, whole)
    found = torch.autograd.grad(out.square().sum(), inputs_and_weights)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_checkpointed_time_carries_the_states_of_neurons_within_neurons() -> None:
    recurrent = Recurrent(LIF(3.0, threshold=0.3), Diagonal(8, weight=0.5))
    module = nn.Sequential(recurrent, Refractory(IF(), 2)).double()
    x = inputs(13, 2, 8)
    assert torch.equal(CheckpointedTime(module, steps=4)(x), module(x))
    assert recurrent.state is None


class Shared(nn.Module):
    """One module of neurons at two places, [T, B, 6] to [T, B, 6]."""

    def __init__(self, neurons: Neuron) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.neurons = nn.Linear(6, 6), nn.Linear(6, 6), neurons
        self.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(self.second(self.neurons(self.first(x))))


@pytest.mark.parametrize("steps", [1, 3, 4])
def test_neurons_at_two_places_carry_a_state_for_each(steps: int) -> None:
    x = inputs(11, 3, 6)
    module = Shared(ALIF(3.0, threshold=0.2))
    whole = module(x)
    cut = CheckpointedTime(module, steps=steps)(x)
    assert torch.equal(cut, whole)
    assert 0.01 < whole.mean() < 0.99
    wanted = gradients(module, whole)
    for one, other in zip(gradients(module, cut), wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
    total = backward_in_parts(module, x, lambda out, span: out.sum(), steps=steps)
    assert total == whole.sum()


@pytest.mark.parametrize(
    "neuron, told",
    [
        (PSN(4), "PSN weighs all steps at once"),
        (MaskedPSN(4, order=2), "MaskedPSN weighs all steps at once"),
        (SlidingPSN(2), "SlidingPSN weighs the steps before"),
        (LIFNode(), "LIFNode is called step by step"),
    ],
)
def test_what_cannot_run_over_a_part_of_the_time_is_refused(neuron: nn.Module, told: str) -> None:
    module, x = nn.Sequential(nn.Linear(6, 6), neuron), torch.rand(8, 2, 6)
    with pytest.raises(ValueError, match=told):
        CheckpointedTime(module, steps=4)(x)
    with pytest.raises(ValueError, match=told):
        backward_in_parts(module, x, lambda out, span: out.sum(), steps=4)


def test_stateful_neurons_at_two_places_are_refused_where_time_is_cut() -> None:
    with pytest.raises(ValueError, match="is stateful and ran 2 times"):
        CheckpointedTime(Shared(LIF(stateful=True)), steps=4)(inputs(8, 2, 6))


def test_checkpointed_time_keeps_a_part_and_the_borders() -> None:
    x = inputs(64, 4, 32, dtype=torch.float32)
    module = nn.Sequential(nn.Linear(32, 32), LIF(2.0), nn.Linear(32, 32), LIF(2.0))
    whole, _ = held(module, x)
    parts, out = held(CheckpointedTime(module, steps=8), x)
    assert parts <= whole / 8
    out.sum().backward()


def test_batch_norm_in_training_is_refused_where_time_is_cut() -> None:
    module = nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(8), nn.Unflatten(0, (4, 2)), LIF())
    cut = CheckpointedTime(module, steps=4)
    with pytest.raises(ValueError, match="needs all steps at once"):
        cut(inputs(4, 2, 8, dtype=torch.float32))
    assert cut.eval()(inputs(4, 2, 8, dtype=torch.float32)).shape == (4, 2, 8)


def cut_by_hand(module: nn.Sequential, x: Tensor, steps: int, keep: list[bool]) -> list[Tensor]:
    """Gradients with the states of all neurons detached between the parts, by the definition."""
    states: list[Any] = [None] * len(module)
    total = x.new_zeros(())
    for place, part in enumerate(x.split(steps)):
        h = part
        for k, layer in enumerate(module):
            if isinstance(layer, Neuron):
                h, after = layer.run(h, states[k])
                states[k] = tuple(each.detach() for each in after)
            else:
                h = layer(h)
        total = total + h.square().sum() * keep[place]
    return list(torch.autograd.grad(total, list(module.parameters())))


@pytest.mark.parametrize("steps, keep", [(1, None), (3, None), (2, [1, 0, 1, 0, 0, 1])])
def test_gradients_in_parts_are_those_with_the_states_detached(steps: int, keep: Any) -> None:
    module, x = net(), inputs(11, 3, 8)
    told = [True] * -(-11 // steps) if keep is None else [bool(each) for each in keep]
    expected = cut_by_hand(module, x, steps, told)
    total = backward_in_parts(
        module, x, lambda out, span: out.square().sum(), steps=steps, keep=keep
    )
    for one, parameter in zip(expected, module.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, one, rtol=1e-12, atol=1e-12)
    assert total == pytest.approx(module(x).square().sum().item())


def test_one_part_is_backpropagation_through_time() -> None:
    module, x = net(), inputs(6, 2, 8)
    expected = gradients(module, module(x))
    backward_in_parts(module, x, lambda out, span: out.square().sum(), steps=6)
    assert equal([p.grad for p in module.parameters() if p.grad is not None], expected)


@pytest.mark.parametrize("backend", ["reference", "compiled"])
def test_spatial_learning_through_time_is_its_definition(backend: Any) -> None:
    """gx[t] = gs[t] σ'(h[t] - θ) g, nothing from later steps."""
    x, g = inputs(9, 2, 5).requires_grad_(), inputs(9, 2, 5)
    neuron = LIF(2.0, reset="soft", surrogate=Rectangular(2.0))
    (SLTT(neuron, backend=backend)(x) * g).sum().backward()
    v = torch.zeros(2, 5, dtype=torch.float64)
    for t in range(9):
        h = 0.5 * v + 0.5 * x[t].detach()
        assert x.grad is not None
        torch.testing.assert_close(x.grad[t], g[t] * ((h - 1).abs() < 1) / 2 * 0.5)
        v = h - (h >= 1).double()
    assert torch.equal(SLTT(neuron)(x), neuron(x))


@pytest.mark.parametrize("layer", [nn.Linear(5, 4), nn.Conv1d(2, 4, 3, padding=1)])
def test_online_training_through_time_is_its_definition(layer: Any) -> None:
    """dW = Σ_t (∂L/∂y[t]) â[t]ᵀ by a loop; inputs get their ordinary gradient."""
    layer = layer.double()
    shape = (7, 3, 5) if isinstance(layer, nn.Linear) else (7, 3, 2, 5)
    spikes = (inputs(*shape) > 0).double().requires_grad_()
    online = OTTT(layer, decay=0.5)
    out = online(spikes)
    assert torch.equal(out, layer(spikes.flatten(0, 1)).unflatten(0, (7, 3)))
    g = inputs(*out.shape)
    (out * g).sum().backward()
    trace, expected = torch.zeros_like(spikes[0]), torch.zeros_like(layer.weight)
    for t in range(7):
        trace = 0.5 * trace + spikes[t].detach()
        (one,) = torch.autograd.grad((layer(trace) * g[t]).sum(), layer.weight)
        expected = expected + one
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-12, atol=1e-12)
    other = spikes.detach().clone().requires_grad_()
    (layer(other.flatten(0, 1)).unflatten(0, (7, 3)) * g).sum().backward()
    torch.testing.assert_close(spikes.grad, other.grad, rtol=1e-12, atol=1e-12)


def test_online_training_in_parts_is_that_in_one() -> None:
    spikes, found = (inputs(8, 3, 5) > 0).double(), []
    for steps in (8, 3):
        torch.manual_seed(0)
        online = OTTT(nn.Linear(5, 4), decay=0.5, stateful=True)
        module = nn.Sequential(online, SLTT(LIF(2.0))).double()
        backward_in_parts(module, spikes, lambda out, span: out.square().sum(), steps=steps)
        found.append([p.grad for p in module.parameters()])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: CheckpointedTime(nn.Identity(), steps=0), "steps must be at least 1"),
        (lambda: OTTT(nn.Linear(2, 2), decay=1.5), "decay must be in"),
        (lambda: OTTT(nn.Linear(2, 2), decay=0.5)(torch.zeros(3, 2)), "inputs must be"),
        (
            lambda: backward_in_parts(
                IF(), torch.zeros(4, 1, 1), lambda o, s: o.sum(), keep=[True]
            ),
            "keep must have 4 entries",
        ),
    ],
)
def test_wrong_settings_are_refused(call: Callable[[], Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        call()


# norms over time, and layers that cannot learn by traces


def normed(norm: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 6), norm, LIF(2.0, threshold=0.2, reset="soft")).double()


OVER_TIME: dict[str, Callable[[], nn.Module]] = {
    "TimeBatchNorm": lambda: TimeBatchNorm(6),
    "ThresholdBatchNorm": lambda: ThresholdBatchNorm(6),
    "TemporalEffectiveBatchNorm": lambda: TemporalEffectiveBatchNorm(6, steps=4),
}


@pytest.mark.parametrize("row", OVER_TIME)
def test_a_norm_over_time_is_not_cut_in_training(row: str) -> None:
    part, x = normed(OVER_TIME[row]()), inputs(4, 3, 8)
    means = part[1].running_mean.clone()
    with pytest.raises(ValueError, match=f"{row} "):
        CheckpointedTime(part, steps=2)(x)
    with pytest.raises(ValueError, match=f"{row} "):
        backward_in_parts(part, x, lambda out, span: out.sum(), steps=2)
    assert torch.equal(part[1].running_mean, means)
    assert all(each.grad is None for each in part.parameters())


@pytest.mark.parametrize("row", ["TimeBatchNorm", "ThresholdBatchNorm"])
def test_a_norm_over_time_is_cut_where_that_changes_nothing(row: str) -> None:
    part, x = normed(OVER_TIME[row]()), inputs(4, 3, 8)
    wanted = gradients(part, part(x))
    backward_in_parts(part, x, lambda out, span: out.square().sum(), steps=4)  # one part
    assert equal([each.grad for each in part.parameters()], wanted)
    part.eval()
    wanted, cut = gradients(part, part(x)), CheckpointedTime(part, steps=2)
    assert torch.equal(cut(x), part(x))
    for got, want in zip(gradients(part, cut(x)), wanted, strict=True):
        torch.testing.assert_close(got, want)


def test_a_temporal_effective_norm_is_cut_in_no_mode() -> None:
    part = normed(OVER_TIME["TemporalEffectiveBatchNorm"]()).eval()
    with pytest.raises(ValueError, match="TemporalEffectiveBatchNorm weighs each step"):
        CheckpointedTime(part, steps=2)(inputs(4, 3, 8))


def test_a_norm_without_running_statistics_is_cut_in_no_mode() -> None:
    part = normed(nn.Identity())
    part[1] = nn.Sequential(nn.Flatten(0, 1), nn.BatchNorm1d(6, track_running_stats=False))
    with pytest.raises(ValueError, match="BatchNorm1d in training"):
        CheckpointedTime(part.eval(), steps=2)(inputs(4, 3, 8))


@pytest.mark.parametrize(
    "make, told",
    [
        (LIF, "layer must be linear, got LIF"),
        (lambda: nn.Sequential(nn.Linear(8, 4), PSN(4)), "layer must be linear, got PSN"),
        (nn.Flatten, "layer must have parameters to learn, got Flatten"),
        (lambda: Linear(8, 4, spike_in=True), "Linear takes spikes alone"),
        (lambda: Conv2d(8, 4, 3, spike_in=True), "Conv2d takes spikes alone"),
        (lambda: SparseSynapse(8, 4), "SparseSynapse takes spikes alone"),
    ],
)
def test_what_cannot_learn_by_traces_is_refused(make: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OTTT(make(), decay=0.5)


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda: OTTT(3, decay=0.5), "layer must be a torch.nn.Module, got int"),
        (lambda: OTTT(nn.Linear(8, 4), decay="1"), "decay must be a number"),
        (lambda: SLTT(nn.Linear(8, 4)), "neuron must be a spike_ops.neuron.Neuron, got Linear"),
        (lambda: CheckpointedTime(3, steps=2), "module must be a torch.nn.Module, got int"),
        (lambda: CheckpointedTime(LIF(), steps="2"), "steps must be a whole number"),
    ],
)
def test_arguments_of_another_kind_are_named(make: Any, told: str) -> None:
    with pytest.raises(TypeError, match=told):
        make()


def test_a_masked_linear_layer_learns_by_traces() -> None:
    mask = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.5
    layer, x = Linear(8, 4, mask=mask, dtype=torch.float64), (inputs(5, 2, 8) > 0).double()
    OTTT(layer, decay=0.5)(x).sum().backward()
    trace, wanted = torch.zeros(2, 8).double(), torch.zeros(8).double()
    for now in x:
        trace = 0.5 * trace + now
        wanted = wanted + trace.sum(0)
    torch.testing.assert_close(layer.weight.grad, wanted.expand(4, 8) * mask)
