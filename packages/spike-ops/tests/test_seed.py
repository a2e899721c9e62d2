"""The face of nodes that are called step by step, and its old defects."""

import copy
import gc
import importlib
import inspect
import pickle
import weakref

import pytest
import torch
from torch import Tensor, nn

from spike_ops import SpikeTensor, functional, utils
from spike_ops.energy import count_operations
from spike_ops.learning import STDP
from spike_ops.monitor import Monitor
from spike_ops.neuron import IF, LIF, BaseNode, IFNode, LIFNode, Neuron
from spike_ops.nn import BatchNorm2d, LayerNorm, Linear, SparseSynapse
from spike_ops.surrogate import ATan, Rectangular, Sigmoid

STEPS, BATCH, SIZE = 6, 3, 5
SIGMOID = Sigmoid()


def currents(*shape: int, seed: int = 0, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.rand(shape, generator=generator, dtype=torch.float64)


def charged(x: Tensor, v: Tensor, *, tau: float, decay_input: bool, v_reset: float | None):
    rest = 0.0 if v_reset is None else v_reset
    return v + (x - (v - rest)) / tau if decay_input else v - (v - rest) / tau + x


def by_definition(x: Tensor, *, tau=2.0, decay_input=True, v_reset=0.0, theta=1.0, detach=False):
    """The documented dynamics, one step after the other."""
    v = torch.full_like(x[0], 0.0 if v_reset is None else v_reset)
    spikes = []
    for step in x:
        h = charged(step, v, tau=tau, decay_input=decay_input, v_reset=v_reset)
        s = SIGMOID(h - theta)
        d = s.detach() if detach else s
        v = h - theta * d if v_reset is None else (1 - d) * h + d * v_reset
        spikes.append(s)
    return torch.stack(spikes), v


def by_calls(node: nn.Module, x: Tensor) -> Tensor:
    return torch.stack([node(step) for step in x])


def dynamics():
    return pytest.mark.parametrize(
        "decay_input, v_reset", [(True, 0.0), (True, None), (True, -0.5), (False, 0.0),
                                     (False, None), (False, -0.5)],
    )  # fmt: skip


# the documented dynamics


@dynamics()
@pytest.mark.parametrize("detach_reset", [False, True])
def test_calls_are_the_documented_steps_with_gradients_through_all(
    decay_input, v_reset, detach_reset
):
    options = {"tau": 3.0, "decay_input": decay_input, "v_reset": v_reset}
    x = currents(STEPS, BATCH, SIZE, scale=4.0).requires_grad_()
    wanted, last = by_definition(x, **options, detach=detach_reset)
    weights = currents(STEPS, BATCH, SIZE, seed=1)
    (expected,) = torch.autograd.grad((wanted * weights).sum(), x)
    assert 0.05 < float(wanted.detach().mean()) < 0.95
    node = LIFNode(**options, detach_reset=detach_reset)
    got = by_calls(node, x)
    assert torch.equal(got, wanted)
    assert torch.allclose(node.v, last, atol=1e-12)
    (gradient,) = torch.autograd.grad((got * weights).sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-12)
    assert float(gradient[0].abs().sum()) > 0


@dynamics()
@pytest.mark.parametrize("parallel_optim", [False, True])
def test_all_steps_in_one_call_are_single_calls(decay_input, v_reset, parallel_optim):
    options = {"tau": 3.0, "decay_input": decay_input, "v_reset": v_reset}
    x = currents(STEPS, BATCH, SIZE, scale=4.0).requires_grad_()
    single = LIFNode(**options)
    wanted = by_calls(single, x)
    whole = LIFNode(**options, T=STEPS, parallel_optim=parallel_optim)
    got = whole(x.flatten(0, 1))
    assert got.shape == (STEPS * BATCH, SIZE)
    assert torch.equal(got.view(x.shape), wanted)
    assert torch.allclose(whole.v, single.v, atol=1e-12)
    weights = currents(STEPS, BATCH, SIZE, seed=1)
    (one,) = torch.autograd.grad((wanted * weights).sum(), x)
    (other,) = torch.autograd.grad((got.view(x.shape) * weights).sum(), x)
    assert torch.allclose(one, other, atol=1e-12)


@pytest.mark.parametrize("v_reset", [0.0, None, -0.25])
def test_integrators_lose_nothing_between_spikes(v_reset):
    x = currents(STEPS, BATCH, SIZE, scale=0.8)
    v = torch.full_like(x[0], 0.0 if v_reset is None else v_reset)
    node = IFNode(v_reset=v_reset)
    for step in x:
        h = v + step
        s = (h >= 1).double()
        v = h - s if v_reset is None else torch.where(s > 0, v_reset, h)
        assert torch.equal(node(step), s)
        assert torch.allclose(node.v, v, atol=1e-12)


def test_nodes_are_the_neurons_of_the_package():
    x = currents(STEPS, BATCH, SIZE, scale=4.0)
    assert torch.equal(LIFNode(tau=4.0)(x[0]), LIF(tau=4.0, surrogate=SIGMOID)(x[:1])[0])
    assert torch.equal(LIFNode(T=STEPS)(x.flatten(0, 1)).view(x.shape), LIF()(x))
    assert torch.equal(IFNode(v_reset=None, T=STEPS)(x.flatten(0, 1)).view(x.shape),
                       IF(reset="soft")(x))  # fmt: skip
    assert isinstance(LIFNode(), LIF)
    assert isinstance(IFNode(), IF)


def test_a_call_of_all_steps_goes_on_where_the_last_one_ended():
    x = currents(2 * STEPS, BATCH, SIZE, scale=4.0)
    whole, parts = LIFNode(T=2 * STEPS), LIFNode(T=STEPS)
    wanted = whole(x.flatten(0, 1))
    got = torch.cat([parts(x[:STEPS].flatten(0, 1)), parts(x[STEPS:].flatten(0, 1))])
    assert torch.equal(got, wanted)


def test_parallel_optim_says_which_way_the_steps_run():
    x = currents(STEPS, BATCH, SIZE)
    assert LIFNode(T=STEPS).explain(x).backend == "reference"
    assert LIFNode(T=STEPS, parallel_optim=True).explain(x).backend != "reference"


def test_single_steps_and_all_steps_by_their_names():
    x = currents(STEPS, BATCH, SIZE, scale=4.0)
    node, other = LIFNode(T=STEPS), LIFNode(T=STEPS)
    one = torch.cat([node.simple_forward(step) for step in x])
    assert torch.equal(one, other.parallel_optim_forward(x.flatten(0, 1)))
    assert torch.equal(node.v, other.v)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_spikes_come_out_packed_where_asked(steps):
    x = currents(STEPS * BATCH, SIZE, scale=4.0).requires_grad_()
    packed = LIFNode(T=steps, spike_out=True, surrogate_function=Sigmoid(spike_out=True))(x)
    dense = LIFNode(T=steps)(x)
    assert isinstance(packed, SpikeTensor)
    assert torch.equal(packed.to_dense(), dense)
    (one,) = torch.autograd.grad(packed.to_dense().sum(), x)
    (other,) = torch.autograd.grad(dense.sum(), x)
    assert torch.allclose(one, other, atol=1e-12)
    assert float(one.abs().sum()) > 0


# what nodes of one's own can change


class Quadratic(BaseNode):
    def neuronal_dynamics(self, x: Tensor) -> None:
        self.v = self.v * self.v / 2 + x


class Adapting(BaseNode):
    def __init__(self, **options) -> None:
        super().__init__(**options)
        self.register_memory("w", 0.25)

    def neuronal_dynamics(self, x: Tensor) -> None:
        self.v = self.v / 2 + x - self.w

    def neuronal_reset(self, spike: Tensor) -> None:
        super().neuronal_reset(spike)
        self.w = self.w / 2 + spike


class Late(LIFNode):
    def neuronal_fire(self) -> Tensor:
        return self.fire(self.v - 2 * self.v_threshold)


@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_dynamics_of_ones_own_is_used(steps):
    x = currents(STEPS, BATCH, SIZE, scale=2.0)
    node, v, spikes = Quadratic(T=steps), torch.zeros(BATCH, SIZE).double(), []
    for step in x:
        h = v * v / 2 + step
        spikes.append((h >= 1).double())
        v = h * (1 - spikes[-1])
    got = by_calls(node, x) if steps == 1 else node(x.flatten(0, 1)).view(x.shape)
    assert torch.equal(got, torch.stack(spikes))


def test_a_second_memory_is_kept_and_reset():
    x = currents(STEPS, BATCH, SIZE, scale=4.0).requires_grad_()
    node, v, w = Adapting(), torch.zeros(BATCH, SIZE).double(), 0.25
    for step in x:
        h = v / 2 + step - w
        s = SIGMOID(h - 1)
        v, w = h * (1 - s), w / 2 + s
        assert torch.equal(node(step), s)
    assert torch.allclose(node.w, w)
    assert dict(node.named_memories()).keys() == {"v", "w"}
    (gradient,) = torch.autograd.grad(node.w.sum(), x)
    assert float(gradient[0].abs().sum()) > 0
    node.reset()
    assert list(node.memories()) == [0.0, 0.25]


@pytest.mark.parametrize("parallel_optim", [False, True])
def test_a_changed_method_is_never_passed_over(parallel_optim):
    x = currents(STEPS, BATCH, SIZE, scale=5.0)
    late = Late(T=STEPS, parallel_optim=parallel_optim)(x.flatten(0, 1))
    v, wanted = torch.zeros(BATCH, SIZE).double(), []
    for step in x:
        h = v + (step - v) / 2
        wanted.append((h >= 2).double())
        v = h * (1 - wanted[-1])
    assert torch.equal(late.view(x.shape), torch.stack(wanted))
    assert not torch.equal(late, LIFNode(T=STEPS)(x.flatten(0, 1)))


@pytest.mark.parametrize("kind", [Quadratic, LIFNode])
def test_the_run_over_time_forgets_and_remembers_nothing(kind):
    x = currents(STEPS, BATCH, SIZE, scale=2.0)
    node = kind()
    wanted = by_calls(kind(), x)
    assert torch.equal(node.forward(x), wanted)
    assert node.v == 0.0
    node(x[0])
    kept = node.v.clone()
    assert torch.equal(node.forward(x), wanted)
    assert torch.equal(node.v, kept)


def test_a_node_without_dynamics_says_so():
    with pytest.raises(NotImplementedError, match="BaseNode must define neuronal_dynamics"):
        BaseNode()(torch.ones(1))


def test_resets_are_functions():
    v, s = torch.tensor([1.5, 0.5]), torch.tensor([1.0, 0.0])
    assert BaseNode.hard_reset(v, s, -1.0).tolist() == [-1.0, 0.5]
    assert BaseNode.soft_reset(v, s, 1.0).tolist() == [0.5, 0.5]


# memory


def test_reset_forgets_and_a_reset_value_is_where_it_begins():
    node, x = LIFNode(), currents(BATCH, SIZE)
    first = node(x)
    assert isinstance(node.v, Tensor)
    utils.reset(node)
    assert node.v == 0.0
    assert torch.equal(node(x), first)
    node.set_reset_value("v", 0.5)
    node.reset()
    node(torch.zeros(BATCH, SIZE))
    assert torch.equal(node.v, torch.full((BATCH, SIZE), 0.25))


def test_a_forgotten_reset_does_not_stop_training():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), LIFNode(tau=1.5), nn.Linear(8, 1))
    for _ in range(3):
        out = sum(net(torch.rand(2, 4) * 3) for _ in range(4))
        out.sum().backward()
    assert float(net[0].weight.grad.abs().sum()) > 0


def test_without_a_backward_pass_between_nothing_is_cut():
    node, x = LIFNode(), currents(2, BATCH, SIZE).requires_grad_()
    node(x[0])
    node(x[1])
    (gradient,) = torch.autograd.grad(node.v.sum(), x)
    assert float(gradient[0].abs().sum()) > 0


def test_detach_cuts_what_was():
    node, x = LIFNode(), currents(2, BATCH, SIZE).requires_grad_()
    node(x[0])
    node.detach()
    node(x[1])
    (gradient,) = torch.autograd.grad(node.v.sum(), x)
    assert float(gradient[0].abs().sum()) == 0
    assert float(gradient[1].abs().sum()) > 0


def test_another_batch_size_begins_anew():
    node, x = LIFNode(), currents(BATCH, SIZE)
    first = node(x)
    node.reset()
    node(currents(BATCH + 2, SIZE, seed=3))
    assert torch.equal(node(x), first)


def test_copies_begin_anew_and_nothing_is_saved():
    node = nn.Sequential(LIFNode(tau=3.0))
    node(currents(BATCH, SIZE).requires_grad_())
    assert node.state_dict() == {}
    for other in (copy.deepcopy(node), pickle.loads(pickle.dumps(node))):
        assert other[0].v == 0.0
        assert other[0].tau == 3.0
    assert isinstance(node[0].v, Tensor)


def test_a_node_is_not_held_by_its_spikes():
    node = LIFNode()
    out = node(currents(BATCH, SIZE).requires_grad_())
    watched = weakref.ref(node)
    del node
    gc.collect()
    assert watched() is None
    out.sum().backward()


def test_a_call_that_raises_changes_nothing():
    node, x = LIFNode(), currents(BATCH, SIZE)
    node(x)
    kept = node.v.clone()
    with pytest.raises(ValueError, match="currents must be finite, got nan at"):
        node(torch.full((BATCH, SIZE), torch.nan).double())
    assert torch.equal(node.v, kept)
    assert torch.equal(node(x), LIFNode.simple_forward(_at(kept), x))


def _at(v: Tensor) -> LIFNode:
    node = LIFNode()
    node.v = v
    return node


@pytest.mark.parametrize(
    "options, told",
    [
        ({"v_threshold": 0.0}, "v_threshold must be positive and finite, got 0.0"),
        ({"v_reset": 1.0}, "v_reset must be None or below v_threshold 1.0, got 1.0"),
        ({"v_reset": float("nan")}, "v_reset must be None or below"),
        ({"T": 0}, "T must be a whole number of at least 1, got 0"),
        ({"tau": 0.5}, "tau must be at least 1"),
    ],
)
def test_arguments_out_of_range_are_named(options, told):
    with pytest.raises(ValueError, match=told):
        LIFNode(**options)


def test_what_is_no_surrogate_is_named():
    with pytest.raises(TypeError, match=r"surrogate_function must be a .*Surrogate, got function"):
        IFNode(surrogate_function=lambda u: u)


def test_steps_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match=r"x must be \[T N, ...\] of T = 4 steps, got \(6, 2\)"):
        LIFNode(T=4)(torch.ones(6, 2))


def test_memories_have_names_of_their_own():
    node = LIFNode()
    with pytest.raises(ValueError, match="name must not be an attribute already, got 'tau'"):
        node.register_memory("tau", 0.0)
    with pytest.raises(ValueError, match="name must be one of v, got 'u'"):
        node.set_reset_value("u", 0.0)


# helpers


@pytest.mark.parametrize(
    "given, wanted", [(3, (3, 3)), ([1, 2], (1, 2)), ((4, 5), (4, 5)),
                          (torch.tensor([6, 7]), (6, 7))],
)  # fmt: skip
def test_tuples_are_made_of_numbers_sequences_and_tensors(given, wanted):
    assert utils.make_tuple(given, 2, "size") == wanted


@pytest.mark.parametrize("given", [[1], [1, 2, 3], [1.5, 2], "ab", 2.0])
def test_no_tuple_is_made_of_others(given):
    with pytest.raises(ValueError, match="size must be a whole number or 2 of them, got"):
        utils.make_tuple(given, 2, "size")


def test_only_a_module_is_reset():
    with pytest.raises(TypeError, match="net must be a torch.nn.Module, got list"):
        utils.reset([])


# each defect of the old code, as it should be


def test_defect_1_default_nodes_run_in_training_and_evaluation():
    for node in (LIFNode(), IFNode()):
        assert node.train()(torch.ones(2, 3)).shape == (2, 3)
        node.reset()
        assert node.eval()(torch.ones(2, 3)).shape == (2, 3)


def test_defect_2_the_arctangent_has_a_gradient():
    x = torch.ones(2, 3, requires_grad=True)
    LIFNode(surrogate_function=ATan())(x).sum().backward()
    # u = 1 / 2 - 1, and a current counts by half
    assert torch.allclose(x.grad, ATan().derivative(torch.full((2, 3), -0.5)) / 2)


def test_defect_3_random_synapses_are_learnt_and_masked():
    torch.manual_seed(0)
    layer = SparseSynapse(6, 4, connection="random")
    layer(torch.ones(2, 6)).sum().backward()
    assert layer.weight.grad is not None
    assert 0 < layer.density < 1
    assert not bool(layer.weight.grad[~layer.mask].any())


@pytest.mark.parametrize("mask", [None, torch.eye(3, 4)])
def test_defect_4_a_layer_takes_the_changes_of_a_rule(mask):
    layer = Linear(4, 3, mask=mask)
    before = layer.weight.detach().clone()
    layer.update(torch.ones(3, 4))
    grown = torch.ones(3, 4) if mask is None else mask
    assert torch.allclose(layer.weight.detach(), before + grown)


def test_defect_5_no_spikes_stay_none():
    assert SpikeTensor.from_dense(torch.zeros(2, 3)).count == 0
    assert not bool(SpikeTensor.from_dense(torch.zeros(2, 3)).elem.any())


def test_defect_6_operations_see_numbers_and_print_nothing(capsys):
    spikes = SpikeTensor.from_dense(torch.tensor([[1.0, 1.0], [0.0, 1.0]]))
    assert torch.equal(spikes @ torch.ones(2, 1), torch.tensor([[2.0], [1.0]]))
    total = spikes + spikes
    assert not isinstance(total, SpikeTensor)
    assert total.tolist() == [[2.0, 2.0], [0.0, 2.0]]
    assert capsys.readouterr().out == ""


def test_defect_7_a_monitor_needs_no_device_and_knows_nodes_by_name():
    net = nn.Sequential(nn.Linear(3, 4), LIFNode(T=2), IFNode(T=2))
    with Monitor(net) as monitor:
        with torch.no_grad():
            net[0].weight.fill_(1.0), net[0].bias.fill_(0.0)
        net(torch.ones(2 * 5, 3))
    assert monitor.get_avg_firing_rate(all=False, module_name="1") == 1.0  # h = 3 / 2
    assert monitor.get_avg_firing_rate() == 1.0
    assert monitor.get_nonfire_ratio(all=False, module_name="2") == 0.0
    assert monitor.activity("1").observed == 10


def test_defect_8_a_batch_norm_is_of_channels_without_a_graph():
    torch.manual_seed(0)
    norm, x = BatchNorm2d(3, momentum=0.1), 5 + torch.randn(4, 2, 3, 5, 7)
    out = norm(x)
    assert out.mean((0, 1, 3, 4)).abs().max() < 1e-5
    assert torch.allclose(norm.running_mean, 0.1 * x.mean((0, 1, 3, 4)), atol=1e-5)
    assert norm.running_mean.grad_fn is None
    assert LayerNorm(7)(x).mean(-1).abs().max() < 1e-5


def test_defect_9_resetting_a_learner_keeps_its_time_constants():
    learner = STDP(LIFNode(), Linear(4, 3, bias=False), tau_pre=5.0, tau_post=7.0)
    spike, dw = learner(torch.ones(2, 4))
    assert spike.shape == (2, 3)
    assert dw.shape == (3, 4)
    learner.reset()
    assert (learner.tau_pre, learner.tau_post) == (5.0, 7.0)
    assert learner.node.v == 0.0


def test_defect_10_layers_need_no_accelerator():
    for name in ("nn", "neuron", "surrogate", "learning", "monitor", "utils", "functional"):
        importlib.import_module(f"spike_ops.{name}")
    spikes = SpikeTensor.from_dense(torch.ones(2, 3))
    assert torch.equal(functional.linear(spikes, torch.ones(4, 3)), torch.full((2, 4), 3.0))


def test_defect_11_the_quick_start_runs():
    x = torch.randn(2, 3, 5, 5)
    net = torch.nn.Sequential(
        nn.Conv2d(3, 32, kernel_size=3), LIFNode(), nn.Flatten(), nn.Linear(288, 1)
    )
    y = net(x)
    utils.reset(net)
    assert y.shape == (2, 1)
    assert net[1].v == 0.0


def test_the_network_of_spikes_runs_with_other_imports_alone():
    import spike_ops.nn as spiking_nn
    from spike_ops import surrogate as Sigmoid

    class SimpleNet(nn.Module):
        def __init__(self, T):
            super().__init__()
            self.T = T
            self.surrogate = Sigmoid.Sigmoid(spike_out=True)
            self.classifier = nn.Sequential(
                nn.Flatten(),
                nn.Linear(28 * 28, 512),
                LIFNode(T=T, spike_out=True, surrogate_function=self.surrogate),
                spiking_nn.Linear(512, 512, spike_in=True),
                LIFNode(T=T, spike_out=True, surrogate_function=self.surrogate),
                spiking_nn.Linear(512, 128, spike_in=True),
                nn.Linear(128, 10),
            )

        def forward(self, x):
            return self.classifier(x)

    torch.manual_seed(0)
    net = SimpleNet(T=4)
    with torch.no_grad():
        net.classifier[3].weight.mul_(10)  # so that the second layer fires
    out = net(3 * torch.rand(4 * 2, 1, 28, 28))
    out.sum().backward()
    assert out.shape == (8, 10)
    assert all(float(p.grad.abs().sum()) > 0 for p in net.parameters())


# with the rest of the package


def test_a_learner_takes_a_window_of_steps_to_a_node():
    torch.manual_seed(0)
    x = (torch.rand(STEPS, 2, 4) < 0.5).float()
    layer = Linear(4, 3, bias=False)
    with torch.no_grad():
        layer.weight.abs_().mul_(2)
    one, other = (STDP(LIFNode(), layer) for _ in range(2))
    fired, changes = zip(*(one(step) for step in x), strict=True)
    spikes, dw = other(x)
    assert torch.equal(spikes, torch.stack(fired))
    assert 0 < float(spikes.mean()) < 1
    assert torch.allclose(dw, torch.stack(changes).sum(0), atol=1e-6)


def test_operations_of_a_net_of_nodes_are_counted():
    net = nn.Sequential(Linear(3, 4, bias=False), IFNode(T=2), Linear(4, 2, bias=False))
    with torch.no_grad():
        net[0].weight.fill_(1.0), net[2].weight.fill_(1.0)
    counts = count_operations(net, torch.ones(2 * 5, 3), batch_axis=0)
    # ten rows: 3 ones meet 4 weights, 4 spikes meet 2
    assert counts.effective_acs == 12 + 8
    assert counts.activation_sparsity == 0.0


def test_what_nodes_keep_for_the_backward_pass_can_be_two_bits():
    node = LIFNode(T=4, v_reset=None, surrogate_function=Rectangular(), parallel_optim=True)
    x = torch.rand(4 * 8, 64, requires_grad=True)
    held = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal held
        held += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        node(x)
    assert held == 2 * x.numel() // 8


FACE = {
    LIFNode: ("tau", "decay_input", "v_threshold", "v_reset", "surrogate_function",
              "detach_reset", "parallel_optim", "T", "spike_out"),
    IFNode: ("v_threshold", "v_reset", "surrogate_function", "detach_reset", "parallel_optim",
             "T", "spike_out"),
    BaseNode: ("v_threshold", "v_reset", "surrogate_function", "detach_reset", "parallel_optim",
               "T", "spike_out"),
    Sigmoid: ("alpha", "spike_out", "spiking"),
    ATan: ("alpha", "spike_out", "spiking"),
    Linear: ("in_features", "out_features", "bias", "device", "dtype", "spike_in", "mask"),
    SparseSynapse: ("in_features", "out_features", "bias", "connection", "device", "dtype"),
    BatchNorm2d: ("dim", "momentum"),
    LayerNorm: ("num_features", "eps"),
    STDP: ("node", "connection", "trace_pre", "trace_post", "tau_pre", "tau_post"),
    Monitor: ("net", "device"),
}  # fmt: skip
METHODS = {
    BaseNode: ("neuronal_dynamics", "neuronal_fire", "neuronal_reset", "simple_forward",
               "parallel_optim_forward", "register_memory", "set_reset_value", "reset", "memories",
               "named_memories", "detach", "hard_reset", "soft_reset"),
    SpikeTensor: ("from_dense", "to_dense", "elem"),
    Linear: ("update",),
    STDP: ("cal_trace", "reset"),
    Monitor: ("enable", "disable", "reset", "get_avg_firing_rate", "get_nonfire_ratio"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FACE, ids=lambda kind: kind.__name__)
def test_the_arguments_of_the_face_stand_in_their_order(kind):
    names = [name for name in inspect.signature(kind).parameters if name != "self"]
    assert tuple(names[: len(FACE[kind])]) == FACE[kind]


@pytest.mark.parametrize("kind", METHODS, ids=lambda kind: kind.__name__)
def test_the_methods_of_the_face_are_there(kind):
    assert [name for name in METHODS[kind] if not hasattr(kind, name)] == []


def test_defaults_of_the_nodes_are_those_of_the_face():
    node = LIFNode()
    held = (node.tau, node.decay_input, node.v_threshold, node.v_reset, node.surrogate_function,
            node.detach_reset, node.parallel_optim, node.T, node.spike_out)  # fmt: skip
    assert held == (2.0, True, 1.0, 0.0, Sigmoid(), False, False, 1, False)
    assert isinstance(node, BaseNode)
    assert isinstance(node, Neuron)
