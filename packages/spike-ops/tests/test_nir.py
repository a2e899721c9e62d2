"""Networks to the intermediate representation and back, and what graphs compute."""

import copy
import io
import itertools
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from spike_ops import SpikeTensor, nn as spike_nn
from spike_ops.neuron import (
    ALIF,
    CUBA,
    IF,
    KLIF,
    LIF,
    PLIF,
    Delay,
    Diagonal,
    IFNode,
    Izhikevich,
    LIFNode,
    Recurrent,
    Refractory,
)
from spike_ops.nir import (
    Chain,
    Integrator,
    NirError,
    NirNetwork,
    Scale,
    Stepwise,
    from_nir,
    read,
    to_nir,
    write,
)

nir = pytest.importorskip("nir")

DT = 2.0**-10
RESETS = ("hard", "soft", "none")


def dyadic(*shape: int, seed: int, step: int = 8, width: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-width, width + 1, shape, generator=generator) / step


def with_dyadic_weights(net: nn.Module, seed: int = 0) -> nn.Module:
    with torch.no_grad():
        for k, each in enumerate(net.parameters()):
            each.copy_(dyadic(*each.shape, seed=seed + k))
    return net


def array(*values: float) -> Any:
    return np.array(values)


def lif_node(size: int = 1, *, tau: float = 0.01, r: float = 1.0, threshold: float = 1.0) -> Any:
    return nir.LIF(
        tau=np.full(size, tau), r=np.full(size, r), v_leak=np.zeros(size),
        v_threshold=np.full(size, threshold),
    )  # fmt: skip


def through_file(graph: Any, path: Path) -> Any:
    write(graph, path)
    return read(path)


@pytest.mark.parametrize("tau", [2.0, 4.0, 3.7])
@pytest.mark.parametrize("reset", RESETS)
@pytest.mark.parametrize("delay", [False, True])
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("decay_input", [False, True])
def test_a_neuron_comes_back_spike_for_spike(
    tau: float, reset: Any, delay: bool, strict: bool, decay_input: bool
) -> None:
    neuron = LIF(
        tau, reset=reset, strict=strict, reset_delay=delay, decay_input=decay_input,
        threshold=1.25, v_leak=0.125, v_reset=-0.5 if reset == "hard" else 0.0,
    )  # fmt: skip
    back = from_nir(to_nir(neuron, (3,), dt=DT), dt=DT)
    x = dyadic(40, 2, 3, seed=1, step=4)
    assert torch.equal(back(x), neuron(x))
    assert 0.02 < neuron(x).mean() < 0.98


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("strict", [False, True])
def test_a_threshold_that_is_just_reached_fires_after_as_before(
    dtype: torch.dtype, strict: bool
) -> None:
    net: Any = nn.Sequential(nn.Linear(1, 1, bias=False), IF(reset="soft", strict=strict))
    net = net.to(dtype)
    nn.init.constant_(net[0].weight, 0.5)
    x = torch.ones(8, 1, 1, dtype=dtype)
    resets: list[Any] = ["soft", "hard"]
    for reset in resets:
        net[1] = IF(reset=reset, strict=strict)
        back = from_nir(to_nir(net, dt=DT), dt=DT, dtype=dtype)
        assert torch.equal(back(x), net(x))
    assert net(x).sum() == (2 if strict else 4)


def test_a_neuron_that_fires_at_its_threshold_is_exported_as_asked() -> None:
    at = np.float32(1.0)
    exact = to_nir(LIF(), (1,), dt=DT).nodes["net"].v_threshold
    assert exact == np.nextafter(at, np.float32(0))
    with pytest.warns(UserWarning, match="lost"):
        assert to_nir(LIF(), (1,), dt=DT, ties="keep").nodes["net"].v_threshold == 1.0
    with pytest.raises(NirError, match="fire above their threshold"):
        to_nir(LIF(), (1,), dt=DT, ties="error")
    assert to_nir(LIF(strict=True), (1,), dt=DT, ties="error").nodes["net"].v_threshold == 1.0


def test_a_soft_reset_is_exported_as_asked() -> None:
    neuron = LIF(reset="soft")
    with pytest.raises(NirError, match="no soft reset"):
        to_nir(neuron, (1,), dt=DT, soft_reset="error")
    with pytest.warns(UserWarning, match="reset to 0"):
        hard = to_nir(neuron, (1,), dt=DT, soft_reset="hard")
    x = dyadic(40, 2, 1, seed=1, step=4)
    assert torch.equal(from_nir(hard, dt=DT)(x), LIF(reset="hard")(x))


@pytest.mark.parametrize("fold_r", [False, True])
@pytest.mark.parametrize(
    "neuron",
    [
        LIF(4.0, reset="soft", threshold=1.25, decay_input=False),
        LIF(2.0, reset="soft", reset_delay=True, strict=True),
        IF(reset="soft"),
        CUBA(reset="soft", order="membrane first"),
    ],
)
def test_a_soft_reset_in_metadata_is_found_again_in_a_file(
    neuron: Any, fold_r: bool, tmp_path: Path
) -> None:
    net = with_dyadic_weights(nn.Sequential(nn.Linear(3, 2), neuron))
    with pytest.warns(UserWarning, match="reset to 0; its metadata say that it is soft"):
        graph = to_nir(net, dt=DT, soft_reset="metadata", fold_r=fold_r)
    # a reader that takes no notice of metadata has one node of NIR's own, reset to 0
    (node,) = (each for each in graph.nodes.values() if each.metadata)
    assert isinstance(node, nir.LIF | nir.IF | nir.CubaLIF)
    assert not node.v_reset.any()
    write(graph, tmp_path / "net.nir")
    x = dyadic(40, 2, 3, seed=1, step=4)
    for each in (graph, read(tmp_path / "net.nir", check=False)):
        got = from_nir(each, dt=DT)(x)
        if fold_r:  # products of weights and resistances are rounded
            assert (got != net(x)).double().mean() < 0.02
        else:
            assert torch.equal(got, net(x))
    assert 0.02 < net(x).mean() < 0.98


@pytest.mark.parametrize(
    "changed, rule",
    [
        ({"reset_by": "one"}, "must be whole"),
        ({"reset_by": np.ones(2)}, "must be whole"),
        ({"reset_by": np.full(3, 0.5)}, "reset_by = v_threshold"),
        ({"reset_by": np.full(3, np.nan)}, "reset_by = v_threshold"),
        ({"reset_delay": 2}, "reset_delay 0 or 1"),
        ({"reset_delay": "late"}, "must be whole"),
    ],
)
def test_metadata_of_a_soft_reset_that_are_damaged_are_refused(
    changed: dict[str, Any], rule: str
) -> None:
    with pytest.warns(UserWarning, match="metadata"):
        graph = to_nir(LIF(reset="soft"), (3,), dt=DT, soft_reset="metadata")
    graph.nodes["net"].metadata |= changed
    with pytest.raises(NirError, match=rule):
        from_nir(graph, dt=DT)


@pytest.mark.parametrize(
    "neuron",
    [
        Refractory(IF(), 0),
        Refractory(IF(v_reset=-0.5), 1),
        Refractory(LIF(4.0, v_leak=0.25, v_reset=-0.25), 5),
        Refractory(LIF(4.0, reset_delay=True, strict=True), 2),
        Refractory(PLIF(2.0, decay_input=False), 3),
        ALIF(3.0, tau_adaptation=10.0, kappa=0.5, reset="none"),
        ALIF(1.0, tau_adaptation=5.0, kappa=2.0, reset="none", decay_input=False, threshold=0.5),
    ],
)
def test_neurons_that_rest_or_adapt_come_back_as_circles_of_nodes(
    neuron: Any, tmp_path: Path
) -> None:
    graph = through_file(to_nir(neuron, (5,), dt=DT), tmp_path / "net.nir")
    back, x = from_nir(graph, dt=DT), dyadic(60, 3, 5, seed=2, step=4)
    assert torch.equal(back(x), neuron(x))
    assert 0.02 < neuron(x).mean() < 0.98
    first, memory = back.run(x[:25])
    assert torch.equal(torch.cat([first, back.run(x[25:], memory)[0]]), neuron(x))


class Slow(LIFNode):
    def neuronal_reset(self, spike: Tensor) -> None:
        self.v = self.v - spike / 2


class Doubled(PLIF):
    def transition(self, current: Tensor, state: Any, *constants: Tensor) -> Any:
        return super().transition(2 * current, state, *constants)


class Deaf(Recurrent):
    def transition(self, current: Tensor, state: Any, *constants: Tensor) -> Any:
        return super().transition(0 * current, state, *constants)


def test_neurons_with_a_step_of_their_own_are_refused() -> None:
    for neuron, told in (
        (Slow(), "Slow: its step is another than LIF's"),
        (Doubled(), "Doubled: its step is another than PLIF's"),
        (Deaf(LIF(), Diagonal(2)), "Deaf: its step is another than Recurrent's"),
        (Recurrent(Doubled(), Diagonal(2)), "Doubled: its step"),
    ):
        with pytest.raises(NirError, match=told):
            to_nir(neuron, (2,), dt=DT, ties="exact")
    assert to_nir(LIFNode(), (2,), dt=DT, ties="exact").nodes


def test_what_circles_of_nodes_cannot_say_is_refused_with_the_reason() -> None:
    for neuron, reason in (
        (ALIF(), "cannot take off or forget at a spike"),
        (ALIF(reset="soft"), "'none' beside an adaptive threshold"),
        (Refractory(LIF(reset="soft"), 2), "only LIF neurons with a hard reset can rest"),
        (Refractory(CUBA(), 2), "holds no other membrane"),
        (KLIF(), "KLIF: its membrane is cut off at 0"),
        (Izhikevich(), "its leak is not linear"),
    ):
        with pytest.raises(NirError, match=reason):
            to_nir(neuron, (2,), dt=DT)


NORMS: list[Any] = [
    (spike_nn.TimeBatchNorm(3), (3,)),
    (spike_nn.ThresholdBatchNorm(3, threshold=0.5), (3, 4, 5)),
    (Stepwise(nn.BatchNorm1d(3, affine=False)), (3,)),
    (Stepwise(nn.BatchNorm1d(3)), (3, 7)),
    (Stepwise(nn.BatchNorm2d(3)), (3, 4, 5)),
    (spike_nn.BatchNorm2d(3), (3, 4, 5)),
]


@pytest.mark.parametrize("norm, shape", NORMS)
def test_a_batch_norm_is_exported_by_its_running_statistics(
    norm: nn.Module, shape: tuple[int, ...]
) -> None:
    norm, x = copy.deepcopy(norm), dyadic(6, 4, *shape, seed=3)
    for parameter in norm.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    norm(x)  # statistics other than those it began with
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with pytest.warns(UserWarning, match=r"is in training: .*as of net.eval\(\)"):
        graph = to_nir(nn.Sequential(norm, IF()), shape, dt=DT)
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    with pytest.warns(UserWarning, match="Norm.* is in training|^layer is in training"):
        to_nir(norm, shape, dt=DT)
    back = from_nir(to_nir(norm.eval(), shape, dt=DT), dt=DT)
    torch.testing.assert_close(back(x), norm(x))
    assert from_nir(graph, dt=DT)(x).shape == x.shape


@pytest.mark.parametrize("given", [4, [4], (5, 4), (2, 5, 4), torch.Size([4]), None])
def test_time_and_batch_of_an_input_shape_are_left_out_where_the_first_layer_tells(
    given: Any,
) -> None:
    net = nn.Sequential(nn.Linear(4, 3), LIF())
    assert to_nir(net, given, dt=DT).nodes["input"].input_type["input"].tolist() == [4]


@pytest.mark.parametrize(
    "layer, given, rule",
    [
        (
            nn.Linear(4, 3),
            (3,),
            r"before it or not: the first layer, Linear, .*\(4 features\)",
        ),
        (nn.Linear(4, 3), (1, 2, 3, 4), "the first layer, Linear, must take samples"),
        (Stepwise(nn.Conv2d(1, 2, 3)), (8, 8), r"\(1 channels, height, width\), got \(8, 8\)"),
        (Stepwise(nn.AvgPool2d(2)), (8, 8), r"\(channels, height, width\), got \(8, 8\)"),
        (LIF(), (), "sizes from 1 of one sample"),
        (LIF(), (0, 4), "sizes from 1 of one sample"),
        (LIF(), "4", "input_shape must be a whole number, got '4'"),
        (LIF(), 4.5, "input_shape must be a whole number, got 4.5"),
    ],
)
def test_an_input_shape_that_is_no_samples_is_refused_by_the_rule(
    layer: nn.Module, given: Any, rule: str
) -> None:
    with pytest.raises((ValueError, TypeError), match=rule):
        to_nir(nn.Sequential(layer, IF()), given, dt=DT)


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda: to_nir(nn.Linear, 4, dt=DT), "net must be a torch.nn.Module, got <class"),
        (lambda: to_nir(LIF(), 4, dt="1 ms"), "dt must be a number, got '1 ms'"),
        (lambda: from_nir(to_nir(LIF(), 4, dt=DT), dt=None), "dt must be a number, got None"),
        (lambda: from_nir(to_nir(LIF(), 4, dt=DT), dt=DT, dtype="float32"), "floating point"),
    ],
)
def test_slips_of_arguments_are_named(call: Any, rule: str) -> None:
    with pytest.raises((ValueError, TypeError), match=rule):
        call()


def test_layers_for_batches_in_one_stepwise_are_a_chain_of_nodes() -> None:
    torch.manual_seed(0)
    inner = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.Dropout(0.5), nn.BatchNorm2d(2), nn.AvgPool2d(2), nn.Flatten()
    )
    net = nn.Sequential(Stepwise(inner), nn.Linear(18, 3), IF())
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.warns(UserWarning, match="0.layer.2 is in training"):
        graph = to_nir(net, (1, 8, 8), dt=DT)
    assert [a for a, _ in graph.edges] == ["input", "0.0", "0.2", "0.3", "0.4", "1", "2"]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    x = dyadic(5, 2, 1, 8, 8, seed=1)
    assert torch.equal(from_nir(graph, dt=DT)(x), net.eval()(x))
    with pytest.raises(NirError, match="0: NIR has no node for Sequential"):
        to_nir(nn.Sequential(Stepwise(nn.Sequential()), IF()), (4,), dt=DT)


def test_norms_without_a_channel_for_each_statistic_are_refused() -> None:
    for norm, shape, rule in (
        (Stepwise(nn.BatchNorm1d(2, track_running_stats=False)), (2,), "running statistics"),
        (spike_nn.TimeBatchNorm(2), (3,), "must hear as many"),
        (spike_nn.TemporalEffectiveBatchNorm(2, steps=4), (2,), "from step to step"),
        (spike_nn.FeatureNorm(2), (2,), "mean is that of each sample"),
    ):
        with pytest.raises(NirError, match=rule):
            to_nir(norm, shape, dt=DT)


@pytest.mark.parametrize("delay", [False, True])
def test_a_soft_reset_spelt_out_in_nodes_runs_as_one_without_being_found(delay: bool) -> None:
    neuron = LIF(4.0, reset="soft", reset_delay=delay, decay_input=False)
    graph = to_nir(neuron, (5,), dt=DT)
    inner = graph.nodes["net"]
    # a second feedback of zeros: no reader takes these four nodes for a soft reset
    inner.nodes["more"] = nir.Scale(scale=np.zeros(5))
    inner.edges += [("spikes", "more"), ("more", "membrane")]
    inner.nodes["other"] = nir.Scale(scale=np.zeros(5))
    inner.edges += [("membrane", "other"), ("other", "output")]
    back = from_nir(graph, dt=DT)
    assert any(isinstance(each, Integrator) for each in back.layers.values())
    x = dyadic(60, 3, 5, seed=2)
    assert torch.equal(back(x), neuron(x))
    assert neuron(x).any()


@pytest.mark.parametrize("delay", [False, True])
def test_a_soft_reset_with_a_diagonal_matrix_is_found(delay: bool) -> None:
    graph = to_nir(LIF(4.0, reset="soft", reset_delay=delay), (2,), dt=DT)
    inner = graph.nodes["net"]
    inner.nodes["feedback"] = nir.Linear(weight=np.diag(inner.nodes["feedback"].scale))
    (layer,) = (e for e in from_nir(graph, dt=DT).layers.values() if isinstance(e, LIF))
    assert (layer.rule.reset, layer.rule.reset_delay, layer.rule.strict) == ("soft", delay, False)


@pytest.mark.parametrize("order", ["current first", "membrane first"])
@pytest.mark.parametrize("reset", RESETS)
def test_current_based_neurons_come_back(order: Any, reset: Any) -> None:
    neuron = CUBA(4.0, 7.0, order=order, reset=reset, threshold=1.5)
    back = from_nir(to_nir(neuron, (3,), dt=DT), dt=DT)
    x = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(back(x), neuron(x))
    assert 0 < neuron(x).mean() < 1


@pytest.mark.parametrize("reset", RESETS)
def test_a_learned_time_constant_is_exported_as_it_is_now(reset: Any) -> None:
    neuron = PLIF(2.0, shape=(3,), reset=reset).double()
    with torch.no_grad():
        neuron.w.copy_(torch.tensor([-1.0, 0.0, 1.0]))
    back = from_nir(to_nir(neuron, (3,), dt=DT), dt=DT, dtype=torch.float64)
    x = torch.randn(50, 2, 3, generator=torch.Generator().manual_seed(0)).double() + 0.7
    # another order of the same sums: only spikes within rounding of the threshold could differ
    assert torch.equal(back(x), neuron(x))
    assert neuron(x).mean((0, 1)).unique().numel() > 1


def conv_net() -> nn.Module:
    return nn.Sequential(
        Stepwise(nn.Conv2d(2, 3, 3, padding=1, stride=2, bias=False)), LIF(2.0, reset="soft"),
        Stepwise(nn.AvgPool2d(2)), Stepwise(nn.Conv2d(3, 4, (1, 2), groups=1, dilation=(1, 1))),
        IF(), Stepwise(nn.AvgPool2d((2, 1), divisor_override=1)), nn.Flatten(2), nn.Linear(4, 3),
        Delay(2), LIF(4.0, v_reset=-0.25),
    )  # fmt: skip


def test_every_layer_comes_back_through_a_file(tmp_path: Path) -> None:
    net = with_dyadic_weights(conv_net(), seed=3)
    x = dyadic(20, 2, 2, 8, 8, seed=9, step=4, width=4)
    graph = through_file(to_nir(net, (2, 8, 8), dt=DT), tmp_path / "net.nir")
    kinds = {type(each).__name__ for each in graph.nodes.values()}
    assert kinds >= {"Conv2d", "AvgPool2d", "SumPool2d", "Flatten", "Affine", "Delay", "NIRGraph"}
    back = from_nir(tmp_path / "net.nir", dt=DT)
    assert torch.equal(back(x), net(x))
    assert 0 < net(x).mean() < 1


def test_convolutions_of_one_axis_and_groups_come_back() -> None:
    net = nn.Sequential(
        Stepwise(nn.Conv1d(4, 6, 3, padding="same", groups=2)), IF(),
        Stepwise(nn.Conv1d(6, 2, 3, stride=2, dilation=2)), IF(),
    )  # fmt: skip
    with_dyadic_weights(net)
    x = dyadic(12, 3, 4, 11, seed=1)
    assert torch.equal(from_nir(to_nir(net, (4, 11), dt=DT), dt=DT)(x), net(x))


def test_layers_that_add_spikes_are_exported_with_their_masks() -> None:
    mask = torch.arange(15).reshape(5, 3) % 2
    net = nn.Sequential(
        spike_nn.Linear(4, 3, spike_in=True), IF(spike_out=True),
        spike_nn.Linear(3, 5, spike_in=True, mask=mask), LIF(2.0, spike_out=True),
    )  # fmt: skip
    with_dyadic_weights(net, seed=1)
    with torch.no_grad():
        for name, each in net.named_parameters():
            each.mul_(mask if name == "2.weight" else 1)
    x = (dyadic(30, 2, 4, seed=2) > 0).float()
    back, expected = from_nir(to_nir(net, dt=DT), dt=DT), net(x).to_dense()
    assert torch.equal(back(x), expected)
    assert torch.equal(back(SpikeTensor.from_dense(x)), expected)
    assert 0 < expected.mean() < 1


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.neurons, self.rest = LIF(2.0), IF(reset="soft")

    def forward(self, x: Tensor) -> Tensor:
        s = self.neurons(self.first(x))
        return self.rest(self.out(self.neurons(self.second(s)) + s))


class NodesBranching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.one, self.other = LIFNode(tau=4.0), IFNode(v_reset=None)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(self.first(x)) + self.other(self.second(x))


@pytest.mark.parametrize(
    "net",
    [
        nn.Sequential(nn.Linear(4, 5), LIFNode(), nn.Linear(5, 3), IFNode(v_reset=None)),
        nn.Sequential(nn.Sequential(nn.Linear(4, 2)), nn.Sequential(IFNode(v_reset=-1.0))),
        NodesBranching(),
    ],
)
def test_nodes_that_are_called_step_by_step_are_exported_as_neurons(net: nn.Module) -> None:
    net, x = with_dyadic_weights(copy.deepcopy(net)), dyadic(12, 3, 4, seed=7)
    back = from_nir(to_nir(net, 4, dt=DT), dt=DT)
    expected = torch.stack([net(step) for step in x])
    assert torch.equal(back(x), expected)
    assert expected.any()


def test_branches_that_meet_are_added() -> None:
    net = with_dyadic_weights(Branches())
    x = dyadic(20, 3, 4, seed=5)
    assert torch.equal(from_nir(to_nir(net, (4,), dt=DT), dt=DT)(x), net(x))
    assert net(x).any()


@st.composite
def networks(draw: Any) -> tuple[nn.Module, int]:
    sizes = draw(st.lists(st.integers(1, 5), min_size=2, max_size=4))
    layers: list[nn.Module] = []
    for into, out in itertools.pairwise(sizes):
        layers.append(nn.Linear(into, out, bias=draw(st.booleans())))
        reset, strict = draw(st.sampled_from(RESETS)), draw(st.booleans())
        neuron: Any = draw(
            st.sampled_from(
                [
                    IF(reset=reset, strict=strict),
                    LIF(2.0, reset=reset, strict=strict),
                    LIF(4.0, reset=reset, strict=strict, decay_input=False),
                    LIF(2.0, reset=reset, strict=strict, reset_delay=True),
                ]
            )
        )
        kind = draw(st.sampled_from(["plain", "all", "self", "deep"]))
        deep = nn.Sequential(nn.Linear(out, 2), nn.Linear(2, out))
        connections = {"all": nn.Linear(out, out), "self": Diagonal(out), "deep": deep}
        layers.append(neuron if kind == "plain" else Recurrent(neuron, connections[kind]))
        if draw(st.booleans()):
            layers.append(Delay(draw(st.integers(0, 3))))
    return with_dyadic_weights(nn.Sequential(*layers), draw(st.integers(0, 99))), sizes[0]


@given(networks())
@settings(max_examples=40)
def test_random_networks_come_back_without_a_flip(drawn: tuple[nn.Module, int]) -> None:
    net, features = drawn
    x = dyadic(12, 2, features, seed=7, step=2, width=4)
    graph = to_nir(net, dt=DT)
    back = from_nir(graph, dt=DT)
    assert torch.equal(back(x), net(x))
    again = from_nir(to_nir(back, dt=DT), dt=DT)
    assert torch.equal(again(x), net(x))


@given(networks(), st.integers(1, 11))
@settings(max_examples=25)
def test_a_run_in_two_parts_is_the_run_in_one(drawn: tuple[nn.Module, int], cut: int) -> None:
    net, features = drawn
    back = from_nir(to_nir(net, dt=DT), dt=DT)
    x = dyadic(12, 2, features, seed=7, step=2, width=4)
    first, memory = back.run(x[:cut])
    second, _ = back.run(x[cut:], memory)
    assert torch.equal(torch.cat([first, second]), back(x))


# spikes into one neuron of tau 2.5 ms, r 1 and threshold 0.1 at steps of 0.1 ms, and the steps at
# which exact simulators fire: experiment 1 of Pedersen et al., Nature Communications 2024
TENTHS = [6, 22, 27, 31, 32, 35, 37, 40, 41, *range(43, 54), *range(67, 79), 84, 85]


def golden_input() -> Tensor:
    x = torch.zeros(1010, 1, 1)
    x[[10 * each for each in TENTHS]] = 1
    return x


def test_the_trace_of_the_published_experiment_is_met_to_the_step() -> None:
    affine = nir.Affine(weight=np.ones((1, 1)), bias=np.zeros(1))
    graph = nir.NIRGraph.from_list(affine, lif_node(tau=0.0025, threshold=0.1))
    fired = from_nir(graph, dt=1e-4)(golden_input()).flatten().nonzero().flatten()
    assert fired.tolist() == [460, 510, 710, 760]
    leak = nir.LI(tau=array(0.0025), r=array(1.0), v_leak=array(0.0))
    v = from_nir(nir.NIRGraph.from_list(leak), dt=1e-4)(golden_input()).flatten()
    assert v[[60, 220, 459]].tolist() == pytest.approx([0.04, 0.04005827, 0.06914552], rel=1e-5)


@pytest.mark.parametrize("current", [1.5, 2.0, 4.0])
def test_a_constant_current_fires_at_the_steps_of_the_closed_form(current: float) -> None:
    tau, dt, theta = 0.02, 0.0005, 1.0
    graph = nir.NIRGraph.from_list(lif_node(tau=tau, r=1.0, threshold=theta))
    x = torch.full((400, 1, 1), current, dtype=torch.float64)
    fired = from_nir(graph, dt=dt, dtype=torch.float64)(x).flatten().nonzero().flatten()
    # v after n steps from 0 is I (1 - β^n): the first n with v > θ
    period = np.floor(np.log(1 - theta / current) / np.log(1 - dt / tau)) + 1
    assert fired.tolist() == [int(period) * k - 1 for k in range(1, 400 // int(period) + 1)]


def test_rates_stay_when_the_step_is_halved() -> None:
    tau, r = np.linspace(0.01, 0.03, 16), np.linspace(0.8, 1.2, 16)
    leak, rest, seconds, current = 0.1, -0.2, 0.4, 1.8
    node = nir.LIF(
        tau=tau, r=r, v_leak=np.full(16, leak), v_threshold=np.ones(16), v_reset=np.full(16, rest)
    )
    # from rest to the threshold along an exponential to v_leak + R I, again and again
    goal = leak + r * current
    counts = seconds / (tau * np.log((goal - rest) / (goal - 1)))
    for dt in (4e-4, 2e-4):
        x = torch.full((round(seconds / dt), 1, 16), current, dtype=torch.float64)
        net = from_nir(nir.NIRGraph.from_list(node), dt=dt, dtype=torch.float64)
        assert np.abs(net(x).sum((0, 1)).numpy() - counts).max() < 1.5
    assert counts.min() > 15


def test_membranes_and_synapses_are_their_difference_equations() -> None:
    generator = np.random.default_rng(0)
    tau_s, tau, r, leak, w = (generator.uniform(0.01, 0.02, 3) for _ in range(5))
    x = torch.randn(30, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    node = nir.CubaLI(tau_syn=tau_s, tau_mem=tau, r=r, v_leak=leak, w_in=w)
    made = from_nir(nir.NIRGraph.from_list(node), dt=1e-3, dtype=torch.float64)(x)
    i = v = np.zeros((2, 3))
    for t, current in enumerate(x.numpy()):
        i = i + 1e-3 / tau_s * (-i + w * current)
        v = v + 1e-3 / tau * (leak - v + r * i)
        np.testing.assert_allclose(made[t], v, rtol=1e-12, atol=1e-14)
    summed = from_nir(nir.NIRGraph.from_list(nir.I(r=r)), dt=1e-3, dtype=torch.float64)(x)
    np.testing.assert_allclose(summed, 1e-3 * r * x.cumsum(0).numpy(), rtol=1e-12, atol=1e-16)


def test_constants_that_differ_from_neuron_to_neuron_are_a_loop_over_neurons() -> None:
    thetas, taus = array(0.5, 1.0, 1.5), array(0.01, 0.02, 0.04)
    node = nir.LIF(
        tau=taus, r=array(1.0, 2.0, 3.0), v_leak=array(0.0, 0.1, 0.2), v_threshold=thetas,
        v_reset=array(0.0, -0.5, 0.25),
    )  # fmt: skip
    x = torch.randn(80, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 2
    net = from_nir(nir.NIRGraph.from_list(node), dt=1e-3, dtype=torch.float64)
    for k in range(3):
        alone = nir.LIF(*(getattr(node, f)[[k]] for f in ("tau", "r", "v_leak")),
                        v_threshold=thetas[[k]], v_reset=node.v_reset[[k]])  # fmt: skip
        single = from_nir(nir.NIRGraph.from_list(alone), dt=1e-3, dtype=torch.float64)
        assert torch.equal(net(x)[..., [k]], single(x[..., [k]]))
    assert torch.equal(from_nir(to_nir(net, dt=1e-3), dt=1e-3, dtype=torch.float64)(x), net(x))


def test_delays_are_steps_of_their_own_for_every_neuron() -> None:
    delay = np.array([[0.0, 1.0], [2.0, 3.0]]) * 1e-3
    net = from_nir(nir.NIRGraph.from_list(nir.Delay(delay=delay)), dt=1e-3)
    x = torch.arange(1.0, 7.0).reshape(6, 1, 1, 1).expand(6, 1, 2, 2)
    expected = [[max(t - d, 0) for d in range(4)] for t in range(1, 7)]
    assert net(x).flatten(1).tolist() == expected
    assert torch.equal(from_nir(to_nir(net, dt=1e-3), dt=1e-3)(x), net(x))


def test_folded_resistances_keep_the_spikes() -> None:
    net = nn.Sequential(nn.Linear(3, 4), LIF(4.0, decay_input=False), LIF(2.0, decay_input=False))
    with_dyadic_weights(net)
    graph = to_nir(net, dt=DT, fold_r=True)
    assert all((e.r == 1).all() for e in graph.nodes.values() if hasattr(e, "r"))
    x = dyadic(30, 2, 3, seed=4)
    assert torch.equal(from_nir(graph, dt=DT)(x), net(x))


def test_gradients_reach_the_weights_of_a_network_with_a_circle() -> None:
    net = nn.Sequential(nn.Linear(3, 4), Recurrent(LIF(2.0), nn.Linear(4, 4)))
    back = from_nir(to_nir(net, dt=DT), dt=DT)
    x = torch.randn(6, 2, 3, generator=torch.Generator().manual_seed(0))
    net(x).sum().backward()
    back(x).sum().backward()

    def sizes(of: nn.Module) -> list[float]:
        found = [each.grad for each in of.parameters()]
        return sorted(each.abs().sum().item() for each in found if each is not None)

    assert len(sizes(net)) == 4
    assert sizes(back) == pytest.approx(sizes(net), rel=1e-5)


def test_several_inputs_and_outputs_go_by_name() -> None:
    one = np.array([2])
    graph = nir.NIRGraph(
        {
            "a": nir.Input({"input": one}), "b": nir.Input({"input": one}),
            "s": nir.Scale(scale=array(2.0, 3.0)), "p": nir.Output({"output": one}),
            "q": nir.Output({"output": one}),
        },
        [("a", "s"), ("b", "s"), ("s", "p"), ("b", "q")],
    )  # fmt: skip
    net = from_nir(graph, dt=1e-3)
    a, b = torch.ones(1, 1, 2), torch.full((1, 1, 2), 5.0)
    made = net({"a": a, "b": b})
    assert made["p"].tolist() == [[[12.0, 18.0]]]
    assert torch.equal(made["q"], b)
    with pytest.raises(ValueError, match="inputs must be of the nodes"):
        net(a)


def test_a_network_survives_copies_and_saved_states() -> None:
    net = from_nir(to_nir(with_dyadic_weights(conv_net()), (2, 8, 8), dt=DT), dt=DT)
    x = dyadic(5, 1, 2, 8, 8, seed=9, step=4, width=4)
    other = from_nir(to_nir(conv_net(), (2, 8, 8), dt=DT), dt=DT)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(x), net(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))


def graph_of(**changed: Any) -> Any:
    """Return a sound graph with some of its nodes replaced, unchecked."""
    size = np.array([2])
    nodes = {
        "input": nir.Input({"input": size}),
        "weights": nir.Affine(weight=np.ones((2, 2)), bias=np.zeros(2)),
        "lif": lif_node(2), "output": nir.Output({"output": size}),
    }  # fmt: skip
    edges = changed.pop("edges", [("input", "weights"), ("weights", "lif"), ("lif", "output")])
    return nir.NIRGraph(nodes | changed, edges, type_check=False)


def bad_lif(**fields: Any) -> Any:
    node = lif_node(2)
    for name, value in fields.items():
        setattr(node, name, value)
    return node


def affine(weight: Any, bias: Any) -> Any:
    node = nir.Affine(weight=np.ones((2, 2)), bias=np.zeros(2))
    node.weight, node.bias = weight, bias
    return node


EDGES = [("input", "weights"), ("weights", "lif"), ("lif", "output")]
WRONG = [
    (graph_of(lif=bad_lif(tau=array(0.01, np.nan))), "lif", "tau must be finite"),
    (graph_of(lif=bad_lif(tau=array(0.01, 1e-9))), "lif", "tau must be at least dt"),
    (graph_of(lif=bad_lif(r=array(1.0, 1.0, 1.0))), "lif", "constants"),
    (graph_of(lif=bad_lif(v_leak=array(1.0, 1.0, 1.0))), "lif", "one shape"),
    (graph_of(lif=bad_lif(v_threshold=array(np.inf, 1.0))), "lif", "v_threshold must be finite"),
    (graph_of(lif=bad_lif(v_threshold="much")), "lif", "v_threshold must be numbers"),
    (graph_of(lif=lif_node(3)), "lif", "constants of shape"),
    (graph_of(weights=affine(np.ones((2, 3)), np.zeros(2))), "weights", "needs inputs"),
    (graph_of(weights=affine(np.ones(2), np.zeros(2))), "weights", "2 axes"),
    (graph_of(weights=affine(np.ones((2, 2)), np.zeros(5))), "weights", "bias must be 2 numbers"),
    (graph_of(weights=affine(np.full((2, 2), np.inf), np.zeros(2))), "weights", "finite"),
    (graph_of(edges=EDGES[:2]), "output", "must hear a node"),
    (graph_of(edges=[*EDGES, ("lif", "nobody")]), "nobody", "ends of an edge"),
    (graph_of(edges=[*EDGES, EDGES[0]]), "input", "once"),
    (graph_of(edges=[*EDGES, ("lif", "input")]), "input", "hear no node"),
    (graph_of(edges=[*EDGES, ("output", "lif")]), "output", "heard by no node"),
    (graph_of(edges=[*EDGES, ("weights", "weights")]), "weights", "circle must go through"),
    (graph_of(edges=[*EDGES, ("lif", "weights"), "no"]), "graph", "two names"),
    (graph_of(lif=nir.Delay(delay=np.full(2, 1.5e-3))), "lif", "whole steps"),
    (graph_of(lif=nir.Flatten({"input": np.array([2])}, 1, 2)), "lif", "axes of a sample"),
    (graph_of(lif=nir.AvgPool2d(array(2), array(2), array(0))), "lif", "C, H, W"),
    (graph_of(input=nir.Input({"input": np.array([0])})), "input", "sizes from 1"),
    (graph_of(output=nir.Input({"input": np.array([2])})), "output", "hear no node"),
    (graph_of(lif=object()), "lif", "type must be one of"),
]


@pytest.mark.parametrize("graph, node, rule", WRONG)
def test_a_graph_that_breaks_a_rule_is_refused_by_node_and_rule(
    graph: Any, node: str, rule: str
) -> None:
    with pytest.raises(NirError, match=rule) as caught:
        from_nir(graph, dt=1e-3)
    assert caught.value.node == node


def test_a_damaged_inner_graph_is_named_from_the_outside() -> None:
    graph = to_nir(nn.Sequential(nn.Linear(2, 2), LIF(reset="soft")), dt=1e-3)
    graph.nodes["1"].nodes["membrane"].tau[0] = -1.0
    with pytest.raises(NirError, match="tau must be at least dt") as caught:
        from_nir(graph, dt=1e-3)
    assert caught.value.node == "1.membrane"


@given(st.data())
@settings(max_examples=40)
def test_graphs_with_a_changed_field_run_or_are_refused(data: st.DataObject) -> None:
    net = with_dyadic_weights(nn.Sequential(nn.Linear(2, 3), LIF(2.0), nn.Linear(3, 2), CUBA()))
    graph = to_nir(net, dt=1e-3)
    node = graph.nodes[data.draw(st.sampled_from(["0", "1", "2", "3"]))]
    fields = sorted(set(vars(node)) - {"input_type", "output_type", "metadata"})
    field = data.draw(st.sampled_from(fields))
    wrong = [np.nan, np.zeros(0), None, "x", np.array(1.0), np.ones((2, 2, 2)), -1.0, 1e300]
    setattr(node, field, data.draw(st.sampled_from(wrong)))
    try:
        made = from_nir(graph, dt=1e-3)(torch.ones(3, 1, 2))
    except ValueError as error:  # beside what is refused: constants of 1e300 overflow in a run
        told = str(error)
        is_named = isinstance(error, NirError) and error.node in {"0", "1", "2", "3"}
    else:
        told, is_named = "", made.shape == (3, 1, 2)
    assert is_named or "finite" in told


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    write(to_nir(nn.Sequential(nn.Linear(2, 3), LIF(2.0)), dt=1e-3), path)
    whole = path.read_bytes()
    for part in np.linspace(0, len(whole) - 1, 40).astype(int):
        path.write_bytes(whole[:part])
        with pytest.raises(NirError, match="graph of known nodes") as caught:
            from_nir(path, dt=1e-3)
        assert caught.value.node == str(path)


def test_a_graph_whose_writing_fails_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path, graph = tmp_path / "net.nir", to_nir(nn.Sequential(nn.Linear(2, 3), LIF(2.0)), dt=1e-3)
    write(graph, path)
    held = path.read_bytes()
    graph.metadata["odd"] = object()  # HDF5 has no type for it
    with pytest.raises(TypeError, match="HDF5 equivalent"):
        write(graph, path)
    assert path.read_bytes() == held
    assert [each.name for each in tmp_path.iterdir()] == ["net.nir"]


def test_damaged_files_are_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "net.nir"
    write(to_nir(nn.Sequential(nn.Linear(2, 3), LIF(2.0)), dt=1e-3), path)
    whole, rng = path.read_bytes(), np.random.default_rng(3)
    used, refused = np.flatnonzero(np.frombuffer(whole, np.uint8)), 0
    for number in range(10):
        changed = bytearray(whole)
        for place in rng.choice(used, 1 + number // 3):
            changed[place] ^= 1 << int(rng.integers(0, 8))
        path.write_bytes(changed)
        try:
            assert isinstance(from_nir(path, dt=1e-3), NirNetwork)
        except NirError:
            refused += 1
    assert refused > 3


def test_a_file_that_crashes_or_halts_the_library_of_its_format_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from spike_ops import _hdf5
    from spike_ops.nir import _files

    path = tmp_path / "net.nir"
    write(to_nir(LIF(2.0), (3,), dt=1e-3), path)
    monkeypatch.setattr(_files, "READ_ALL", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(NirError, match=r"crashes on it \(signal 11\)"):
        from_nir(path, dt=1e-3)
    monkeypatch.setattr(_files, "READ_ALL", "while True: pass")
    monkeypatch.setattr(_hdf5, "PATIENCE", 0.2)
    with pytest.raises(NirError, match="was not done after"):
        read(path)
    assert sorted(read(path, check=False).nodes) == ["input", "net", "output"]


def test_a_file_cannot_ask_for_other_files_or_for_unreasonable_memory(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "net.nir"

    def refused(change: Any) -> str:
        write(to_nir(nn.Sequential(nn.Linear(2, 3), LIF(2.0)), dt=1e-3), path)
        with h5py.File(path, "r+") as file:
            change(h5py, file["node/nodes"])
        with pytest.raises(NirError) as caught:
            read(path)
        return caught.value.rule

    def hidden(h5py: Any, nodes: Any) -> None:
        nodes["other"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "/")

    def endless(h5py: Any, nodes: Any) -> None:
        nodes["0/again"] = nodes["0"]

    def huge(h5py: Any, nodes: Any) -> None:
        nodes["0"].create_dataset("more", (2**40,), "f8", chunks=(2**20,))

    assert "not by links" in refused(hidden)
    assert "hold itself" in refused(endless)
    assert "must not be larger" in refused(huge)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "other.nir"
    with pytest.raises(FileNotFoundError, match="path must be a file"):
        read(path)
    path.write_text("no graph")
    with pytest.raises(NirError, match="graph of known nodes"):
        read(path)
    with h5py.File(path, "w") as file:
        file["node/type"] = "Spline"
    with pytest.raises(NirError, match="graph of known nodes"):
        read(path)
    nir.write(path, lif_node(2))
    with pytest.raises(NirError, match="graph of known nodes"):
        read(path)


@pytest.mark.parametrize(
    "net, rule",
    [
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "fold it"),
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)), "no node for Softmax"),
        (nn.Sequential(nn.Linear(2, 3), nn.Linear(2, 2)), "must take samples"),
        (nn.Sequential(nn.Linear(2, 2), nn.Flatten()), "leave time and batch alone"),
    ],
)
def test_what_has_no_node_is_refused_by_name(net: nn.Module, rule: str) -> None:
    with pytest.raises(NirError, match=rule):
        to_nir(net, dt=1e-3)


def test_arguments_outside_their_range_are_refused() -> None:
    net = nn.Sequential(nn.Linear(2, 2), LIF())
    for dt in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="dt must be positive"):
            to_nir(net, dt=dt)
        with pytest.raises(ValueError, match="dt must be positive"):
            from_nir(to_nir(net, dt=1e-3), dt=dt)
    with pytest.raises(ValueError, match="soft_reset must be one of"):
        to_nir(net, dt=1e-3, soft_reset="maybe")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="input_shape must be given"):
        to_nir(LIF(), dt=1e-3)
    with pytest.raises(TypeError, match="graph must be"):
        from_nir(net, dt=1e-3)
    with pytest.raises(TypeError, match="graph must be"):
        write(net, io.BytesIO())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"inputs must be \[T, B, 2\]"):
        from_nir(to_nir(net, dt=1e-3), dt=1e-3)(torch.ones(3, 1, 4))


def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nir", None)
    with pytest.raises(ImportError, match=r"spike-ops\[nir\]"):
        to_nir(LIF(), (1,), dt=1e-3)


def test_chains_and_scales_come_back() -> None:
    net = nn.Sequential(Scale(dyadic(3, seed=1)), Chain(Integrator(0.5, 1.0), LIF(2.0), IF()))
    x = dyadic(20, 2, 3, seed=2)
    back = from_nir(to_nir(net, (3,), dt=DT), dt=DT)
    assert isinstance(back, NirNetwork)
    assert torch.equal(back(x), net(x))
