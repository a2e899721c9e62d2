import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance import MethodScores, analyze
from layer_importance._activity import Activity, is_elementwise
from layer_importance._methods.neuron_activation import NeuronActivation

Score = Callable[..., MethodScores]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Relu(nn.Module):
    """A block whose hidden activations are ReLUs of its input, as a module or as a function."""

    def __init__(self, kind: str, width: int = 8) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.act = nn.ReLU() if kind == "module" else None
        with torch.no_grad():
            self.up.weight.copy_(torch.eye(width))
            self.up.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.up(x)
        return x + self.down(F.relu(hidden) if self.act is None else self.act(hidden))


def test_the_score_is_the_mean_relative_size_of_what_is_added(score_blocks: Score) -> None:
    blocks = [lambda x: 1.25 * x, lambda x: x, lambda x: -x]
    scores = score_blocks(NeuronActivation(), blocks, normal(50, 6))
    assert scores["blocks.0"].value == pytest.approx(0.25, rel=1e-12)
    assert scores["blocks.1"].value == 0
    assert scores["blocks.2"].value == pytest.approx(2, rel=1e-12)
    assert scores["blocks.0"].standard_error == pytest.approx(0, abs=1e-12)


def test_nothing_added_to_a_token_of_zeros_is_nothing(score_blocks: Score) -> None:
    x = torch.zeros(5, 6, dtype=torch.float64)
    assert score_blocks(NeuronActivation(), [lambda x: x], x)["blocks.0"].value == 0


@pytest.mark.parametrize("kind", ["module", "function"])
def test_a_normal_number_into_a_relu_has_the_known_moments(score_blocks: Score, kind: str) -> None:
    scores = score_blocks(NeuronActivation(), [Relu(kind)], normal(20_000, 8), split=5_000)
    found = {column: values["blocks.0"] for column, values in scores.extras.items()}
    assert found["apoz"] == pytest.approx(0.5, abs=0.005)
    assert found["hidden_mean"] == pytest.approx(1 / math.sqrt(2 * math.pi), abs=0.005)
    assert found["hidden_square"] == pytest.approx(0.5, abs=0.01)
    assert found["dormant"] == 0


def test_planted_dead_neurons_are_the_dormant_ones(score_blocks: Score) -> None:
    block = Relu("module")
    with torch.no_grad():
        block.up.bias[:3] = -100
        block.up.bias[3] = -3.5  # fires once in 4000
    x = normal(2000, 8)
    for tau, dead in ((0.0, 3), (0.025, 4)):
        scores = score_blocks(NeuronActivation(tau=tau), [block], x)
        assert scores.extras["dormant"]["blocks.0"] == pytest.approx(dead / 8)


def test_streamed_moments_are_those_of_all_rows_also_far_from_zero() -> None:
    rows = 1e6 + normal(500, 4)
    activity, other = Activity(4), Activity(4)
    for part in rows[:300].split(13):
        activity.add(part)
    for part in rows[300:].split(7):
        other.add(part)
    activity.merge(Activity.from_state(other.state()))
    assert torch.allclose(activity.moments.variance, rows.var(0), rtol=1e-9)
    naive = (rows.float() ** 2).mean(0) - rows.float().mean(0) ** 2
    assert not torch.allclose(naive.double(), rows.var(0), rtol=0.5)


def test_the_rank_of_a_branch_counts_its_directions(score_blocks: Score) -> None:
    directions = torch.zeros(6, 6, dtype=torch.float64)
    directions[range(3), range(3)] = 1
    x = torch.linalg.qr(normal(20, 6, 6))[0]
    scores = score_blocks(NeuronActivation(), [lambda x: x + x @ directions, lambda x: x], x)
    assert scores.extras["branch_rank"]["blocks.0"] == pytest.approx(3)
    assert scores.extras["branch_rank"]["blocks.1"] == 0


@pytest.mark.parametrize(
    "module, fires",
    [
        (nn.ReLU(), True),
        (nn.GELU(), True),
        (nn.Tanh(), True),
        (nn.PReLU(), True),
        (nn.Dropout(0.5).eval(), False),
        (nn.Identity(), False),
        (nn.Softmax(-1), False),
        (nn.LayerNorm(8), False),
        (nn.Linear(8, 8), False),
        (nn.Conv1d(8, 8, 1), False),
        (nn.Sequential(nn.ReLU()), False),
    ],
)
def test_nonlinearities_are_known_by_what_they_do(module: nn.Module, fires: bool) -> None:
    assert is_elementwise(module) == fires


def test_maps_have_their_neurons_in_channels_and_a_module_used_twice_counts_twice() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 3, 3, padding=1)
            self.relu = nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.relu(x + self.b(self.relu(self.a(x))))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(x).mean((2, 3))

    method = NeuronActivation()
    report = analyze(Net(), [(torch.randn(6, 3, 4, 4), torch.zeros(6).long())], methods=[method])
    widths = [len(activity.sizes) for activity in method.found("activity").values()]
    assert widths == [5, 3, 5, 3]
    assert set(report["neuron_activation"].extras["apoz"]) == {"blocks.0", "blocks.1"}


def test_a_single_layer_has_the_neurons_right_behind_it() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    batches = [(torch.randn(9, 4), torch.zeros(9).long())]
    scores = analyze(net, batches, methods=[NeuronActivation()])["neuron_activation"]
    assert set(scores.extras["apoz"]) == {"0", "2"}
    assert "another shape" in scores.missing["4"]


def test_repeated_units_have_their_own_neurons_in_every_call() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = Relu("module")

        def forward(self, x: Tensor) -> Tensor:
            for _ in range(3):
                x = self.block(x)
            return x

    net = Net().double()
    batches = [(normal(30, 8), torch.zeros(30).long())]
    scores = analyze(net, batches, methods=[NeuronActivation()])["neuron_activation"]
    assert set(scores.extras["hidden_mean"]) == {"block#0", "block#1", "block#2"}
    x, expected = batches[0][0], {}
    for call in range(3):
        expected[f"block#{call}"] = float(x.relu().mean())
        x = net.block(x).detach()
    assert scores.extras["hidden_mean"] == pytest.approx(expected)


def test_splits_order_merges_and_padding_do_not_matter(
    score_blocks: Score, score_padded: Callable[..., list[MethodScores]]
) -> None:
    x, blocks = normal(90, 6), [Relu("module", 6), Relu("function", 6)]
    whole = score_blocks(NeuronActivation(), blocks, x, split=90)
    first, second = NeuronActivation(), NeuronActivation()
    score_blocks(first, blocks, x[:20])
    score_blocks(second, blocks, x[20:])
    first.merge(second.state())
    for other in (score_blocks(NeuronActivation(), blocks, x.flip(0), split=7), first.scores()):
        for name in whole:
            assert other[name].value == pytest.approx(whole[name].value, rel=1e-12)
            assert other[name].standard_error == pytest.approx(whole[name].standard_error, rel=1e-9)
        for column, values in whole.extras.items():
            assert other.extras[column] == pytest.approx(values, rel=1e-12)
    short, filled = score_padded(NeuronActivation, blocks)
    assert len(short.extras["apoz"]) == 2
    for column, values in short.extras.items():
        assert filled.extras[column] == pytest.approx(values, rel=1e-12)


def test_tau_must_be_a_share() -> None:
    with pytest.raises(ValueError, match="tau must be in 0..1, got 1.5"):
        NeuronActivation(tau=1.5)
