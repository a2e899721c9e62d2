from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from layer_importance import MethodScores
from layer_importance._methods.spectral_analysis import SpectralAnalysis

Score = Callable[..., MethodScores]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


class Layer(nn.Module):
    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(*weight.T.shape), nn.LayerNorm(6)
        with torch.no_grad():
            self.linear.weight.copy_(weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.linear(x)


def test_the_score_counts_the_directions_of_what_is_added(score_blocks: Score) -> None:
    x = torch.linalg.qr(normal(60, 6) - normal(60, 6).mean(0))[0]
    x = x - x.mean(0)
    x = torch.linalg.qr(x)[0]  # white, about its mean
    two = torch.diag(torch.tensor([1.0, 1, 0, 0, 0, 0])).double()
    blocks = [lambda x: x + x @ two, lambda x: x, lambda x: x + 2]
    scores = score_blocks(SpectralAnalysis(), blocks, x)
    assert scores["blocks.0"].value == pytest.approx(2, rel=1e-6)
    assert scores["blocks.1"].value == 0
    assert scores["blocks.2"].value == 0
    assert scores["blocks.0"].samples == 60


def test_it_counts_directions_and_not_sizes(score_blocks: Score) -> None:
    scores = score_blocks(
        SpectralAnalysis(), [lambda x: x + 1e-3 * x.tanh(), lambda x: x + x.tanh()], normal(200, 6)
    )
    assert scores["blocks.0"].value == pytest.approx(scores["blocks.1"].value, rel=0.01)


def test_weights_have_their_columns(score_blocks: Score) -> None:
    diagonal = torch.diag(torch.tensor([3.0, 1, 1, 1, 1, 1]))
    blocks = [Layer(diagonal), Layer(torch.zeros(6, 6)), Layer(torch.eye(6))]
    extras = score_blocks(SpectralAnalysis(), blocks, normal(20, 6)).extras
    assert extras["stable_rank"]["blocks.0"] == pytest.approx(14 / 9 / 6)
    assert extras["weight_norm"]["blocks.0"] == pytest.approx(14**0.5)
    assert extras["weight_rank"]["blocks.1"] == 0
    assert extras["weight_rank"]["blocks.2"] == pytest.approx(1)
    assert "alpha" not in extras  # six values are no tail


def test_random_weights_have_no_spikes_and_a_steep_tail(score_blocks: Score) -> None:
    planted = normal(64, 64) + 40 * torch.outer(*[v / v.norm() for v in normal(2, 64, seed=1)])
    blocks = [Layer(normal(64, 64)), Layer(planted)]
    for block in blocks:
        block.norm = nn.LayerNorm(64)
    extras = score_blocks(SpectralAnalysis(), blocks, normal(20, 64)).extras
    assert extras["spikes"] == {"blocks.0": 0.0, "blocks.1": 1 / 64}
    assert extras["alpha"]["blocks.0"] > 1


def test_units_that_are_not_scored_say_why_and_keep_their_weights(score_blocks: Score) -> None:
    scores = score_blocks(SpectralAnalysis(max_width=4), [Layer(torch.eye(6))], normal(20, 6))
    assert scores.missing == {"blocks.0": "its stream is wider than 4: 6"}
    assert scores.extras["weight_rank"]["blocks.0"] == pytest.approx(1)


def test_splits_order_merges_and_padding_do_not_matter(
    score_blocks: Score, score_padded: Callable[..., list[MethodScores]]
) -> None:
    x, blocks = normal(90, 6), [torch.tanh, lambda x: x + x.relu()]
    whole = score_blocks(SpectralAnalysis(), blocks, x, split=90)
    first, second = SpectralAnalysis(), SpectralAnalysis()
    score_blocks(first, blocks, x[:20])
    score_blocks(second, blocks, x[20:])
    first.merge(second.state())
    turned = score_blocks(SpectralAnalysis(), blocks, x.flip(0), split=7)
    for other in (first.scores(), turned):
        for name in whole:
            assert other[name].value == pytest.approx(whole[name].value, rel=1e-9)
    short, filled = score_padded(SpectralAnalysis, blocks)
    for name in short:
        assert filled[name].value == pytest.approx(short[name].value, rel=1e-9)
