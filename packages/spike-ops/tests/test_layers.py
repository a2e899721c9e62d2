import copy
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from spike_ops import Calibration, SpikeTensor, use_calibration
from spike_ops._synapses import Synapses, SynapseSums, synapse_reference
from spike_ops.nn import (
    BatchNorm2d,
    Conv1d,
    Conv2d,
    Conv3d,
    LayerNorm,
    Linear,
    SparseSynapse,
    Stepwise,
)
from spike_ops.structure import FixedInDegree, Structure


def spikes_of(*shape, density=0.3, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(shape, generator=generator) < density).to(dtype)


def by_columns(weight):
    return weight.t().is_contiguous() and not weight.is_contiguous()


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", ["spikes", "dense"])
def test_linear_is_torchs(kind, bias):
    ours = Linear(30, 8, bias, spike_in=True, dtype=torch.float64)
    torchs = nn.Linear(30, 8, bias, dtype=torch.float64)
    torchs.load_state_dict(ours.state_dict())
    dense = spikes_of(4, 3, 30, dtype=torch.float64)
    inputs = SpikeTensor.from_dense(dense) if kind == "spikes" else dense
    ours(inputs).square().sum().backward()
    torchs(dense).square().sum().backward()
    torch.testing.assert_close(ours(inputs), torchs(dense))
    for one, other in zip(ours.parameters(), torchs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


CHANGES = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda layer: pickle.loads(pickle.dumps(layer)),
    "double": lambda layer: copy.deepcopy(layer).double(),
    "bfloat16": lambda layer: copy.deepcopy(layer).to(torch.bfloat16),
    "to": lambda layer: copy.deepcopy(layer).to("cpu", torch.float64),
}


@pytest.mark.parametrize("name", CHANGES)
def test_weight_stays_column_by_column(name):
    layer = Linear(6, 5, spike_in=True)
    assert by_columns(layer.weight)
    changed = CHANGES[name](layer)
    assert by_columns(changed.weight)
    torch.testing.assert_close(changed.weight.float(), layer.weight, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("assign", [True, False])
def test_states_are_ordinary_and_loading_keeps_the_order(assign, tmp_path):
    layer, other = (Linear(6, 5, spike_in=True, mask=spikes_of(5, 6)) for _ in range(2))
    state = layer.state_dict()
    assert all(each.is_contiguous() for each in state.values())
    save_file(state, tmp_path / "layer.safetensors")
    other.load_state_dict(load_file(tmp_path / "layer.safetensors"), assign=assign)
    assert by_columns(other.weight)
    assert torch.equal(other.weight, layer.weight)
    plain = nn.Linear(6, 5)
    layer = Linear(6, 5, spike_in=True)
    layer.load_state_dict(plain.state_dict())
    assert torch.equal(layer.weight, plain.weight)


def test_training_moves_the_weight_and_not_its_order():
    layer = Linear(6, 5, spike_in=True)
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.1)
    before = layer.weight.detach().clone()
    layer(spikes_of(9, 6)).square().sum().backward()
    optimizer.step()
    assert by_columns(layer.weight)
    assert not torch.equal(layer.weight, before)


def test_without_spike_in_it_multiplies_anything():
    layer = Linear(6, 5)
    values = torch.randn(3, 6)
    assert torch.equal(layer(values), nn.functional.linear(values, layer.weight, layer.bias))
    layer.spike_in = True
    with pytest.raises(ValueError, match="spikes must be 0 or 1"):
        layer(values)


@pytest.mark.parametrize("spike_in", [True, False])
def test_masked_connections_do_not_exist(spike_in):
    mask = spikes_of(5, 6, density=0.5)
    layer = Linear(6, 5, spike_in=spike_in, mask=mask)
    assert torch.equal(layer.weight, layer.weight * mask)
    layer(spikes_of(9, 6, density=0.9)).square().sum().backward()
    assert torch.equal(layer.weight.grad, layer.weight.grad * mask)
    assert layer.weight.grad.count_nonzero() > 0
    with torch.no_grad():
        layer.weight.fill_(1)
    rows = nn.functional.linear(torch.ones(1, 6), mask, layer.bias)
    torch.testing.assert_close(layer(torch.ones(1, 6)), rows)


def test_update_adds_where_there_are_connections():  # the seed's had no mask to go by
    plain, mask = Linear(6, 5, spike_in=True), spikes_of(5, 6, density=0.5)
    before = plain.weight.detach().clone()
    plain.update(torch.ones(5, 6))
    assert torch.equal(plain.weight, before + 1)
    masked = Linear(6, 5, spike_in=True, mask=mask)
    before = masked.weight.detach().clone()
    masked.update(torch.ones(5, 6))
    assert torch.equal(masked.weight, before + mask)
    with pytest.raises(ValueError, match=r"dw must have the shape of the weight \(5, 6\)"):
        masked.update(torch.ones(6, 5))


def test_wrong_masks_are_refused():
    with pytest.raises(ValueError, match="mask must have the shape of the weight"):
        Linear(6, 5, mask=torch.ones(6, 5))
    with pytest.raises(ValueError, match="spikes must be 0 or 1|mask"):
        Linear(6, 5, mask=torch.full((5, 6), 0.5))


class Signed(Structure):
    def mask(self, out_features, in_features):
        return torch.ones(out_features, in_features, dtype=torch.bool)

    def signs(self, in_features):
        return torch.where(torch.arange(in_features) % 2 == 0, 1.0, -1.0)


def test_connections_of_every_kind():
    full = SparseSynapse(20, 10)
    assert full.mask is None
    assert full.density == 1
    some = SparseSynapse(20, 10, connection=spikes_of(10, 20))
    assert torch.equal(some.mask.float(), spikes_of(10, 20))
    drawn = SparseSynapse(200, 100, connection="random", probability=0.1)  # the seed's raised
    again = SparseSynapse(200, 100, connection="random", probability=0.1)
    other = SparseSynapse(200, 100, connection="random", probability=0.1, seed=1)
    assert drawn.density == pytest.approx(0.1, abs=0.01)
    assert torch.equal(drawn.mask, again.mask)
    assert not torch.equal(drawn.mask, other.mask)
    assert drawn.weight.is_floating_point()
    fixed = SparseSynapse(20, 10, connection=FixedInDegree(4))
    assert fixed.mask.sum(1).tolist() == [4] * 10
    signed = SparseSynapse(4, 3, connection=Signed())
    assert torch.equal(signed.weight.sign()[0], torch.tensor([1.0, -1.0, 1.0, -1.0]))


@pytest.mark.parametrize("density", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("probability", [0.0, 0.05, 1.0])
def test_single_synapses_give_the_masked_product_and_its_gradients(density, probability):
    mask = spikes_of(7, 9, density=probability, seed=1)
    dense, weight = spikes_of(5, 9, density=density, dtype=torch.float64), torch.randn(7, 9)
    outcomes = []
    for which in ("synapses", "reference"):
        leaves = [dense.clone().requires_grad_(), (weight * mask).double().requires_grad_()]
        spikes = SpikeTensor.from_dense(leaves[0])
        if which == "synapses":
            result = SynapseSums.apply(spikes, leaves[1], Synapses.of(mask))
        else:
            result = leaves[0] @ (leaves[1] * mask).t()
            assert torch.equal(synapse_reference(spikes, leaves[1], mask), result)
        result.square().sum().backward()
        outcomes.append([result.detach(), *[leaf.grad for leaf in leaves]])
    for got, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_few_synapses_are_added_one_by_one(monkeypatch):
    calls = []
    original = SynapseSums.forward
    monkeypatch.setattr(
        SynapseSums, "forward", staticmethod(lambda *a: calls.append(1) or original(*a))
    )
    spikes = SpikeTensor.from_dense(spikes_of(4, 16, 512, density=0.2))
    for probability, expected in ((0.001, 1), (0.9, 0)):
        calls.clear()
        layer = SparseSynapse(512, 512, connection="random", probability=probability)
        torch.testing.assert_close(
            layer(spikes),
            nn.functional.linear(spikes.to_dense(), layer.weight, layer.bias),
            rtol=1e-4,
            atol=1e-5,
        )
        assert len(calls) == expected


def test_rewired_and_loaded_masks_count():
    free = Calibration(synapse=0.0, event_call=0.0)
    layer, other = (
        SparseSynapse(6, 5, connection="random", probability=0.5, seed=seed) for seed in (0, 1)
    )
    with use_calibration(free):
        for change in (
            lambda: None,
            lambda: layer.rewire(spikes_of(5, 6, seed=5)),
            lambda: layer.load_state_dict(other.state_dict()),
        ):
            change()
            assert torch.equal(layer.weight, layer.weight * layer.mask)
            layer.update(torch.ones(5, 6))
            got = layer(torch.ones(2, 6))
            expected = nn.functional.linear(torch.ones(2, 6), layer.weight, layer.bias)
            torch.testing.assert_close(got, expected)


def test_masks_at_the_address_of_a_former_one_are_seen():
    layer = SparseSynapse(30, 20, connection="random", probability=0.1)
    with use_calibration(Calibration(synapse=0.0, event_call=0.0)):
        for seed in range(20):
            layer(torch.ones(1, 30))
            layer.rewire(spikes_of(20, 30, density=0.1, seed=seed))
            layer.rewire(spikes_of(20, 30, density=0.1, seed=100 + seed))
            layer.update(torch.ones(20, 30))
            expected = nn.functional.linear(torch.ones(1, 30), layer.weight, layer.bias)
            torch.testing.assert_close(layer(torch.ones(1, 30)), expected)


def test_copies_of_a_written_mask_see_what_is_written_next():
    layer = SparseSynapse(6, 5, connection="random", probability=0.5)
    with use_calibration(Calibration(synapse=0.0, event_call=0.0)):
        for seed in range(9):
            layer.mask.copy_(spikes_of(5, 6, seed=seed))
        layer(torch.ones(1, 6))
        copied = copy.deepcopy(layer)
        while copied.mask._version < layer.mask._version:
            copied.mask.zero_()
        assert torch.equal(copied(torch.ones(1, 6)), copied.bias.expand(1, 5))


def test_synapses_that_do_not_exist_pass_no_gradient_to_spikes():
    layer = SparseSynapse(6, 5, connection=spikes_of(5, 6, density=0.5))
    grads = []
    with torch.no_grad():
        layer.weight.fill_(1)
    for synapse in (0.0, 1e9):
        leaf = torch.ones(2, 6, requires_grad=True)
        with use_calibration(Calibration(synapse=synapse, event_call=0.0)):
            layer(SpikeTensor.from_dense(leaf)).sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads)
    assert torch.equal(grads[0], layer.mask.float().sum(0).expand(2, 6))


def test_synapses_survive_copies():
    layer = SparseSynapse(60, 50, connection="random", probability=0.02)
    spikes = spikes_of(3, 60)
    expected = layer(spikes)
    for change in ("deepcopy", "pickle"):
        assert torch.equal(CHANGES[change](layer)(spikes), expected)


def test_wrong_connections_are_named():
    with pytest.raises(ValueError, match="connection by name must be \"random\", got 'all'"):
        SparseSynapse(3, 2, connection="all")
    with pytest.raises(TypeError, match="connection must be None, a tensor"):
        SparseSynapse(3, 2, connection=0.5)
    for wrong in (
        lambda array: Linear(3, 3, mask=array),
        lambda array: Linear(3, 3).update(array),
        lambda array: SparseSynapse(3, 3, connection="random").rewire(array),
    ):
        with pytest.raises(TypeError, match=r"(mask|dw) must be a torch.Tensor, got ndarray"):
            wrong(np.eye(3))
    with pytest.raises(ValueError, match=r"probability must be in \[0, 1\], got 2"):
        SparseSynapse(3, 2, connection="random", probability=2)


CONVS = [
    (Conv1d, nn.Conv1d, (9,)), (Conv2d, nn.Conv2d, (9, 7)), (Conv3d, nn.Conv3d, (5, 6, 7))
]  # fmt: skip


@pytest.mark.parametrize("ours, torchs, sides", CONVS)
@pytest.mark.parametrize("spike_in", [True, False])
def test_convolutions_are_torchs_with_time(ours, torchs, sides, spike_in):
    options = {"stride": 2, "padding": 1, "groups": 2, "dtype": torch.float64}
    layer, other = ours(4, 6, 3, spike_in=spike_in, **options), torchs(4, 6, 3, **options)
    other.load_state_dict(layer.state_dict())
    dense = spikes_of(3, 2, 4, *sides, dtype=torch.float64)
    expected = torch.stack([other(step) for step in dense])
    torch.testing.assert_close(layer(dense), expected)
    torch.testing.assert_close(layer(dense[None])[0], expected)
    torch.testing.assert_close(layer(SpikeTensor.from_dense(dense)), expected)
    torch.testing.assert_close(layer(SpikeTensor.from_dense(dense[0])), expected[0])
    torch.testing.assert_close(layer(dense[0, 0]), expected[0, 0])
    assert ("spike_in=True" in repr(layer)) == spike_in


@pytest.mark.parametrize(
    "layer",
    [nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.Sequential(nn.Conv2d(2, 3, 3), nn.AvgPool2d(2))],
)
@pytest.mark.parametrize("kind", [torch.Tensor.clone, SpikeTensor.from_dense])
def test_layers_for_batches_take_time_step_by_step(layer, kind):
    dense = spikes_of(4, 3, 2, 8, 6)
    expected = torch.stack([layer(step) for step in dense])
    torch.testing.assert_close(Stepwise(layer)(kind(dense)), expected)


def test_what_is_no_layer_for_batches_is_refused():
    with pytest.raises(TypeError, match=r"layer must be a module, as nn.AvgPool2d\(2\), got"):
        Stepwise(nn.AvgPool2d)
    with pytest.raises(ValueError, match=r"input must be \[T, B, ...\], got \(3,\)"):
        Stepwise(nn.Identity())(torch.ones(3))


def test_convolutions_of_spikes_pad_with_zeros():
    with pytest.raises(ValueError, match='padding_mode must be "zeros" with spike_in'):
        Conv2d(1, 1, 3, padding_mode="reflect", spike_in=True)


def test_batch_norm_is_per_channel_over_time_and_batch():  # the seed's was along the last axis
    layer = BatchNorm2d(3, momentum=0.25)
    currents = torch.randn(4, 5, 3, 6, 7) * 3 + 2
    normal = layer(currents)
    torch.testing.assert_close(normal.mean((0, 1, 3, 4)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(normal.var((0, 1, 3, 4), correction=0), torch.ones(3))
    torch.testing.assert_close(layer.running_mean, 0.25 * currents.mean((0, 1, 3, 4)))
    assert not layer.running_mean.requires_grad
    assert layer(currents[0]).shape == (5, 3, 6, 7)
    with pytest.raises(ValueError, match=r"input must be \[T, B, C, H, W\]"):
        layer(currents[0, 0])


def test_layer_norm_is_over_features():
    values = torch.randn(3, 4, 8)
    torch.testing.assert_close(LayerNorm(8)(values), nn.functional.layer_norm(values, (8,)))
    assert LayerNorm(8, eps=0.1).eps == 0.1
