"""Networks on chips: what fits where, and what whole numbers compute."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import Tensor, nn

from spike_ops.chips import CHIPS, Chip, check, quantize
from spike_ops.neuron import ALIF, IF, LIF, Diagonal, Recurrent
from spike_ops.nn import Linear, SparseSynapse, Stepwise


def spikes(*shape: int, rate: float = 0.4, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(*shape, generator=generator) < rate).float()


def conv(into: int, out: int, size: int, **options: Any) -> nn.Module:
    return Stepwise(nn.Conv2d(into, out, size, **options))


def soft(**options: Any) -> LIF:
    return IF(reset="soft", **options)


def dvs_net() -> tuple[nn.Module, tuple[int, ...]]:
    torch.manual_seed(0)
    net = nn.Sequential(
        conv(2, 8, 3, padding=1, bias=False), soft(), Stepwise(nn.AvgPool2d(2)),
        conv(8, 16, 3, padding=1), soft(), Stepwise(nn.AvgPool2d(2)), nn.Flatten(2),
        nn.Linear(16 * 16, 10), soft(),
    )  # fmt: skip
    return net, (2, 16, 16)


@pytest.mark.parametrize("channels, cores", [(8, {0, 1, 2, 3, 4}), (16, {0, 1, 2}), (17, set())])
def test_neuron_memory_is_that_of_the_next_powers_of_two(channels: int, cores: set[int]) -> None:
    # 34 x 34 neurons take 64 x 64 entries of each channel: 32, 64 and 68 Ki
    net = nn.Sequential(conv(2, channels, 3, padding=1), soft())
    report = check(net, "speck", (2, 34, 34))
    assert report.fits == bool(cores)
    assert {core for each in report.placements for core in each.cores} <= cores


def by_hand(into: int, out: int, size: int, side: int) -> list[int]:
    """Return the cores that hold a square convolution without padding, from the formula."""
    table = [(16, 64)] * 3 + [(32, 32)] * 2 + [(64, 16)] * 2 + [(16, 16)] * 2
    after = side - size + 1
    kernel = into * 2 ** (math.ceil(math.log2(size * size)) + math.ceil(math.log2(out)))
    neurons = out * 2 ** (2 * math.ceil(math.log2(after)))
    return [k for k, (w, n) in enumerate(table) if kernel <= w * 1024 and neurons <= n * 1024]


@given(st.integers(1, 64), st.integers(1, 64), st.integers(1, 5), st.integers(8, 64))
@settings(max_examples=30)
def test_a_convolution_goes_to_a_core_whose_memories_hold_it(
    into: int, out: int, size: int, side: int
) -> None:
    with torch.device("cpu"):
        net = nn.Sequential(conv(into, out, size), soft())
    report = check(net, "speck", (into, side, side))
    cores = by_hand(into, out, size, side)
    assert report.fits == bool(cores)
    if cores:
        assert report.placements[0].cores[0] in cores
    else:
        assert "no core has that" in report.problems[0]


def test_layers_move_to_make_room_and_no_core_is_taken_twice() -> None:
    def layers(count: int) -> list[nn.Module]:
        return [each for _ in range(count) for each in (conv(4, 4, 1), soft())]

    # at 32 x 32 a layer fits every core, at 128 x 128 the first three: they come last
    small = [conv(4, 4, 1), soft(), conv(4, 4, 1), soft()]
    wide = nn.Sequential(conv(4, 1, 1, stride=8), soft(), conv(1, 4, 1), soft())
    three = check(nn.Sequential(*layers(3), *wide), "speck", (4, 128, 128))
    assert three.fits
    cores = [each.cores[0] for each in three.placements]
    assert set(cores[:3]) == {0, 1, 2}
    assert len(set(cores)) == 5
    turned = check(nn.Sequential(conv(4, 4, 1, padding=48), *small[1:]), "speck", (4, 32, 32))
    assert turned.fits
    four = check(nn.Sequential(*layers(4)), "speck", (4, 128, 128))
    assert "not enough such cores" in four.problems[0]
    assert not four.placements


def test_nine_layers_fit_and_ten_do_not() -> None:
    def deep(count: int) -> nn.Module:
        return nn.Sequential(*[each for _ in range(count) for each in (nn.Linear(4, 4), soft())])

    nine = check(deep(9), "speck", (4,))
    assert nine.fits
    assert sorted(each.cores[0] for each in nine.placements) == list(range(9))
    assert "the chip has 9 cores, the network needs 10" in check(deep(10), "speck", (4,)).problems


@pytest.mark.parametrize(
    "net, chip, shape, rule",
    [
        (nn.Sequential(nn.Linear(4, 4), LIF(2.0, reset="soft")), "speck", (4,), "must not decay"),
        (nn.Sequential(nn.Linear(4, 4), IF(reset="hard")), "speck", (4,), "reset must be soft"),
        (nn.Sequential(nn.Linear(4, 4), LIF(3.0, reset="soft")), "xylo", (4,), "1 - 2"),
        (nn.Sequential(conv(1, 2, 3), soft()), "xylo", (1, 8, 8), "no convolutions"),
        (nn.Sequential(nn.Linear(4, 1001), LIF(2.0, reset="soft")), "xylo", (4,), "1000 neurons"),
        (nn.Sequential(nn.Linear(300, 930), LIF(2.0, reset="soft")), "xylo", (300,), "278000 syn"),
        (nn.Sequential(nn.Linear(17, 4), LIF(2.0, reset="soft")), "xylo", (17,), "16 inputs"),
        (nn.Sequential(nn.Linear(16, 9), LIF(2.0, reset="soft")), "xylo", (16,), "8 outputs"),
        (nn.Sequential(nn.Linear(4, 4)), "loihi2", (4,), "readout is for the host"),
        (nn.Sequential(conv(1, 2, 17), soft()), "speck", (1, 32, 32), "16 by 16"),
        (nn.Sequential(conv(1, 2, 3, stride=3), soft()), "speck", (1, 32, 32), "strides"),
        (nn.Sequential(conv(2, 2, 3, groups=2), soft()), "speck", (2, 32, 32), "groups"),
    ],
)
def test_what_does_not_fit_is_said(net: nn.Module, chip: str, shape: Any, rule: str) -> None:
    report = check(net, chip, shape)
    assert not report.fits
    assert any(rule in problem for problem in report.problems)
    assert rule in str(report)


def test_a_network_is_spread_over_as_many_cores_as_it_needs() -> None:
    net = nn.Sequential(conv(1, 16, 3, padding=1), LIF(4.0))
    report = check(net, "loihi2", (1, 64, 64))
    assert report.fits
    assert report.placements[0].cores == tuple(range(16 * 64 * 64 // 8192))
    assert report.placements[0].synapses == 9 * 16 * 64 * 64
    assert len(check(net, "spinnaker2", (1, 64, 64)).placements[0].cores) == 66
    assert "128 cores" in check(net, "loihi2", (1, 260, 260)).problems[0]


def test_a_small_network_of_shifts_fits_xylo() -> None:
    net = nn.Sequential(
        nn.Linear(16, 60), LIF(4.0, reset="soft"), nn.Linear(60, 8), LIF(16.0, reset="soft")
    )
    assert check(net, "xylo", (16,)).fits
    assert [layer.shift for layer in quantize(net, (16,), chip="xylo").quantised] == [2, 4]


def test_no_more_connections_than_xylo_stores_may_go_into_a_hidden_neuron() -> None:
    def net(*connections: int) -> nn.Module:
        layers: list[nn.Module] = []
        for into, out in itertools.pairwise((16, 70, 40, 8)):
            layers += [nn.Linear(into, out, bias=False), LIF(2.0, reset="soft")]
        with torch.no_grad():
            for layer, count in zip((layers[2], layers[4]), connections, strict=True):
                layer.weight[:, count:] = 0  # type: ignore[index,operator,union-attr]
        return nn.Sequential(*layers)

    assert check(net(63, 40), "xylo", (16,)).fits
    crowded = check(net(64, 40), "xylo", (16,))
    assert crowded.problems == ("2: a neuron must hear at most 63 connections, got 64",)
    assert check(net(64, 40), "loihi2", (16,)).fits


def test_neurons_that_hear_each_other_go_where_there_are_connections_for_it() -> None:
    def net(connection: nn.Module) -> nn.Module:
        return nn.Sequential(
            nn.Linear(4, 60), Recurrent(IF(reset="soft"), connection), nn.Linear(60, 3), IF()
        )

    own = nn.Linear(60, 60, bias=False)
    report = check(net(own), "loihi2", (4,))
    assert report.fits
    assert report.placements[0].synapses == 4 * 60 + 60 * 60
    assert "0: the chip has no connections among" in " ".join(
        check(net(own), "speck", (4,)).problems
    )
    assert "at most 63 connections, got 64" in " ".join(check(net(own), "xylo", (4,)).problems)
    single = " ".join(check(net(Diagonal(60, weight=0.5)), "xylo", (4,)).problems)
    assert "connections" not in single
    with pytest.raises(ValueError, match="through a Linear or Diagonal, got IF through Conv1d"):
        check(net(nn.Conv1d(1, 1, 3)), "loihi2", (4,))
    with pytest.raises(ValueError, match="not computed in whole numbers"):
        quantize(net(own), (4,))


def test_every_chip_is_of_the_table_and_has_a_source() -> None:
    for name, chip in CHIPS.items():
        assert isinstance(chip, Chip)
        assert chip.name == name
        assert chip.source
    with pytest.raises(ValueError, match="chip must be one of"):
        check(nn.Linear(2, 2), "abacus", (2,))


def in_python(net: Any, x: Tensor, bits: int) -> list[Any]:
    """Return the spikes of a quantised sequence of linear layers, one number after the other."""
    rows = [[[int(s) for s in sample] for sample in step] for step in x]
    top = 2 ** (bits - 1)
    for layer in net.quantised:
        rule = layer.block.neurons.rule
        weight, bias = layer.weight.tolist(), layer.bias.tolist()
        start = layer.v_reset if rule.reset == "hard" else 0
        v = [[start] * len(weight) for _ in rows[0]]
        out = []
        for step in rows:
            fired = []
            for b, sample in enumerate(step):
                row = []
                for n, own in enumerate(weight):
                    total = bias[n]
                    for w, s in zip(own, sample, strict=True):
                        total += w * s
                    if layer.shift is not None:
                        h = v[b][n] - v[b][n] // 2**layer.shift
                    else:
                        h = v[b][n] * layer.decay // 4096
                    h = max(-top, min(top - 1, h + total))
                    s = int(h > layer.threshold if rule.strict else h >= layer.threshold)
                    if rule.reset == "hard":
                        h = layer.v_reset if s else h
                    elif rule.reset == "soft":
                        h -= layer.threshold * s
                    v[b][n] = h
                    row.append(s)
                fired.append(row)
            out.append(fired)
        rows = out
    return rows


@pytest.mark.parametrize("reset", ["hard", "soft", "none"])
@pytest.mark.parametrize("tau", [math.inf, 2.0, 3.3])
@pytest.mark.parametrize("bits, state_bits", [(8, 32), (8, 12), (4, 16), (16, 32)])
def test_whole_numbers_are_those_of_a_loop_in_python(
    reset: Any, tau: float, bits: int, state_bits: int
) -> None:
    first = LIF(tau, reset=reset, decay_input=False)
    last = LIF(4.0, reset=reset, strict=True, v_reset=-0.2 if reset == "hard" else 0.0)
    net = nn.Sequential(nn.Linear(6, 5), first, nn.Linear(5, 3), last)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for each in net.parameters():
            each.copy_(torch.randn(each.shape, generator=generator) + 0.3)
    whole = quantize(net, (6,), bits=bits, state_bits=state_bits)
    x = spikes(30, 2, 6)
    got = whole(x)
    assert got.dtype == torch.int32
    assert got.tolist() == in_python(whole, x, state_bits)
    assert 0 < got.float().mean() < 1


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_weights_are_within_half_a_unit(bits: int) -> None:
    net, shape = dvs_net()
    for layer in quantize(net, shape, bits=bits).quantised:
        area = 4 if layer.block.pools else 1
        unit = layer.scale * area
        weight = layer.block.layer.weight.detach().double()
        assert (layer.weight.double() * unit - weight).abs().max() <= unit / 2 * (1 + 1e-6)
        assert layer.weight.abs().max() == 2 ** (bits - 1) - 1
        assert layer.threshold is not None
        assert abs(layer.threshold * layer.scale - 1) <= layer.scale / 2


def test_sixteen_bits_give_almost_the_spikes_of_the_network() -> None:
    net, shape = dvs_net()
    x = spikes(20, 4, *shape)
    expected = net(x)
    flips = [(quantize(net, shape, bits=bits)(x) != expected).float().mean() for bits in (4, 16)]
    assert expected.any()
    assert flips[1] < 0.01
    assert flips[1] < flips[0]


def test_whole_weights_are_computed_without_any_difference() -> None:
    generator = torch.Generator().manual_seed(0)
    net: Any = nn.Sequential(
        nn.Linear(8, 6), soft(threshold=64.0), nn.Linear(6, 4), soft(threshold=50)
    )
    with torch.no_grad():
        for each in net.parameters():
            each.copy_(torch.randint(-127, 128, each.shape, generator=generator))
        net[0].weight[0, 0] = net[2].weight[0, 0] = 127.0
    x = spikes(40, 3, 8)
    whole = quantize(net, (8,))
    assert [layer.scale for layer in whole.quantised] == [1.0, 1.0]
    assert torch.equal(whole(x).float(), net(x))


def test_the_network_in_floats_has_the_spikes_of_the_whole_numbers_and_goes_to_nir() -> None:
    nir = pytest.importorskip("spike_ops.nir")
    pytest.importorskip("nir")
    net, shape = dvs_net()
    x = spikes(20, 2, *shape)
    whole = quantize(net, shape, chip="loihi2")
    floats = whole.to_float()
    assert torch.equal(floats(x.double()), whole(x).double())
    graph = nir.to_nir(floats, shape, dt=1e-3)
    back = nir.from_nir(graph, dt=1e-3, dtype=torch.float64)
    assert torch.equal(back(x.double()), whole(x).double())
    assert floats(x.double()).any()


def test_a_chip_gives_its_bits() -> None:
    net = nn.Sequential(nn.Linear(4, 4), soft())
    whole = quantize(net, (4,), chip="speck")
    assert whole.state_bits == 16
    assert whole.quantised[0].weight.abs().max() == 127


@pytest.mark.parametrize(
    "layers, chip, rule",
    [
        ([nn.Linear(4, 4), LIF(3.0, reset="hard")], "speck", "reset must be soft, got hard"),
        ([nn.Linear(4, 4), LIF(3.0, reset="soft")], "xylo", "membranes must decay by 1 - 2"),
        ([nn.Linear(4, 4), Recurrent(soft(), Diagonal(4))], "speck", "among neurons of a layer"),
        ([conv(1, 2, 2), LIF(2.0, reset="soft")], "xylo", "the chip has no convolutions"),
        ([nn.Linear(4, 9), LIF(2.0, reset="soft")], "xylo", "8 outputs, the network has 9"),
        ([nn.Linear(4, 2_000), soft(), nn.Linear(2_000, 1_000), soft()], "speck", "no core has"),
        ([nn.Linear(4, 200_000), soft()], "spinnaker2", "152 cores, the network needs 200"),
    ],
)
def test_what_a_chip_cannot_run_is_not_quantised_for_it(layers: Any, chip: str, rule: str) -> None:
    net = nn.Sequential(*layers)
    shape = (1, 3, 3) if "convolutions" in rule else (4,)
    assert rule in "; ".join(check(net, chip, shape).problems)
    with pytest.raises(ValueError, match=f"the network must fit {chip}: .*{rule}"):
        quantize(net, shape, chip=chip)


def test_a_readout_is_quantised_beside_what_a_chip_runs() -> None:
    net = nn.Sequential(nn.Linear(4, 4), soft(), nn.Linear(4, 2))
    assert check(net, "speck", (4,)).problems == (
        "2: weights must have neurons behind them, a readout is for the host",
    )
    x = spikes(10, 2, 4)
    whole = quantize(net, (4,), chip="speck")
    assert torch.equal(whole(x), quantize(net, (4,), bits=8, state_bits=16)(x))


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("chip", ["loihi2", "speck"])
def test_fewer_bits_than_a_chip_has_are_used(bits: int, chip: str) -> None:
    net = nn.Sequential(nn.Linear(4, 4), soft())
    whole = quantize(net, (4,), chip=chip, bits=bits, state_bits=12)
    assert whole.quantised[0].weight.abs().max() == 2 ** (bits - 1) - 1
    assert whole.state_bits == 12
    for name, more in (("bits", 9), ("state_bits", 25)):
        most = {"bits": 8, "state_bits": 24 if chip == "loihi2" else 16}[name]
        rule = f"{name} must be at most the {most} of {chip}, got {more}"
        with pytest.raises(ValueError, match=rule):
            quantize(net, (4,), chip=chip, **{name: more})


@pytest.mark.parametrize("given", [16, [16], (5, 16), (3, 5, 16), torch.Size([5, 16])])
def test_time_and_batch_are_left_out_where_the_first_layer_tells(given: Any) -> None:
    net = nn.Sequential(nn.Dropout(0.1), nn.Linear(16, 8), soft())
    assert check(net, "loihi2", given) == check(net, "loihi2", (16,))
    torch.testing.assert_close(
        quantize(net, given).quantised[0].weight, quantize(net, (16,)).quantised[0].weight
    )


@pytest.mark.parametrize("given", [(2, 9, 9), (3, 2, 9, 9), (7, 3, 2, 9, 9)])
def test_time_and_batch_are_left_out_before_pictures_too(given: Any) -> None:
    for layers in ([conv(2, 4, 3)], [Stepwise(nn.AvgPool2d(3, 1)), conv(2, 4, 1)]):
        net = nn.Sequential(*layers, soft())
        assert check(net, "loihi2", given) == check(net, "loihi2", (2, 9, 9))


def test_layers_in_one_stepwise_are_those_in_several() -> None:
    torch.manual_seed(0)
    layers = [nn.AvgPool2d(2), nn.Conv2d(2, 4, 3)]
    apart = nn.Sequential(*map(Stepwise, layers), soft())
    together = nn.Sequential(Stepwise(nn.Sequential(*layers)), soft())
    ours, theirs = (check(net, "speck", (2, 8, 8)) for net in (together, apart))
    assert ours.placements[0].cores == theirs.placements[0].cores
    assert ours.fits
    x = spikes(5, 2, 2, 8, 8)
    assert torch.equal(quantize(together, (2, 8, 8))(x), quantize(apart, (2, 8, 8))(x))


@pytest.mark.parametrize(
    "given, got",
    [((8,), "8"), ((16, 5), "5"), ((2, 3, 5, 16), "16"), ((), ""), (0, "0"), ((5, -1), "-1"),
     (16.5, "16.5"), ("16", "16"), (None, "None")],
)  # fmt: skip
def test_a_shape_that_is_no_samples_is_refused_by_the_rule(given: Any, got: str) -> None:
    net = nn.Sequential(nn.Linear(16, 8), soft())
    for refused in (lambda: check(net, "loihi2", given), lambda: quantize(net, given)):
        with pytest.raises((ValueError, TypeError), match=f"input_shape must be.*{got}"):
            refused()


def test_a_readout_gives_currents() -> None:
    net = nn.Sequential(nn.Linear(4, 4), soft(), nn.Linear(4, 2))
    whole = quantize(net, (4,))
    x = spikes(10, 2, 4)
    out = whole(x) * whole.quantised[-1].scale
    hidden = quantize(net[:2], (4,))(x).float()
    np.testing.assert_allclose(out, net[2](hidden).detach(), atol=5 * whole.quantised[-1].scale)


class Half(LIF):
    def transition(self, current: Tensor, state: Any, *constants: Tensor) -> Any:
        return super().transition(current / 2, state, *constants)


class Late(Recurrent):
    def initial(self, current: Tensor) -> Any:
        return tuple(each + 1 for each in super().initial(current))


def test_neurons_with_a_step_of_their_own_fit_no_chip() -> None:
    for neurons, told in (
        (Half(), "run the step of LIF, got Half"),
        (Recurrent(Half(), Diagonal(4)), "run the step of LIF, got Half"),
        (Late(soft(), Diagonal(4)), "run the step of Recurrent, got Late"),
    ):
        net = nn.Sequential(nn.Linear(4, 4), neurons)
        with pytest.raises(ValueError, match=told):
            quantize(net, (4,))
        with pytest.raises(ValueError, match=told):
            check(net, "loihi2", (4,))


def test_what_cannot_be_quantised_is_refused() -> None:
    net = nn.Sequential(nn.Linear(4, 4), soft())
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"bits": 1}, "bits must be"), ({"bits": 17}, "bits must be"),
        ({"state_bits": 4}, "state_bits must be"), ({"chip": "abacus"}, "chip must be one of"),
    ]  # fmt: skip
    for options, rule in wrong:
        with pytest.raises(ValueError, match=rule):
            quantize(net, (4,), **options)
    delayed = nn.Sequential(nn.Linear(4, 4), IF(reset="soft", reset_delay=True))
    for bad, rule in (
        (nn.Sequential(nn.Linear(4, 4), ALIF()), "chips run"),
        (nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)), "must not follow weights"),
        (nn.Sequential(soft(), nn.Linear(4, 4)), "right behind weights"),
        (nn.Sequential(nn.Linear(3, 4), soft()), "must take samples"),
        (nn.Sequential(nn.Linear(4, 4), soft(threshold=1e9)), "thresholds"),
        (delayed, "reset delayed"),
    ):
        with pytest.raises(ValueError, match=rule):
            quantize(bad, (4,))
    for layers, rule in (
        ([nn.AvgPool2d(2, divisor_override=3), nn.Conv2d(2, 3, 2)], "divide by its size or by 1"),
        ([nn.AvgPool2d((2, 3), ceil_mode=True), nn.Conv2d(2, 3, 2)], "must round down"),
        ([nn.AvgPool2d(2, padding=(0, 1), count_include_pad=False), nn.Conv2d(2, 3, 2)], "padded"),
        ([nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular")], "padding_mode must be 'zeros'"),
    ):
        pictures = nn.Sequential(*map(Stepwise, layers), soft())
        with pytest.raises(ValueError, match=rule):
            quantize(pictures, (2, 7, 7))
        with pytest.raises(ValueError, match=rule):
            check(pictures, "speck", (2, 7, 7))
    whole = quantize(net, (4,))
    for inputs, rule in (
        (torch.tensor([[[1.0, 0.0, 0.5, 1.0]]]), "whole numbers: spikes or counts, got 0.5"),
        (torch.ones(2, 4), r"spikes must be \[T, B, 4\], got \(2, 4\)"),
        (torch.ones(2, 1, 5), r"spikes must be \[T, B, 4\], got \(2, 1, 5\)"),
        (np.ones((2, 1, 4)), "spikes must be a torch.Tensor, got ndarray"),
    ):
        with pytest.raises((TypeError, ValueError), match=rule):
            whole(inputs)
    with pytest.raises(TypeError, match=r"input must be float64.*got torch.float32"):
        whole.to_float()(torch.ones(2, 1, 4))


def test_samples_before_a_linear_layer_may_be_flat_or_not() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(2), nn.Linear(8, 3), soft())
    whole, x = quantize(net, (2, 2, 2)), spikes(5, 3, 2, 2, 2)
    assert torch.equal(whole(x), whole(x.flatten(2)))
    with pytest.raises(ValueError, match=r"\[T, B, 2, 2, 2\], got \(5, 3, 7\)"):
        whole(x.flatten(2)[..., :7])


class Own(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weights, self.neurons = nn.Linear(8, 8), soft()

    def forward(self, x: Tensor) -> Tensor:
        return self.neurons(self.weights(x))


@pytest.mark.parametrize(
    "net, rule",
    [
        (Own(), "Own: a network must be an nn.Sequential of Linear, .* got Own with its own"),
        (nn.Sequential(Own()), "0: a network must be an nn.Sequential of"),
        (nn.Sequential(nn.GRU(8, 8)), "0: chips run Linear, .* got GRU"),
    ],
)
def test_what_is_no_sequence_of_known_layers_is_told_so(net: nn.Module, rule: str) -> None:
    for refused in (lambda: check(net, "loihi2", 8), lambda: quantize(net, 8)):
        with pytest.raises(ValueError, match=rule):
            refused()


@pytest.mark.parametrize(
    "options",
    [{"divisor_override": 4}, {"divisor_override": 1}, {"count_include_pad": False},
     {"padding": 1}],
)  # fmt: skip
def test_pools_that_divide_by_their_size_or_not_at_all_are_computed_as_they_are(
    options: dict[str, Any],
) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(2, 3, 2)
    net = nn.Sequential(Stepwise(nn.AvgPool2d(2, **options)), Stepwise(layer))
    x = spikes(5, 2, 2, 6, 6)
    whole = quantize(net, (2, 6, 6), bits=16)
    close = whole(x) * whole.quantised[0].scale
    np.testing.assert_allclose(close, net(x).detach(), atol=40 * whole.quantised[0].scale)


def test_connections_that_a_mask_leaves_out_are_none_on_a_chip() -> None:
    mask = torch.rand(8, 16, generator=torch.Generator().manual_seed(0)) < 0.3
    layer = Linear(16, 8, bias=False, spike_in=True, mask=mask)
    nn.init.normal_(layer.weight)  # outside the mask too
    net = nn.Sequential(layer, soft())
    whole = quantize(net, (16,), bits=16)
    assert not whole.quantised[0].weight[~mask].any()
    assert check(net, "loihi2", (16,)).placements[0].synapses == int(mask.sum())
    x = spikes(20, 4, 16)
    assert (whole(x).float() != net(x)).float().mean() < 0.02


def test_a_chip_holds_the_synapses_that_there_are() -> None:
    layer = SparseSynapse(60, 50, bias=False, connection="random", probability=0.1)
    mine = Chip("mine", 1, 1000, 1000, 400, 8, 16, ("soft",), "none", False, "none")
    assert check(nn.Sequential(layer, soft()), mine, (60,)).fits
    assert not check(nn.Sequential(nn.Linear(60, 50), soft()), mine, (60,)).fits


def test_a_readout_never_wraps_around() -> None:
    net = nn.Sequential(nn.Linear(100, 2, bias=False))
    net[0].weight.data.fill_(1.0)
    whole = quantize(net, (100,))
    with pytest.raises(OverflowError, match="sums of the readout must be below 2"):
        whole(torch.full((1, 1, 100), 1e6))
    assert whole(torch.full((1, 1, 100), 1e4)).tolist() == [[[127_000_000] * 2]]


@pytest.mark.parametrize(
    "layers, shape",
    [
        ([conv(2, 6, 8, bias=False), soft(), nn.Flatten(2)], (2, 8, 8)),
        ([conv(2, 6, 3), soft(), Stepwise(nn.AvgPool2d(6)), nn.Flatten(2)], (2, 8, 8)),
        ([nn.Flatten(2)], (2, 3)),
    ],
    ids=["a map of one place", "an average of all places", "two axes"],
)
def test_the_network_in_floats_has_the_flattens_of_the_network(layers: Any, shape: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*layers, nn.Linear(6, 3, bias=False), soft())
    whole, x = quantize(net, shape), spikes(10, 2, *shape)
    assert torch.equal(whole.to_float()(x.double()), whole(x).double())


def test_a_batch_of_none_has_no_spikes() -> None:
    net = nn.Sequential(conv(1, 2, 2), soft(), nn.Flatten(2), nn.Linear(2, 3), soft())
    assert quantize(net, (1, 2, 2))(torch.ones(3, 0, 1, 2, 2)).shape == (3, 0, 3)


@pytest.mark.parametrize("run", [check, lambda net, chip, shape: quantize(net, shape)])
def test_a_linear_layer_hears_one_axis(run: Any) -> None:
    with pytest.raises(
        ValueError, match=r"1: a linear layer must hear one axis, got .*\(1, 4, 4\)"
    ):
        run(nn.Sequential(Stepwise(nn.AvgPool2d(2)), nn.Linear(4, 5), soft()), "loihi2", (1, 8, 8))


@pytest.mark.parametrize(
    "neurons, bias, rule",
    [
        (soft(), float("nan"), "biases must be finite"),
        (LIF(2e4, decay_input=False, reset="soft"), 0.0, "a leak must be one that 12 bits tell"),
    ],
)
def test_what_whole_numbers_cannot_hold_is_named(neurons: Any, bias: float, rule: str) -> None:
    layer = nn.Linear(4, 2)
    layer.bias.data.fill_(bias)
    with pytest.raises(ValueError, match=rule):
        quantize(nn.Sequential(layer, neurons), (4,))
