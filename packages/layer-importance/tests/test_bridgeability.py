from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from layer_importance import MethodScores
from layer_importance._methods.bridgeability import Bridgeability

Score = Callable[..., MethodScores]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_units_that_are_affine_or_do_nothing_leave_nothing_over(score_blocks: Score) -> None:
    A = normal(6, 6, seed=1)
    blocks = [lambda x: x @ A + 2, lambda x: x, lambda x: x + 3]
    scores = score_blocks(Bridgeability(ridge=0.0), blocks, normal(200, 6))
    assert [abs(scores[f"blocks.{i}"].value) < 1e-10 for i in range(3)] == [True] * 3
    assert scores["blocks.1"].value == 0


def test_of_what_no_linear_map_knows_all_of_the_change_is_left(score_blocks: Score) -> None:
    # x and x^2 are not correlated, with variances 1 and 2
    scores = score_blocks(Bridgeability(), [lambda x: x + x.square()], normal(4000, 3), split=500)
    assert scores.extras["change_left"]["blocks.0"] == pytest.approx(1, abs=0.02)
    assert scores["blocks.0"].value == pytest.approx(2 / 3, abs=0.03)


def test_the_share_left_over_is_one_minus_r_squared(score_blocks: Score) -> None:
    # f = relu(x): half of it is x/2, the rest |x|/2 with variance (1 - 2/pi)/4 of (1 - 1/pi)/2
    scores = score_blocks(Bridgeability(), [lambda x: x + x.relu()], normal(20_000, 2), split=5_000)
    left, change = (1 - 2 / torch.pi) / 4, (1 - 1 / torch.pi) / 2
    found = scores.extras["change_left"]["blocks.0"]
    assert found == pytest.approx(left / change, rel=0.03)
    assert scores["blocks.0"].value == pytest.approx(left / (1 + 2 * 0.5 + change), rel=0.03)
    assert scores["blocks.0"].samples == 20_000


def test_a_small_change_is_little_even_if_no_map_knows_it(score_blocks: Score) -> None:
    scores = score_blocks(Bridgeability(), [lambda x: x + 1e-3 * x.square()], normal(2000, 3))
    assert scores["blocks.0"].value == pytest.approx(2e-6, rel=0.1)
    assert scores.extras["change_left"]["blocks.0"] > 0.9


def test_a_fit_is_judged_on_other_samples(score_blocks: Score) -> None:
    noise = normal(30, 12, seed=5)

    def unrelated(x: Tensor) -> Tensor:
        return x + noise[: len(x)]

    scores = score_blocks(Bridgeability(ridge=0.0), [unrelated], normal(30, 12))
    # on its own samples it would explain nearly all
    assert scores.extras["change_left"]["blocks.0"] > 1


def test_spans_have_their_own_moments_and_bridges(score_blocks: Score) -> None:
    blocks = [torch.tanh, torch.atanh, lambda x: x + x.square()]
    method = Bridgeability(spans=[("blocks.0", "blocks.1"), ("blocks.0", "blocks.2")], ridge=0.0)
    x = normal(300, 4)
    scores = score_blocks(method, blocks, x)
    table = scores.tables["span_left"]
    assert table["blocks.0", "blocks.1"] == pytest.approx(0, abs=1e-9)
    assert scores["blocks.0"].value > 0.02
    assert table["blocks.0", "blocks.2"] > 0.5
    bridge = method.bridge("blocks.0", "blocks.1")
    assert torch.allclose(bridge(x), x, atol=1e-9)
    with pytest.raises(ValueError, match="no unit and no span that was asked for"):
        method.bridge("blocks.1", "blocks.2")


def test_the_bridge_of_a_unit_is_fitted_on_all_samples(score_blocks: Score) -> None:
    method, x = Bridgeability(ridge=0.0), normal(50, 3)
    score_blocks(method, [torch.tanh], x)
    X, F = x - x.mean(0), x.tanh() - x
    direct = torch.linalg.lstsq(X, F - F.mean(0)).solution
    assert torch.allclose(method.bridge("blocks.0").weight, direct, atol=1e-10)


def test_units_without_a_map_are_named_with_the_reason(score_blocks: Score) -> None:
    scores = score_blocks(Bridgeability(max_width=4), [torch.tanh], normal(20, 6))
    assert scores.missing == {"blocks.0": "its stream is wider than 4: 6"}
    one = score_blocks(Bridgeability(), [torch.tanh], normal(1, 6))
    assert "needs samples in both halves" in one.missing["blocks.0"]
    narrower = score_blocks(Bridgeability(), [lambda x: x[:, :3]], normal(20, 6))
    assert "another shape" in narrower.missing["blocks.0"]


def test_splits_order_merges_and_padding_do_not_matter(
    score_blocks: Score, score_padded: Callable[..., list[MethodScores]]
) -> None:
    x, blocks = normal(90, 6), [torch.tanh, lambda x: x + x.relu()]
    whole = score_blocks(Bridgeability(), blocks, x, split=90)
    for data, rows in ((x, 7), (x.flip(0), 40)):
        other = score_blocks(Bridgeability(), blocks, data, split=rows)
        for name in whole:
            assert other[name].value == pytest.approx(whole[name].value, rel=1e-9)
    first, second = Bridgeability(), Bridgeability()
    score_blocks(first, blocks, x[:20])
    score_blocks(second, blocks, x[20:])
    first.merge(second.state())
    for name in whole:
        assert first.scores()[name].value == pytest.approx(whole[name].value, rel=1e-9)
        assert first.scores()[name].samples == 90
    short, filled = score_padded(Bridgeability, blocks)
    for name in short:
        assert filled[name].value == pytest.approx(short[name].value, rel=1e-9)
