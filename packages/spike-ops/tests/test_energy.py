import itertools

import pytest
import torch
from hypothesis import given, strategies as st
from torch import nn

from spike_ops import SpikeTensor, energy, functional, nn as spike_nn
from spike_ops.energy import LayerOperations, OperationCounts, count_operations
from spike_ops.memory import OTTT, CheckpointedTime
from spike_ops.monitor import Monitor
from spike_ops.neuron import IF, LIF, PLIF, PSN, SRM, Delay, Recurrent, Refractory, SlidingPSN


def sparse(seed, *shape, share=0.5):
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(*shape, generator=generator) < share
    return torch.randn(*shape, generator=generator) * kept


def with_sparse_weights(layer, seed=0):
    with torch.no_grad():
        layer.weight.copy_(sparse(seed, *layer.weight.shape, share=0.7))
        layer.bias.fill_(0.5)
    return layer


def products_by_hand(layer, x):
    """Count each multiplication of a convolution, one by one: effective and dense."""
    effective = dense = 0
    rank = x.ndim - 2
    c_out, per_group = layer.weight.shape[:2]
    padding = layer.padding if isinstance(layer.padding, tuple) else (layer.padding,) * rank
    sizes = [
        (x.shape[2 + d] + 2 * padding[d] - layer.dilation[d] * (layer.kernel_size[d] - 1) - 1)
        // layer.stride[d] + 1
        for d in range(rank)
    ]  # fmt: skip
    for sample, o in itertools.product(range(len(x)), range(c_out)):
        first = o // (c_out // layer.groups) * per_group
        for place in itertools.product(*(range(size) for size in sizes)):
            for c, tap in itertools.product(
                range(per_group), itertools.product(*(range(k) for k in layer.kernel_size))
            ):
                at = [
                    place[d] * layer.stride[d] - padding[d] + tap[d] * layer.dilation[d]
                    for d in range(rank)
                ]
                if any(not 0 <= at[d] < x.shape[2 + d] for d in range(rank)):
                    continue
                dense += 1
                value = x[(sample, first + c, *at)]
                effective += bool(value != 0 and layer.weight[(o, c, *tap)] != 0)
    return effective, dense


CONVOLUTIONS = [
    (nn.Conv1d, {"kernel_size": 3}, (2, 4, 9)),
    (nn.Conv1d, {"kernel_size": 4, "stride": 3, "padding": 2}, (1, 4, 10)),
    (nn.Conv2d, {"kernel_size": 3}, (2, 4, 5, 6)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 1}, (1, 4, 5, 6)),
    (nn.Conv2d, {"kernel_size": (2, 3), "stride": (2, 1), "padding": (0, 2)}, (1, 4, 6, 5)),
    (nn.Conv2d, {"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2}, (2, 4, 7, 5)),
    (nn.Conv2d, {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 4}, (1, 4, 6, 6)),
    (nn.Conv3d, {"kernel_size": 2, "stride": (1, 2, 1), "padding": 1}, (1, 4, 3, 4, 3)),
]


@pytest.mark.parametrize("kind, settings, shape", CONVOLUTIONS)
@pytest.mark.parametrize("spiking", [False, True])
def test_operations_of_convolutions_are_counted_one_by_one(kind, settings, shape, spiking):
    layer = with_sparse_weights(kind(4, 8, **settings))
    x = sparse(1, *shape)
    x = (x != 0).float() if spiking else x
    effective, dense = products_by_hand(layer, x)
    counts = count_operations(layer, x, batch_axis=0)
    assert 0 < effective < dense
    macs, acs = (0, effective) if spiking else (effective, 0)
    assert counts.layers == {"": LayerOperations(macs, acs, dense)}
    assert counts.effective_macs == macs / len(x)
    assert counts.effective_acs == acs / len(x)
    assert counts.dense == dense / len(x)
    assert counts.synops == effective / len(x)


@pytest.mark.parametrize("mode", ["circular", "reflect", "replicate"])
def test_pixels_that_padding_repeats_count_as_often_as_they_are_used(mode):
    layer = with_sparse_weights(nn.Conv2d(4, 6, 3, padding=1, padding_mode=mode))
    x = sparse(1, 2, 4, 5, 5)
    padded = nn.functional.pad(x, (1, 1, 1, 1), mode=mode)
    plain = nn.Conv2d(4, 6, 3)
    plain.load_state_dict(layer.state_dict())
    counts = count_operations(layer, x, batch_axis=0)
    assert counts.layers[""].macs == products_by_hand(plain, padded)[0]


@pytest.mark.parametrize("shape", [(7,), (3, 7), (4, 2, 7), (2, 3, 2, 7)])
def test_operations_of_linear_layers_are_counted_one_by_one(shape):
    layer = with_sparse_weights(nn.Linear(7, 5))
    x = sparse(2, *shape)
    effective = sum(
        bool(row[k] != 0 and layer.weight[o, k] != 0)
        for row in x.reshape(-1, 7) for o in range(5) for k in range(7)
    )  # fmt: skip
    counts = count_operations(layer, x, batch_axis=0)
    assert counts.layers[""] == LayerOperations(effective, 0, x.numel() * 5)


@given(values=st.lists(st.sampled_from([0.0, 1.0, -1.0, 0.5, 2.0]), min_size=3, max_size=3))
def test_only_minus_one_zero_and_one_are_accumulated(values):
    layer = nn.Linear(3, 2)
    counts = count_operations(layer, torch.tensor([[values]]))
    spikes = set(values) <= {0.0, 1.0, -1.0}
    done = 2 * sum(value != 0 for value in values)
    expected = LayerOperations(0, done, 6) if spikes else LayerOperations(done, 0, 6)
    assert counts.layers[""] == expected


def test_packed_spikes_count_like_dense_ones():
    dense = (torch.rand(4, 3, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    layer = with_sparse_weights(nn.Linear(6, 5))
    packed = SpikeTensor.from_dense(dense)
    assert count_operations(layer, packed) == count_operations(layer, dense)
    pictures = (torch.rand(4, 2, 6, 6) < 0.3).float()
    conv = with_sparse_weights(nn.Conv2d(2, 3, 3, padding=1))
    packed = SpikeTensor.from_dense(pictures)
    ours = count_operations(conv, packed, batch_axis=0)
    assert ours == count_operations(conv, pictures, batch_axis=0)
    assert ours.effective_acs > 0


class Pictures(nn.Module):
    """A convolution over time, neurons, and a readout."""

    def __init__(self):
        super().__init__()
        self.conv, self.fire = nn.Conv2d(2, 3, 3, padding=1), LIF(spike_out=True)
        self.norm, self.read = nn.BatchNorm2d(3), nn.Linear(48, 4)

    def forward(self, x):
        currents = self.norm(self.conv(x.flatten(0, 1))).unflatten(0, x.shape[:2])
        return self.read(self.fire(4 * currents).flatten(2))


def test_a_network_is_counted_layer_by_layer_and_per_sample():
    torch.manual_seed(0)
    net = Pictures()
    inputs = []
    net.read.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    batches = [torch.randn(5, 3, 2, 4, 4), torch.randn(5, 2, 2, 4, 4)]
    counts = count_operations(net, batches)
    assert counts.samples == 5
    spikes = sum(int((x != 0).sum()) for x in inputs)
    assert 0 < spikes < 5 * 25 * 48
    assert counts.layers["read"] == LayerOperations(0, 4 * spikes, 4 * 25 * 48)
    assert counts.layers["conv"].macs == counts.layers["conv"].dense
    assert counts.synops == counts.effective_acs + counts.effective_macs
    assert counts.effective_acs == 4 * spikes / 5
    assert counts.uncounted == ("norm",)
    assert counts.activation_sparsity == pytest.approx(1 - spikes / (25 * 48))
    assert counts.activation_sparsity_by_layer == {"fire": counts.activation_sparsity}


def test_counting_leaves_the_network_as_it_was():
    net = Pictures().train()
    net.fire.eval()
    modes = [module.training for module in net.modules()]
    means = net.norm.running_mean.clone()
    count_operations(net, torch.randn(2, 3, 2, 4, 4))
    assert [module.training for module in net.modules()] == modes
    assert torch.equal(net.norm.running_mean, means)
    with pytest.raises(RuntimeError):
        count_operations(net, torch.randn(2, 3, 7, 4, 4))
    assert [module.training for module in net.modules()] == modes
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())


def test_sparsity_of_relu_is_told_beside_that_of_spikes():
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), IF())
    x = torch.randn(5, 2, 4)
    hidden = net[1](net[0](x))
    spikes = net[3](net[2](hidden))
    counts = count_operations(net, x)
    zeros = int((hidden == 0).sum()), int((spikes == 0).sum())
    assert counts.activation_sparsity_by_layer == {"1": zeros[0] / 60, "3": zeros[1] / 30}
    assert counts.activation_sparsity == pytest.approx(sum(zeros) / 90)


def test_weights_that_change_between_batches_are_looked_at_again():
    layer = nn.Linear(3, 3)
    nn.init.ones_(layer.weight)

    def batches():
        yield torch.ones(1, 1, 3)
        with torch.no_grad():
            layer.weight.zero_()
        yield torch.ones(1, 1, 3)

    assert count_operations(layer, batches()).layers[""] == LayerOperations(0, 9, 18)


def test_membrane_updates_are_the_steps_in_which_something_moved():
    neuron = LIF(tau=2.0, reset="soft")
    net = nn.Sequential(neuron)
    currents = torch.randn(6, 2, 3) * (torch.rand(6, 2, 3) < 0.4)
    state, updates = neuron.initial(currents[0]), 6
    for step, current in enumerate(currents):
        before = state[0]
        _, state = neuron.step(current, state)
        updates += int((state[0] != before).sum()) if step else 0
    counts = count_operations(net, currents, membranes=True)
    assert counts.updates == {"0": updates}
    assert counts.membrane_updates == updates / 2
    assert count_operations(net, currents).membrane_updates == 0


def test_membranes_that_stream_go_on_from_where_they_were():
    neuron = IF(stateful=True, threshold=100.0)
    neuron(torch.ones(1, 1, 1))
    counts = count_operations(nn.Sequential(neuron), torch.zeros(4, 1, 1), membranes=True)
    assert counts.updates == {"0": 1}
    assert neuron.state[0].item() == 1.0


class Masked(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.mask = nn.Parameter(torch.ones(4, 3)), torch.eye(4, 3)

    def forward(self, x):
        return x @ (self.weight * self.mask).T


def test_other_layers_are_counted_once_their_kind_is_known(monkeypatch):
    from spike_ops.energy import _connections

    monkeypatch.setattr(_connections, "CONNECTIONS", dict(_connections.CONNECTIONS))
    net = nn.Sequential(Masked())
    assert count_operations(net, torch.ones(1, 1, 3), products=False).uncounted == ("0",)
    energy.count_as_connection(Masked, nn.Linear)
    counts = count_operations(net, torch.ones(1, 1, 3))
    assert counts.layers == {"0": LayerOperations(0, 3, 12)}
    assert counts.uncounted == ()
    assert energy.connection_sparsity(net) == 0.75
    with pytest.raises(ValueError, match="like must be one of"):
        energy.count_as_connection(Masked, nn.ReLU)


def test_what_a_network_takes_up_is_counted():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 5).half())
    with torch.no_grad():
        net[2].weight.copy_(torch.eye(5, 4))
        net[2].bias.zero_()
    assert energy.parameter_count(net) == 54 + 3 + 3 + 3 + 20 + 5
    # parameters, running mean and variance, and the count of batches
    assert energy.footprint(net) == 4 * (54 + 3 + 6) + 2 * 25 + 4 * 6 + 8
    assert energy.connection_sparsity(net) == pytest.approx(16 / 74)
    with pytest.raises(ValueError, match="must have connection layers"):
        energy.connection_sparsity(nn.ReLU())


def counts_of(acs, macs, dense, samples=2):
    return OperationCounts({"a": LayerOperations(macs, acs, dense)}, samples)


@pytest.mark.parametrize(
    "name, add, multiply, sram, dram",
    [("45nm-float32", 0.9, 3.7, 5, 640), ("45nm-float16", 0.4, 1.1, 2.5, 320),
     ("45nm-int8", 0.03, 0.2, 1.25, 160), ("45nm-int8-sum32", 0.1, 0.2, 1.25, 160)],
)  # fmt: skip
@given(acs=st.integers(0, 10**9), macs=st.integers(0, 10**9), accesses=st.integers(0, 3))
def test_estimates_of_a_technology_are_its_table_times_the_counts(
    name, add, multiply, sram, dram, acs, macs, accesses
):
    dense = 3 * (acs + macs)
    told = energy.estimate_energy(counts_of(acs, macs, dense), name, accumulator_accesses=accesses)
    compute = (acs * add + macs * (add + multiply)) / 2 * 1e-12
    words = (acs * (1 + accesses) + 2 * macs) / 2
    assert told.compute_j == pytest.approx(compute)
    assert told.with_memory_j == pytest.approx(compute + words * sram * 1e-12)
    assert told.with_dram_j == pytest.approx(compute + words * dram * 1e-12)
    full = dense / 2 * (add + multiply) * 1e-12
    assert told.dense_compute_j == pytest.approx(full)
    assert told.dense_with_memory_j == pytest.approx(full + dense * sram * 1e-12)
    assert told.compute_j <= told.with_memory_j <= told.with_dram_j


def test_an_addition_from_memory_costs_more_than_the_arithmetic_it_saves():
    spiking = energy.estimate_energy(counts_of(1_000, 0, 1_000))
    dense = energy.estimate_energy(counts_of(0, 1_000, 1_000))
    assert spiking.compute_j < dense.compute_j / 5
    assert spiking.with_memory_j > dense.compute_j


@pytest.mark.parametrize(
    "chip, picojoules", [("Loihi", 23.6), ("SpiNNaker2", 10.0), ("TrueNorth", 2.5), ("ODIN", 12.7)]
)
def test_estimates_of_a_chip_are_its_figure_times_the_operations(chip, picojoules):
    told = energy.estimate_energy(counts_of(600, 0, 9_000), chip)
    assert told.with_memory_j == pytest.approx(300 * picojoules * 1e-12)
    assert told.compute_j is None
    assert not any("MAC counts as" in each for each in told.assumptions)
    graded = energy.estimate_energy(counts_of(0, 600, 9_000), chip)
    assert any("MAC counts as" in each for each in graded.assumptions)


def test_every_figure_is_called_an_estimate_and_tells_its_source():
    table = energy.energy_table(counts_of(1, 1, 4))
    assert [each.hardware for each in table] == energy.hardware_names()
    for each in table:
        assert "estimate" in str(each)
        assert "not a measurement" in each.assumptions[0]
        assert len(each.assumptions) >= 3
        assert "20" in each.source


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda: energy.estimate_energy(counts_of(1, 1, 1), "abacus"), "hardware must be one of"),
        (lambda: energy.estimate_energy(counts_of(1, 1, 1), accumulator_accesses=-1), "negative"),
        (lambda: count_operations(nn.Linear(2, 2), []), "at least one sample"),
        (lambda: count_operations(nn.Linear(2, 2), torch.ones(2)), "axis that counts samples"),
        (lambda: energy.count_membrane_updates(IF(), torch.ones(3)), r"\[T, B, ...\]"),
    ],
)
def test_what_makes_no_sense_is_refused(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


def met_by_hand(a, b):
    """Count each multiplication of a @ b, one by one: effective and dense."""
    effective = dense = 0
    a, b = a.reshape(-1, *a.shape[-2:]), b.reshape(-1, *b.shape[-2:])
    for left, right in zip(a, b.expand(len(a), *b.shape[1:]), strict=True):
        for i, j, k in itertools.product(
            range(len(left)), range(right.shape[1]), range(len(right))
        ):
            dense += 1
            effective += bool(left[i, k] != 0 and right[k, j] != 0)
    return effective, dense


class Calls(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


fired = (sparse(1, 3, 2, 4, 5) != 0).float()
WEIGHT, OTHER = sparse(2, 5, 3), sparse(3, 3, 2, 5, 4)
PRODUCTS = {
    "spikes @ weight": (lambda s: SpikeTensor.from_dense(s) @ WEIGHT, fired, WEIGHT, "matmul"),
    "spike_mm": (lambda s: functional.spike_mm(s, WEIGHT), fired, WEIGHT, "matmul"),
    "linear": (lambda s: functional.linear(s, WEIGHT.t()), fired, WEIGHT, "linear"),
    "torch's": (lambda s: nn.functional.linear(s, WEIGHT.t()), fired, WEIGHT, "linear"),
    "zeros and ones": (lambda s: s @ WEIGHT, fired, WEIGHT, "matmul"),
    "batched": (lambda s: torch.matmul(s, OTHER), fired, OTHER, "matmul"),
    "spikes behind": (lambda s: OTHER.mT @ s.mT, OTHER.mT, fired.mT, "matmul"),
    "currents": (lambda s: (s / 2) @ WEIGHT, fired / 2, WEIGHT, "matmul"),
}


@pytest.mark.parametrize("row", PRODUCTS)
def test_products_outside_of_layers_count_where_two_values_meet(row):
    function, left, right, kind = PRODUCTS[row]
    net = nn.Sequential(nn.Identity(), Calls(function))
    counts = count_operations(net, fired)
    effective, dense = met_by_hand(left, right)
    expected = LayerOperations(0, effective, dense)
    if row == "currents":
        expected = LayerOperations(effective, 0, dense)
    assert counts.layers == {f"1.{kind}": expected}
    assert 0 < effective < dense
    assert not count_operations(net, fired, products=False).layers


CONVOLVED = {
    "torch's": (nn.functional.conv2d, {"padding": 1, "stride": 2}),
    "of spikes": (functional.conv2d, {"padding": 1, "groups": 2}),
    "of spikes, packed": (functional.conv2d, {"method": "event", "dilation": 2, "padding": 2}),
}


@pytest.mark.parametrize("row", CONVOLVED)
def test_convolutions_that_are_called_as_functions_count_as_layers_do(row):
    function, options = CONVOLVED[row]
    x = (sparse(5, 2, 4, 6, 5) != 0).float()
    own = {name: value for name, value in options.items() if name != "method"}
    layer = with_sparse_weights(nn.Conv2d(4, 6, 3, bias=True, **own))
    given = SpikeTensor.from_dense(x) if "packed" in row else x
    net = nn.Sequential(Calls(lambda s: function(s, layer.weight, layer.bias, **options)))
    (counted,) = count_operations(net, given, batch_axis=0).layers.items()
    effective, dense = products_by_hand(layer, x)
    assert counted == ("0.conv2d", LayerOperations(0, effective, dense))


def test_parallel_neurons_that_slide_are_counted():
    neuron = SlidingPSN(3)
    counts = count_operations(nn.Sequential(neuron), fired)
    # each input meets its own step and the two after it, those beyond the end left out
    met = sum(int(fired[t].count_nonzero()) * min(3, len(fired) - t) for t in range(len(fired)))
    assert counts.layers["0.conv1d"].acs == met
    assert counts.uncounted == ()


def test_attention_of_spikes_counts_both_of_its_products():
    net = Calls(lambda s: functional.spike_attention(s, s, s))
    counts = count_operations(net, SpikeTensor.from_dense(fired))
    first, second = met_by_hand(fired, fired.mT), met_by_hand(fired @ fired.mT, fired)
    total = LayerOperations(0, first[0] + second[0], first[1] + second[1])
    assert counts.layers == {"attention": total}


def test_layers_are_not_counted_twice_by_their_products_and_neurons_by_what_they_multiply():
    heard = sparse(4, 6, 6)
    recurrent = Recurrent(IF(), lambda s: s @ heard)
    net = nn.Sequential(nn.Linear(5, 6), recurrent, spike_nn.Linear(6, 4, spike_in=True))
    layers = count_operations(net, fired[:, :, 0]).layers
    assert layers.keys() == {"0", "1.matmul", "2"}
    assert layers["1.matmul"].dense == 3 * 2 * 36
    (parallel,) = count_operations(PSN(3), fired[:, :, 0]).layers.values()
    assert parallel.dense == 3 * 3 * 2 * 5


def test_modules_that_multiply_by_parameters_of_their_own_are_counted():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(5, 2))

        def forward(self, x):
            return x @ self.weight

    assert count_operations(nn.Sequential(Own()), fired).uncounted == ()
    assert count_operations(nn.Sequential(Own()), fired, products=False).uncounted == ("0",)


def test_sparse_synapses_count_as_what_exists_of_them(monkeypatch):
    from spike_ops.energy import _connections

    monkeypatch.setattr(_connections, "CONNECTIONS", dict(_connections.CONNECTIONS))
    layer = spike_nn.SparseSynapse(5, 6, connection="random", probability=0.4, seed=1)
    expected = int((fired.flatten(0, -2).sum(0) * layer.mask.sum(0)).sum())
    for _ in range(2):
        counts = count_operations(layer, fired)
        assert counts.layers == {"": LayerOperations(acs=expected, dense=3 * 2 * 4 * 30)}
        energy.count_as_connection(spike_nn.SparseSynapse, nn.Linear)


def test_layers_that_watching_calls_again_are_counted_once():
    net = nn.Sequential(nn.Linear(5, 6), Recurrent(IF(), nn.Linear(6, 6)))
    x = fired[:, :, 0]
    plain = count_operations(net, x)
    assert plain.layers["1.connection"].dense == 3 * 2 * 36
    assert count_operations(net, x, membranes=True).layers == plain.layers
    with Monitor(net, traces=2) as monitor:
        assert count_operations(net, x, membranes=True) == count_operations(net, x, membranes=True)
        assert count_operations(net, x).layers == plain.layers
        assert monitor.activity("1").calls == 3


def test_products_that_watching_repeats_are_counted_once():
    heard = sparse(4, 6, 6)
    net = nn.Sequential(nn.Linear(5, 6), Recurrent(IF(), lambda s: s @ heard))
    x = fired[:, :, 0]
    plain = count_operations(net, x)
    assert plain.layers["1.matmul"].dense == 3 * 2 * 36
    assert count_operations(net, x, membranes=True).layers == plain.layers


def test_layers_with_traces_of_their_inputs_are_counted_once_by_their_inputs():
    layer = nn.Linear(5, 4)
    x = fired[:, :, 0]
    net = OTTT(layer, decay=0.5)
    (counted,) = count_operations(net, x).layers.values()
    assert counted == count_operations(layer, x).layers[""]
    assert counted.acs > 0


def test_layers_with_traces_keep_them_without_gradients():
    x = fired[:, :, 0]
    streams = [OTTT(nn.Linear(5, 4, bias=False), decay=0.5, stateful=True) for _ in range(2)]
    streams[1].load_state_dict(streams[0].state_dict())
    with torch.no_grad():
        without = streams[0](x)
    assert torch.equal(without, streams[1](x).detach())
    for stream in streams:
        stream(x).sum().backward()
    ours, theirs = (each.layer.weight.grad for each in streams)
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "wrapped", [lambda: Recurrent(IF(), lambda s: 0 * s), lambda: Refractory(IF(), 0)]
)
def test_membranes_of_wrapped_neurons_are_those_that_count(wrapped):
    currents = torch.randn(6, 2, 3) * (torch.rand(6, 2, 3) < 0.4)
    updates = energy.count_membrane_updates(IF(), currents)
    assert energy.count_membrane_updates(wrapped(), currents) == updates
    assert energy.count_membrane_updates(Refractory(wrapped(), 0), currents) == updates


def test_membranes_of_response_neurons_and_delays_are_what_they_are_by_definition():
    neuron = SRM(threshold=100.0)
    x = torch.rand(7, 2, 3, dtype=torch.float64)
    _, state = neuron.run(x)
    lags = torch.arange(6, -1, -1, dtype=torch.float64)
    kernel = ((-lags / 10).exp() - (-lags / 5).exp()) * 10 / (10 - 5)
    torch.testing.assert_close(neuron.membrane(state), torch.einsum("t,tbn->bn", kernel, x))
    delay = Delay(torch.tensor([0, 2, 1]))
    assert torch.equal(delay.membrane(delay.run(x)[1]), torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("neuron", [PSN(3), SlidingPSN(2)])
def test_outputs_of_parallel_neurons_count_among_the_activations(neuron):
    nn.init.constant_(neuron.weight, 0.5)
    counts = count_operations(nn.Sequential(neuron), 3 * fired)
    spikes = int(neuron(3 * fired).sum())
    assert counts.outputs == {"0": fired.numel()}
    assert counts.zeros == {"0": fired.numel() - spikes}
    assert spikes > 0


def test_only_modules_whose_parameters_took_part_are_told_as_uncounted():
    class Some(nn.Module):
        def __init__(self):
            super().__init__()
            self.never, self.rests = nn.BatchNorm1d(4), Refractory(PLIF(), 1)
            self.norm, self.borrowed = nn.LayerNorm(5), nn.Linear(5, 5)

        def forward(self, x):
            return self.rests(self.norm(x) + torch.einsum("oi,...i->...o", self.borrowed.weight, x))

    counts = count_operations(Some(), fired)
    assert set(counts.uncounted) == {"rests.neuron", "norm", "borrowed"}


def test_steps_that_a_checkpoint_repeats_are_seen_once():
    inner = nn.Sequential(nn.Linear(5, 4), LIF(), nn.Linear(4, 4), LIF())
    net = CheckpointedTime(inner, steps=2)
    with Monitor(net) as monitor:
        net(fired[:, :, 0].requires_grad_()).sum().backward()
    assert [each.observed for each in monitor.activities().values()] == [3 * 2, 3 * 2]


def test_batches_with_labels_are_their_inputs():
    net, labels = nn.Linear(5, 3), torch.zeros(2)
    x = fired[:, :, 0]
    expected = count_operations(net, [x, x])
    for batches in ([(x, labels)] * 2, [[x, labels]] * 2, iter([(x,), x])):
        assert count_operations(net, batches) == expected


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda: count_operations(nn.Linear, fired), "net must be a torch.nn.Module, got <class"),
        (lambda: count_operations(nn.Identity(), fired.numpy()), "batches must be tensors, or tup"),
        (lambda: count_operations(nn.Identity(), [{"x": fired}]), "labels, got dict"),
        (lambda: count_operations(nn.Identity(), fired, batch_axis="b"), "batch_axis must be a wh"),
        (lambda: energy.estimate_energy({"a": 1}), "what count_operations returns, got dict"),
        (lambda: energy.energy_table("net"), "what count_operations returns, got str"),
        (lambda: energy.count_membrane_updates(nn.ReLU(), fired), "must be a Neuron, got ReLU"),
    ],
)
def test_what_cannot_be_counted_is_named(call, rule):
    with pytest.raises(TypeError, match=rule):
        call()


def test_counts_are_of_one_sample_at_least():
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        OperationCounts({}, samples=0)
