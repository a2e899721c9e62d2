import gc
import sys
import weakref

import pytest
import torch
from torch import nn

from spike_ops import SpikeTensor
from spike_ops.memory import CheckpointedTime
from spike_ops.monitor import Monitor, plot_raster, plot_traces
from spike_ops.neuron import IF, LIF, PSN, Delay, Recurrent, Refractory, SlidingPSN
from spike_ops.nn import MembraneBatchNormLIF


def small_net(**options):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), LIF(**options), nn.Linear(5, 4), IF(**options))
    with torch.no_grad():
        net[2].weight.mul_(4).abs_()
    return net


def drive(steps=9, batch=3, seed=1):
    return 3 * torch.randn(steps, batch, 6, generator=torch.Generator().manual_seed(seed))


def spikes_by_hand(net, x):
    hidden = net[1](net[0](x))
    out = net[3](net[2](hidden))
    return {name: (s.to_dense() if isinstance(s, SpikeTensor) else s).detach()
            for name, s in (("1", hidden), ("3", out))}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
def test_counts_are_those_of_all_calls_together(packed):
    net = small_net(spike_out=packed)
    calls = [drive(9, 3, 1), drive(4, 7, 2)]
    with Monitor(net) as monitor:
        for x in calls:
            net(x)
    for name in ("1", "3"):
        each = [spikes_by_hand(net, x)[name] for x in calls]
        counts = sum(s.sum((0, 1)).long() for s in each)
        seen = monitor.activity(name)
        assert seen.counts.dtype == torch.int64
        assert torch.equal(seen.counts, counts)
        assert (seen.observed, seen.calls) == (9 * 3 + 4 * 7, 2)
        assert torch.equal(seen.rates, counts.double() / 55)
        assert seen.rate == pytest.approx(float(counts.sum()) / 55 / counts.numel())
        assert 0 < seen.rate < 1
    assert set(monitor.activities()) == {"1", "3"}


def test_the_average_rate_weighs_every_neuron_alike():
    net = small_net()
    x = drive()
    with Monitor(net) as monitor:
        net(x)
    each = spikes_by_hand(net, x)
    total = torch.cat([s.flatten() for s in each.values()])
    assert monitor.get_avg_firing_rate() == pytest.approx(total.mean().item())
    assert monitor.get_avg_firing_rate(False, "3") == pytest.approx(each["3"].mean().item())
    assert monitor.get_avg_firing_rate(all=False, module_name="1") == pytest.approx(
        each["1"].mean().item()
    )


def test_silent_and_saturated_neurons_are_told():
    net = nn.Sequential(IF())
    currents = torch.tensor([0.0, 0.5, 2.0, -1.0]).expand(10, 2, 4)
    with Monitor(net) as monitor:
        net(currents)
    seen = monitor.activity("0")
    assert seen.silent.tolist() == [True, False, False, True]
    assert seen.saturated().tolist() == [False, False, True, False]
    assert seen.saturated(0.5).tolist() == [False, True, True, False]
    assert monitor.get_nonfire_ratio() == 0.5
    assert monitor.get_nonfire_ratio(all=False, module_name="0") == 0.5


def test_layers_of_pictures_keep_their_shape():
    net = nn.Sequential(LIF())
    with Monitor(net) as monitor:
        spikes = net(3 * torch.rand(5, 2, 3, 4, 4))
    assert torch.equal(monitor.activity("0").counts, spikes.sum((0, 1)).long())


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_any_device_and_none_are_taken(device):
    net = small_net()
    monitor = Monitor(net, device)
    monitor.enable()
    net(drive())
    assert monitor.activity("1").counts.device.type == "cpu"


def test_hooks_are_gone_after_the_block_even_if_it_fails():
    net = small_net()

    def hooks():
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())

    monitor = Monitor(net, traces=2)
    assert hooks() == 0
    with pytest.raises(RuntimeError), monitor:
        net(torch.ones(2, 1, 99))
    assert hooks() == 0
    monitor.enable()
    monitor.enable()
    assert hooks() == 4
    monitor.disable()
    assert hooks() == 0


def test_only_what_runs_while_it_is_enabled_counts():
    net = small_net()
    monitor = Monitor(net)
    net(drive())
    with pytest.raises(ValueError, match="must run between enable"):
        monitor.get_avg_firing_rate()
    monitor.enable()
    net(drive())
    monitor.disable()
    before = monitor.activity("1").counts
    net(drive())
    assert torch.equal(monitor.activity("1").counts, before)
    monitor.reset()
    with pytest.raises(ValueError, match="must run between enable"):
        monitor.activities()


def test_watching_changes_nothing_and_keeps_no_graph():
    net, x = small_net(), drive().requires_grad_()
    plain = net(x)
    with Monitor(net, traces=3) as monitor:
        watched = net(x)
        assert torch.equal(watched, plain)
        assert not monitor.activity("1").counts.requires_grad
        assert not monitor.trace("1").membranes.requires_grad
        graph = weakref.ref(watched.grad_fn)
        watched.sum().backward()
        del watched
        gc.collect()
        assert graph() is None


def test_memory_does_not_grow_with_calls():
    net = small_net()
    with Monitor(net, traces=2, points=50) as monitor:
        for _ in range(30):
            net(drive())
        recorder = monitor._recorders["1"].kept
        assert recorder.seen == 30 * 9
        assert len(recorder.rows) <= 50
        assert monitor.activity("1").counts.shape == (5,)


@pytest.mark.parametrize("stateful", [False, True])
@pytest.mark.parametrize("sample", [0, 2])
def test_traces_are_the_membranes_of_the_run(stateful, sample):
    neuron = LIF(tau=3.0, stateful=stateful)
    calls = [
        1.5 * torch.rand(7, 3, 6, generator=torch.Generator().manual_seed(k)) for k in range(2)
    ]
    expected, fired = [], []
    state = neuron.initial(calls[0][0])
    for x in calls:
        if not stateful:
            state = neuron.initial(x[0])
        for current in x:
            s, state = neuron.step(current, state)
            expected.append(state[0][sample])
            fired.append(s[sample])
    with Monitor(nn.Sequential(neuron), traces=4, sample=sample) as monitor:
        for x in calls:
            neuron(x)
    trace = monitor.trace("0")
    assert trace.steps.tolist() == list(range(14))
    assert trace.neurons.shape == (4,)
    assert torch.equal(trace.membranes, torch.stack(expected)[:, trace.neurons])
    assert torch.equal(trace.spikes, torch.stack(fired)[:, trace.neurons].bool())


def test_a_state_that_is_given_is_where_a_trace_begins():
    neuron = LIF(tau=3.0)
    x = torch.full((3, 1, 2), 0.4)
    with Monitor(nn.Sequential(neuron), traces=2) as monitor:
        neuron(x, (torch.full((1, 2), 0.9),))
    expected = neuron.step(x[0], (torch.full((1, 2), 0.9),))[1][0]
    assert torch.equal(monitor.trace("0").membranes[0], expected[0])


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 3, 3, 4)])
def test_watching_neurons_with_statistics_changes_none_and_sees_what_the_run_had(shape):
    torch.manual_seed(0)
    nets = [nn.Sequential(MembraneBatchNormLIF(3, threshold=0.5)) for _ in range(2)]
    x = 3 * torch.randn(*shape)
    with Monitor(nets[0], traces=12, sample=1) as monitor:
        watched = nets[0](x)
    assert torch.equal(watched, nets[1](x))
    for ours, theirs in zip(nets[0].buffers(), nets[1].buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert nets[0].training
    trace = monitor.trace("0")
    assert torch.equal(trace.spikes, watched[:, 1].flatten(1)[:, trace.neurons].bool())
    assert trace.spikes.any()


def test_watching_neurons_with_dropout_draws_no_numbers_from_the_run():
    x = 2 * torch.rand(6, 3, 8)
    net = nn.Sequential(Recurrent(IF(), nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))))
    torch.manual_seed(1)
    plain = net(x)
    torch.manual_seed(1)
    with Monitor(net, traces=8, sample=2) as monitor:
        watched = net(x)
    assert torch.equal(watched, plain)
    assert torch.equal(monitor.trace("0").spikes, watched[:, 2].bool())


def test_watching_leaves_the_states_of_a_connection_alone():
    delay = Delay(1, stateful=True)

    def hears(spikes):
        return delay(spikes[None])[0]

    class Late(nn.Module):
        def __init__(self):
            super().__init__()
            self.delay = delay

        def forward(self, spikes):
            return hears(spikes)

    x = torch.tensor([0.6, 0.6, 0.0, 0.0, 0.0]).reshape(5, 1, 1)
    net = Recurrent(IF(), Late())
    plain = net(x)
    delay.reset()
    with Monitor(nn.Sequential(net), traces=1):
        assert torch.equal(net(x), plain)
    assert plain.flatten().tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "wrapped",
    [lambda: Recurrent(LIF(), lambda s: 0 * s), lambda: Refractory(LIF(), 0),
     lambda: Refractory(Recurrent(LIF(), lambda s: 0 * s), 0)],
)  # fmt: skip
def test_traces_of_wrapped_neurons_are_their_membranes(wrapped):
    x = 2 * torch.rand(6, 2, 5, generator=torch.Generator().manual_seed(0))
    traces = []
    for neuron in (LIF(), wrapped()):
        with Monitor(nn.Sequential(neuron), traces=5) as monitor:
            neuron(x)
        traces.append(monitor.trace("0"))
    assert torch.equal(traces[0].membranes, traces[1].membranes)
    assert torch.equal(traces[0].spikes, traces[1].spikes)
    assert ((traces[0].membranes != 0) & (traces[0].membranes < 1)).any()


@pytest.mark.parametrize("delays", [0, torch.tensor([0, 3])])
def test_delays_are_watched_without_a_membrane(delays):
    net = nn.Sequential(Delay(delays))
    x = (torch.rand(5, 3, 2, generator=torch.Generator().manual_seed(0)) < 0.5).float()
    with Monitor(net, traces=2, sample=2) as monitor:
        out = net(x)
    trace = monitor.trace("0")
    assert torch.equal(trace.spikes, out[:, 2].bool())
    assert not trace.membranes.any()


@pytest.mark.parametrize("neuron", [PSN(5), SlidingPSN(2)])
def test_parallel_neurons_are_watched_but_have_no_membrane(neuron):
    net = nn.Sequential(neuron)
    with Monitor(net, traces=1) as monitor:
        spikes = net(4 * torch.rand(5, 2, 3))
    assert torch.equal(monitor.activity("0").counts, spikes.detach().sum((0, 1)).long())
    with pytest.raises(ValueError, match="must have a membrane"):
        monitor.trace("0")


def test_traces_go_on_from_part_to_part_of_a_time_in_parts():
    x = torch.full((6, 1, 2), 0.4)
    net = nn.Sequential(IF())
    traces = []
    for each in (net, CheckpointedTime(net, steps=2)):
        with Monitor(net, traces=2) as monitor:
            each(x)
        traces.append(monitor.trace("0").membranes)
    assert torch.equal(*traces)
    assert traces[0][:, 0].tolist() == pytest.approx([0.4, 0.8, 0, 0.4, 0.8, 0])


@pytest.mark.parametrize(
    "wrong, error, rule",
    [(torch.ones(3, 1, 2, dtype=torch.int64), TypeError, "must be floating point"),
     (torch.ones(3), ValueError, "with T at least 1")],
)  # fmt: skip
def test_currents_that_neurons_refuse_are_refused_by_them_while_watched(wrong, error, rule):
    net = nn.Sequential(IF())
    with Monitor(net, traces=1), pytest.raises(error, match=rule):
        net(wrong)


def test_long_records_are_told_in_even_distances():
    neuron = IF(reset="none", threshold=1e9)
    with Monitor(nn.Sequential(neuron), traces=1, points=10) as monitor:
        neuron(torch.ones(77, 1, 1))
    trace = monitor.trace("0")
    assert trace.steps.tolist() == list(range(0, 77, 8))
    assert torch.equal(trace.membranes[:, 0], trace.steps + 1.0)


def test_the_seed_draws_the_neurons():
    def drawn(seed):
        neuron = IF()
        with Monitor(nn.Sequential(neuron), traces=5, seed=seed) as monitor:
            neuron(torch.ones(1, 1, 100))
        return monitor.trace("0").neurons.tolist()

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_a_layer_whose_neurons_change_is_refused():
    net = nn.Sequential(IF())
    with Monitor(net) as monitor:
        net(torch.ones(2, 1, 3))
        with pytest.raises(ValueError, match=r"must keep its neurons, got \(4,\) after \(3,\)"):
            net(torch.ones(2, 1, 4))
        monitor.reset()
        net(torch.ones(2, 1, 4))


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda: Monitor(nn.Linear(2, 2)), "net must have neurons"),
        (lambda: Monitor(IF(), traces=-1), "traces must be at least 0"),
        (lambda: Monitor(IF(), points=1), "points must be at least 2"),
        (lambda: Monitor(small_net()).activity("2"), "module_name must be one of 1, 3, got '2'"),
        (lambda: Monitor(small_net()).get_nonfire_ratio(all=False), "module_name must be one of"),
        (lambda: Monitor(small_net()).activity("1"), "must run between enable"),
        (lambda: plot_raster(torch.ones(3)), r"spikes must be \[T, B, N\]"),
        (lambda: plot_raster(torch.ones(3, 2)), r"got \(3, 2\): spikes\[:, None\]"),
        (lambda: plot_raster(torch.ones(0, 1, 2)), "T at least 1"),
        (lambda: plot_raster(torch.ones(3, 1, 2), sample=1), "sample must be in 0..0, got 1"),
        (lambda: plot_raster(torch.ones(3, 1, 2), dt=0.0), "dt must be positive"),
        (lambda: plot_raster(torch.full((3, 1, 2), torch.nan)), "spikes must be finite"),
    ],
)
def test_what_makes_no_sense_is_refused(call, rule):
    with pytest.raises(ValueError, match=rule):
        call()


def test_membranes_that_were_not_recorded_are_refused():
    net = small_net()
    with Monitor(net) as monitor:
        net(drive())
    with pytest.raises(ValueError, match="traces must be at least 1"):
        monitor.trace("1")


@pytest.mark.parametrize("packed", [False, True])
def test_a_raster_has_a_mark_for_each_spike(packed):
    pytest.importorskip("matplotlib", reason="the extra spike-ops[plots] is not installed")
    spikes = (torch.rand(20, 2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.2).float()
    given = SpikeTensor.from_dense(spikes) if packed else spikes
    figure = plot_raster(given, sample=1, dt=0.5)
    marks = figure.axes[0].collections[0].get_offsets().tolist()
    times, neurons = spikes[:, 1].flatten(1).nonzero().unbind(1)
    assert sorted(marks) == sorted(torch.stack([0.5 * times, neurons], 1).tolist())


def test_traces_are_drawn_with_their_spikes():
    pytest.importorskip("matplotlib", reason="the extra spike-ops[plots] is not installed")
    net = nn.Sequential(LIF())
    with Monitor(net, traces=3) as monitor:
        net(3 * torch.rand(12, 1, 5))
    trace = monitor.trace("0")
    figure = plot_traces(trace, threshold=1.0)
    assert len(figure.axes) == 3
    for row, axis in enumerate(figure.axes):
        assert len(axis.lines) == 2 + int(trace.spikes[:, row].sum())
        assert axis.lines[0].get_ydata().tolist() == trace.membranes[:, row].tolist()
        assert axis.get_ylabel() == f"neuron {int(trace.neurons[row])}"


def test_a_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"spike-ops\[plots\]"):
        plot_raster(torch.ones(3, 1, 2))


@pytest.mark.parametrize(
    "call, told",
    [
        (lambda: Monitor(3), "net must be a torch.nn.Module, got int"),
        (lambda: Monitor(LIF(), traces="1"), "traces must be a whole number"),
        (lambda: plot_raster([[[1.0]]]), "spikes must be a torch.Tensor, got list"),
        (lambda: plot_raster(torch.ones(3, 1, 2), sample="a"), "sample must be a whole number"),
        (lambda: plot_traces(torch.ones(3)), "trace must be a spike_ops.monitor.Trace, got Tensor"),
    ],
)
def test_what_is_watched_or_drawn_is_named_where_it_is_of_another_kind(call, told):
    with pytest.raises(TypeError, match=told):
        call()
