"""Trained networks as spiking ones: counts, errors and what is refused."""

import gzip
import itertools
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, strategies as st
from torch import Tensor, nn

from spike_ops import SpikeTensor, encoding, energy, nn as spike_nn
from spike_ops.convert import QCFS, ConversionError, ConvertedNet, Spiking, WinnerPool, convert
from spike_ops.neuron import LIF, LIFNode
from spike_ops.nn import Stepwise


def dyadic(*shape: int, seed: int, step: int = 16, width: int = 24) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-width, width + 1, shape, generator=generator) / step


def with_dyadic_weights(net: nn.Module, seed: int = 0) -> nn.Module:
    with torch.no_grad():
        for k, (name, each) in enumerate(net.named_parameters()):
            if "threshold" not in name:
                each.copy_(dyadic(*each.shape, seed=seed + k))
    return net


def quantised(levels: int) -> nn.Module:
    return with_dyadic_weights(
        nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), QCFS(levels, threshold=2.0), nn.AvgPool2d(2),
            nn.Conv2d(3, 4, 3), QCFS(levels, threshold=4.0), nn.Flatten(), nn.Linear(16, 6),
            QCFS(levels, threshold=8.0), nn.Linear(6, 3),
        )
    )  # fmt: skip


def relus(seed: int = 0, width: int = 32) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(8, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4)
    )


def inputs(*shape: int, seed: int = 1) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("levels", [1, 2, 4, 8, 16])
def test_at_as_many_steps_as_levels_every_layer_counts_its_integers(levels: int) -> None:
    net = quantised(levels)
    x = dyadic(5, 1, 8, 8, seed=9)
    spiking = convert(net, x, neurons="phased", steps=levels)
    counts = spiking.counts(x)
    heard = x
    for name, layer in net.named_children():
        if isinstance(layer, QCFS):
            assert torch.equal(counts[name], layer.integers(heard))
            assert 0 < counts[name].mean() < levels
        heard = layer(heard)
    assert torch.equal(spiking(x), net(x))


@pytest.mark.parametrize("levels", [1, 3, 4, 7])
def test_a_layer_of_plain_neurons_counts_its_integers_for_a_constant_current(levels: int) -> None:
    activation = QCFS(levels, threshold=2.0)
    z = torch.arange(-64, 192)[None] / 64 + 1 / 512  # no current just reaches a level
    made = convert(activation, z, steps=levels)
    (counts,) = made.counts(z).values()
    assert torch.equal(counts, activation.integers(z))


@given(st.integers(1, 16), st.floats(0.1, 10), st.floats(-20, 20))
def test_the_activation_is_its_formula(levels: int, threshold: float, z: float) -> None:
    module = QCFS(levels, threshold=threshold).double()
    lam = module.threshold.item()
    got = module(torch.tensor(z, dtype=torch.float64)).item()
    at = z * levels / lam + 0.5
    expected = lam * min(max(math.floor(at) / levels, 0), 1)
    near_a_step = abs(at - round(at)) < 1e-9
    assert near_a_step or got == pytest.approx(expected, rel=1e-12)


def test_the_activation_learns_as_the_line_through_its_steps() -> None:
    module = QCFS(4, threshold=2.0)
    z = torch.tensor([-1.0, 0.3, 1.4, 3.0], requires_grad=True)
    module(z).sum().backward()
    assert z.grad is not None
    assert module.threshold.grad is not None
    assert z.grad.tolist() == [0.0, 1.0, 1.0, 0.0]
    # y = λ r(z/λ): dy/dλ = r - z/λ within the range (the steps taken for the line), 1 above it
    shares = torch.tensor([0.3, 1.4]) / 2
    levels = (shares * 4 + 0.5).floor() / 4
    expected = (levels - shares).sum() + 1
    assert module.threshold.grad.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize("neurons", ["if", "signed", "phased"])
@pytest.mark.parametrize("steps", [1, 2, 5, 16, 64])
def test_a_rate_is_its_current_to_within_half_a_spike(neurons: Any, steps: int) -> None:
    theta = torch.tensor(1.5)
    z = torch.linspace(-1, 3, 401, dtype=torch.float64)[None]
    layer = Spiking(theta.double(), kind=neurons)
    layer.steps = steps
    layer(z.expand(steps, -1, -1).flatten(0, 1))
    error = (layer.rates() - z.clamp(0, 1.5)).abs().max()
    assert error <= 1.5 / (2 * steps) * (1 + 1e-9)
    assert error > 1.5 / (2 * steps) * 0.8


@pytest.mark.parametrize("neurons", ["if", "signed", "phased"])
def test_the_error_falls_as_one_over_the_steps(neurons: Any) -> None:
    net, x = relus(), inputs(64, 8)
    spiking = convert(net, x, method="max", neurons=neurons)
    rows = spiking.report(x, steps=(8, 32, 128, 512)).rows
    for fewer, more in itertools.pairwise(rows):
        assert more.output_error < 0.6 * fewer.output_error
        assert all(more.errors[name] < 0.7 * fewer.errors[name] for name in more.errors)
    assert rows[-1].output_error < 0.02


def test_signed_neurons_and_phases_are_closer_than_plain_neurons() -> None:
    net, x = relus(seed=3), inputs(128, 8)
    errors = {}
    kinds: list[Any] = ["if", "signed", "phased"]
    for kind in kinds:
        made = convert(net, x, method="max", neurons=kind)
        errors[kind] = made.report(x, steps=(16,)).rows[0].output_error
    assert errors["signed"] < errors["if"]
    assert errors["phased"] < errors["if"]


@pytest.mark.parametrize("calibration", ["current", "potential"])
def test_calibration_brings_the_mean_rates_to_the_mean_activations(calibration: Any) -> None:
    net, x = relus(seed=2), inputs(256, 8)
    options: dict[str, Any] = {"method": "max", "steps": 8}
    plain = convert(net, x, **options)
    better = convert(net, x, calibration=calibration, **options)

    def gap(made: ConvertedNet) -> float:
        made(x)
        (name, layer) = list(made.layers().items())[-1]
        activation = net[:4](x).detach()
        assert name == "3"
        return (layer.rates() - activation).mean(0).abs().mean().item()

    assert gap(better) < 0.6 * gap(plain)
    other = inputs(256, 8, seed=7)
    errors = [m.report(other, steps=(8,)).rows[0].output_error for m in (plain, better)]
    assert errors[1] < errors[0]


def test_thresholds_are_the_maxima_and_percentiles_of_the_activations() -> None:
    net, x = relus(), inputs(500, 8)
    activation = net[:2](x).detach()

    def first(**options: Any) -> Tensor:
        return convert(net, x.split(100), **options).layers()["1"].thresholds

    assert first(method="max").item() == activation.max().item()
    assert torch.equal(
        first(method="max", channelwise=True)[activation.amax(0) > 0],
        activation.amax(0)[activation.amax(0) > 0],
    )
    expected = np.percentile(activation.numpy(), 90, method="nearest")
    assert first(percentile=90.0).item() == pytest.approx(expected, rel=1e-3)
    single = convert(net, x, percentile=99.0).layers()["1"].thresholds
    assert single < activation.max()


def test_the_original_that_a_converted_network_keeps_is_not_told_as_uncounted() -> None:
    net, x = relus(), inputs(6, 8)
    made = convert(net, x, steps=4)
    by_definition = energy.count_operations(made, x, batch_axis=0)
    counts = made.count_operations(x)
    assert by_definition.uncounted == counts.uncounted == ()
    assert by_definition.effective_acs == 0
    assert counts.effective_acs > 0
    assert counts.synops == by_definition.synops


def test_percentiles_see_every_value_of_large_layers() -> None:
    x = torch.rand(500, 25, 8, 24, generator=torch.Generator().manual_seed(0))
    x[..., 0::3] *= 0.1  # as every n-th value would be where n divides the width
    theta = convert(nn.Sequential(nn.ReLU()), x).layers()["0"].thresholds
    assert (x < theta).double().mean().item() == pytest.approx(0.999, abs=1e-5)


def test_a_layer_that_never_answers_gets_a_threshold_all_the_same() -> None:
    net: Any = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    nn.init.constant_(net[0].weight, -1.0)
    nn.init.constant_(net[0].bias, -1.0)
    x = inputs(4, 2)
    for channelwise in (False, True):
        assert torch.allclose(convert(net, x, channelwise=channelwise)(x), net(x))


def test_norms_are_folded_and_the_model_stays_as_it_is() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout(0.5),
        nn.Flatten(), nn.Linear(64, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2),
    )  # fmt: skip
    x = torch.randn(32, 2, 6, 6)
    for _ in range(5):
        net(x)
    before = {name: each.clone() for name, each in net.state_dict().items()}
    with pytest.warns(UserWarning, match=r"1 is in training: .*as of net.eval\(\)"):
        made = convert(net, x, method="max", neurons="phased")
    assert net.training
    assert all(torch.equal(net.state_dict()[name], each) for name, each in before.items())
    expected = net.eval()(x)
    assert torch.allclose(made.ann(x), expected, atol=1e-5)
    assert (made(x, 2048) - expected).abs().max() < 0.02
    assert not any(isinstance(each, nn.BatchNorm2d) and each.weight is not None
                   for name, each in made.net.named_modules()
                   if any(str(n.target) == name for n in made.net.graph.nodes))  # fmt: skip


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.first(x))
        x = F.relu(self.second(x) + x)
        return self.out(self.relu(x).view(x.size(0), -1))


def test_branches_shared_and_functional_activations_are_neurons_each() -> None:
    torch.manual_seed(1)
    net, x = Residual(), inputs(16, 8)
    made = convert(net, x, method="max", neurons="phased")
    assert len(made.layers()) == 3
    assert (made(x, 1024) - net(x)).abs().max() < 0.01


@pytest.mark.parametrize("padding", [0, 1])
def test_pooled_rates_are_the_largest_rates_of_their_windows_after_every_step(padding: int) -> None:
    pool = WinnerPool(nn.MaxPool2d(2, padding=padding))
    pool.steps = 40
    spikes = (inputs(40, 3, 2, 4, 4) < inputs(3, 2, 4, 4, seed=2)).float()
    pooled = pool(spikes.flatten(0, 1)).unflatten(0, (40, -1))
    assert set(pooled.unique().tolist()) == {0.0, 1.0}
    for steps in (1, 7, 40):
        expected = F.max_pool2d(spikes[:steps].sum(0), 2, padding=padding)
        assert torch.equal(pooled[:steps].sum(0), expected)


def test_a_network_with_max_pooling_comes_close() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)
    )
    x = inputs(16, 1, 8, 8)
    rows = convert(net, x, method="max").report(x, steps=(16, 256)).rows
    assert rows[1].output_error < 0.02 < rows[0].output_error


def test_a_report_tells_what_the_network_does() -> None:
    net, x = relus(), inputs(64, 8)
    labels = net(x).argmax(-1)
    made = convert(net, x, method="max")
    report = made.report(x, labels, steps=(4, 256))
    assert report.accuracy == 1.0
    assert [row.steps for row in report.rows] == [4, 256]
    last = report.rows[1]
    assert last.accuracy == last.agreement > 0.95
    counts = made.counts(x, 256)
    fired = sum(each.sum().item() for each in counts.values())
    assert last.rate == pytest.approx(fired / (sum(e.numel() for e in counts.values()) * 256))
    assert "ANN" in str(report)
    assert report.thresholds["1"][0] == net[:2](x).max().item()


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    "net, rule",
    [
        (nn.Sequential(nn.Linear(2, 2), nn.Softmax(-1)), "1: Softmax cannot be converted"),
        (nn.Sequential(nn.Linear(2, 2), nn.GELU()), "1: GELU cannot be converted"),
        (nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2)), "1: LayerNorm cannot be converted"),
        (nn.Sequential(nn.MaxPool1d(2)), "0: MaxPool1d cannot be converted"),
        (nn.Sequential(nn.Linear(2, 2), Branching()), "traceable"),
        (nn.Sequential(nn.Linear(2, 2), LIF()), "1: LIF cannot be converted"),
        (nn.Sequential(nn.Linear(2, 2), LIFNode()), "1: LIFNode cannot be converted"),
        (nn.Sequential(Stepwise(nn.Linear(2, 2)), nn.ReLU()), "0: Stepwise cannot be converted"),
        (nn.Linear(2, 2), "Linear: a network must have activations to convert"),
        (nn.Sequential(nn.Linear(2, 2), nn.Flatten()), "must have activations to convert"),
    ],
)
def test_what_cannot_be_converted_is_refused_by_name(net: nn.Module, rule: str) -> None:
    with pytest.raises(ConversionError, match=rule):
        convert(net, torch.ones(2, 2))


def test_arguments_outside_their_range_are_refused() -> None:
    net, x = relus(), inputs(4, 8)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"method": "mean"}, "method must be one of"),
        ({"neurons": "burst"}, "neurons must be one of"),
        ({"calibration": "all"}, "calibration must be one of"),
        ({"percentile": 0.0}, "percentile must be"),
        ({"percentile": 0.999}, "percentile must be 50 to 100 per cent, got 0.999"),
        ({"steps": 0}, "steps must be at least 1"),
    ]
    for options, rule in wrong:
        with pytest.raises(ValueError, match=rule):
            convert(net, x, **options)
    with pytest.raises(ValueError, match="batches must hold"):
        convert(net, [])
    with pytest.raises(ConversionError, match="finite"):
        convert(net, torch.full((1, 8), float("nan")))
    with pytest.raises(ValueError, match="steps must be at least 1"):
        convert(net, x)(x, 0)
    for threshold in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="threshold must be positive"):
            QCFS(4, threshold=threshold)
    with pytest.raises(ValueError, match="levels must be at least 1"):
        QCFS(0)


def test_batches_with_labels_are_their_inputs() -> None:
    net, x, y = relus(), inputs(12, 8), torch.zeros(12, dtype=torch.long)
    expected = [layer.thresholds for layer in convert(net, [x[:6], x[6:]]).layers().values()]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=6)
    for batches in (loader, [(x[:6], y[:6]), (x[6:], y[6:])], [[x[:6]], [x[6:]]]):
        found = [layer.thresholds for layer in convert(net, batches).layers().values()]
        assert all(map(torch.equal, found, expected))
    for wrong, rule in (
        ((x, y), r"got torch.int64; one batch with labels goes into a list"),
        (x.numpy(), "batches must be tensors, or tuples of inputs and labels, got ndarray"),
        ({"x": x}, "got str"),
    ):
        with pytest.raises(TypeError, match=rule):
            convert(net, wrong)  # type: ignore[arg-type]


def test_a_report_takes_one_number_of_steps_and_classes_in_a_list() -> None:
    net, x = convert(relus(), inputs(12, 8)), inputs(12, 8, seed=2)
    labels = torch.arange(12) % 4
    assert net.report(x, labels, steps=8) == net.report(x, labels.tolist(), steps=[8])
    assert [row.steps for row in net.report(x, steps=range(1, 3)).rows] == [1, 2]


@pytest.mark.parametrize(
    "call, rule",
    [
        (lambda net, x: net.report(x, steps=()), "steps must be one number at least"),
        (lambda net, x: net.report(x, steps=0), "steps must be at least 1, got 0"),
        (lambda net, x: net.report(x, steps=2.5), "steps must be a whole number, got 2.5"),
        (lambda net, x: net.report(x, torch.zeros(3)), r"one class for each input, \[B\], got \(3"),
        (lambda net, x: net.report(x, torch.zeros(12, 4)), r"one class for each input"),
        (lambda net, x: net.report(x.numpy()), "inputs must be a torch.Tensor, got ndarray"),
        (lambda net, x: net(x.numpy()), "inputs must be a torch.Tensor, got ndarray"),
        (lambda net, x: net(x, 2.5), "steps must be a whole number, got 2.5"),
        (lambda net, x: net.counts(x, "8"), "steps must be a whole number, got '8'"),
        (lambda net, x: convert(relus(), x, steps=2.5), "steps must be a whole number"),
        (lambda net, x: convert(relus(), x, percentile="max"), "percentile must be a number"),
        (lambda net, x: convert(nn.ReLU, x), "model must be a torch.nn.Module"),
        (lambda net, x: net(x, encoder="rate"), "encoder must be a function .* got 'rate'"),
        (lambda net, x: net(x[:, :3]), r"inputs must be \[B, ...\] of .* got \(12, 3\)"),
        (lambda net, x: net(x.double()), r"the network takes, got \(12, 8\) torch.float64: "),
        (lambda net, x: net.report(x[:, :3]), r"inputs must be \[B, ...\] of .* got \(12, 3\)"),
        (lambda net, x: convert(relus(), x[:, :3]), r"batches must be \[B, ...\] of .*\(12, 3\)"),
        (lambda net, x: QCFS(2.5), "levels must be a whole number"),
        (lambda net, x: QCFS(2, threshold="a"), "threshold must be a number"),
    ],
)
def test_slips_of_arguments_are_named(call: Any, rule: str) -> None:
    with pytest.raises((TypeError, ValueError), match=rule):
        call(convert(relus(), inputs(12, 8)), inputs(12, 8))


def test_the_packages_own_layers_are_converted_as_torchs() -> None:
    own = nn.Sequential(
        spike_nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(),
        spike_nn.Linear(48, 4, mask=torch.ones(4, 48).tril()), nn.ReLU(),
    ).eval()  # fmt: skip
    torchs = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4), nn.ReLU()
    ).eval()
    own_state = {name: value for name, value in own.state_dict().items() if name != "4.mask"}
    torchs.load_state_dict(own_state)
    x = inputs(5, 1, 6, 6)
    torch.testing.assert_close(convert(own, x)(x), convert(torchs, x)(x))
    with pytest.raises(ConversionError, match=r"0: Linear hears spikes \(spike_in=True\)"):
        convert(nn.Sequential(spike_nn.Linear(8, 4, spike_in=True), nn.ReLU()), inputs(5, 8))


def test_errors_survive_pickling() -> None:
    error = pickle.loads(pickle.dumps(ConversionError("head", "no")))
    assert (error.node, error.rule, str(error)) == ("head", "no", "head: no")


def images(folder: Path, part: str, count: int) -> tuple[Tensor, Tensor]:
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(16 + 784 * count), np.uint8, offset=16)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = np.frombuffer(file.read(8 + count), np.uint8, offset=8)
    x = torch.from_numpy(pixels.reshape(-1, 1, 28, 28).copy()).float() / 255
    return F.avg_pool2d(x, 2), torch.from_numpy(labels.copy()).long()


def trained(net: nn.Module, x: Tensor, y: Tensor, *, epochs: int) -> nn.Module:
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(net.parameters(), lr=4e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
    return net.eval()


def small_net(make: Any) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), make(), nn.AvgPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), make(), nn.Flatten(),
        nn.Linear(16 * 49, 10),
    )  # fmt: skip


def test_a_network_for_digits_keeps_its_accuracy(data_dir: Path) -> None:
    x, y = images(data_dir / "mnist", "train", 2500)
    test_x, test_y = images(data_dir / "mnist", "t10k", 200)
    net = trained(small_net(nn.ReLU), x, y, epochs=2)
    report = convert(net, x[:300]).report(test_x, test_y, steps=(8, 32))
    assert report.accuracy is not None
    assert report.accuracy > 0.92
    few, many = (row.accuracy for row in report.rows)
    assert few is not None
    assert many is not None
    assert few > report.accuracy - 0.05
    assert many > report.accuracy - 0.01


def test_a_network_of_levels_for_digits_is_the_same_network_at_as_many_steps(
    data_dir: Path,
) -> None:
    x, y = images(data_dir / "mnist", "train", 2000)
    test_x, test_y = images(data_dir / "mnist", "t10k", 300)
    net = trained(small_net(lambda: QCFS(4, threshold=4.0)), x, y, epochs=2).double()
    test_x = test_x.double()
    report = convert(net, x[:200].double(), neurons="phased").report(test_x, test_y, steps=(4,))
    assert report.accuracy is not None
    assert report.accuracy > 0.9
    # rounding may move a sum that just reaches a level
    assert report.rows[0].agreement > 0.996
    assert report.rows[0].output_error < 1e-3


def test_layers_that_hear_neurons_add_and_those_that_hear_numbers_multiply() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5), nn.ReLU(), nn.Linear(5, 2)
    )
    x = torch.rand(4, 1, 6, 6)
    made = convert(model, x, steps=3)
    counts = made.count_operations(x)
    first, second, last = (counts.layers[f"net.{name}"] for name in ("0", "3", "5"))
    assert (first.macs, first.acs) == (3 * 4 * 2 * 9 * 16, 0)
    fired = made.counts(x)
    assert (second.macs, second.acs) == (0, int(fired["1"].sum()) * 5)
    assert (last.macs, last.acs) == (0, int(fired["4"].sum()) * 2)
    assert made.count_operations(x, 6).layers["net.0"].macs == 2 * first.macs
    assert made.steps == 3


def test_a_layer_behind_averages_of_spikes_multiplies() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(8, 2)
    )
    made = convert(model, torch.rand(4, 1, 6, 6), steps=4)
    counts = made.count_operations(torch.rand(2, 1, 6, 6))
    assert counts.layers["net.4"].macs > 0
    assert counts.effective_acs == 0


def test_an_encoded_input_is_its_mean_to_neurons_that_wait_for_all_of_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), QCFS(4), nn.Linear(8, 3))
    made, x = convert(model, torch.rand(16, 6), neurons="phased", steps=4), torch.rand(5, 6)
    seen: list[Tensor] = []

    def encoder(inputs: Tensor, steps: int) -> Tensor:
        seen.append(encoding.rate(inputs, steps))
        return seen[-1]

    got = made(x, encoder=encoder)
    torch.testing.assert_close(got, model(seen[0].mean(0)))
    packed = made(x, encoder=lambda *_: SpikeTensor.from_dense(seen[0]))
    assert torch.equal(packed, got)
    assert torch.equal(made(x, encoder=encoding.direct), made(x))
    with pytest.raises(ValueError, match=r"encoder must return \(4, 5, 6\), got \(5, 6\)"):
        made(x, encoder=lambda inputs, steps: inputs)


def test_the_error_of_spikes_at_random_falls_with_time() -> None:
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)), torch.rand(64, 6)
    made = convert(model, x)
    first, last = made.report(x, steps=(8, 512), encoder=encoding.rate).rows
    constant = made.report(x, steps=(8,)).rows[0]
    assert last.output_error < first.output_error / 4
    assert first.output_error > constant.output_error
