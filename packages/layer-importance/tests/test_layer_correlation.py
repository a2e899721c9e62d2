import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from layer_importance import MethodScores
from layer_importance._hsic import cka, linear
from layer_importance._methods.layer_correlation import LayerCorrelation, angle

Score = Callable[..., MethodScores]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


ORTHOGONAL = torch.linalg.qr(normal(6, 6, seed=7))[0]


def test_shifts_gains_and_rotations_change_nothing(score_blocks: Score) -> None:
    blocks = [lambda x: x, lambda x: 5 * x + 3, lambda x: x @ ORTHOGONAL]
    scores = score_blocks(LayerCorrelation(), blocks, normal(200, 6))
    assert len(scores) == 3
    for name in scores:
        assert abs(scores[name].value) < 1e-12


def test_the_score_is_one_minus_the_unbiased_cka_of_all_samples(score_blocks: Score) -> None:
    x = 2 * normal(300, 6)
    score = score_blocks(LayerCorrelation(samples=40), [torch.tanh], x)["blocks.0"]
    assert score.value == pytest.approx(1 - cka(linear(x), linear(x.tanh())), rel=1e-9)
    assert score.samples == 300
    assert 0 < score.standard_error < 0.05


def test_what_has_nothing_to_do_with_its_input_scores_one(score_blocks: Score) -> None:
    noise = normal(200, 128, seed=3)
    blocks = [lambda x: noise[: len(x)]]
    score = score_blocks(LayerCorrelation(), blocks, normal(200, 128), split=200)["blocks.0"]
    assert abs(score.value - 1) < 4 * score.standard_error
    assert score.value > 0.9  # the biased estimate says 0.6


def test_wide_streams_are_compared_on_a_sample(score_blocks: Score) -> None:
    x = normal(300, 6)
    streamed = score_blocks(LayerCorrelation(), [torch.tanh], x)["blocks.0"]
    method = LayerCorrelation(max_width=2, samples=100)
    sampled = score_blocks(method, [torch.tanh], x)["blocks.0"]
    assert (streamed.samples, sampled.samples) == (300, 100)
    assert abs(streamed.value - sampled.value) < 4 * sampled.standard_error


@pytest.mark.parametrize("options", [{}, {"max_width": 2, "samples": 50}])
def test_neither_the_split_nor_the_order_of_samples_matters(
    score_blocks: Score, options: dict[str, int]
) -> None:
    x = normal(90, 6)
    blocks = [torch.tanh, lambda x: x + x.relu(), torch.sin]
    whole, split, turned = (
        score_blocks(LayerCorrelation(**options), blocks, data, split=rows)
        for data, rows in ((x, 90), (x, 7), (x.flip(0), 90))
    )
    for other in (split, turned):
        for name in whole:
            assert other[name].value == pytest.approx(whole[name].value, rel=1e-9)
            assert other[name].standard_error == pytest.approx(whole[name].standard_error, rel=1e-6)
        for table in ("cka", "angular_distance"):
            ours, theirs = (torch.tensor(s.tables[table].values) for s in (whole, other))
            assert torch.allclose(ours, theirs, rtol=1e-7, equal_nan=True)


def test_tables_hold_every_pair_and_go_through_json(score_blocks: Score) -> None:
    blocks = [torch.tanh, lambda x: x @ ORTHOGONAL, lambda x: -x]
    scores = score_blocks(LayerCorrelation(), blocks, normal(100, 6))
    similar, angles = scores.tables["cka"], scores.tables["angular_distance"]
    assert similar.rows == similar.columns == ("blocks.0", "blocks.1", "blocks.2")
    assert similar["blocks.0", "blocks.2"] == pytest.approx(1, abs=1e-12)
    assert angles["blocks.2", "blocks.2"] == pytest.approx(1, abs=1e-12)
    assert math.isnan(angles["blocks.2", "blocks.0"])
    again = MethodScores.from_dict(scores.to_dict())
    assert again.tables["cka"] == similar
    assert again.tables["angular_distance"].rows == angles.rows
    assert math.isnan(again.tables["angular_distance"]["blocks.2", "blocks.0"])


def test_the_angle_of_a_span_is_that_from_its_first_input_to_its_last_output(
    score_blocks: Score,
) -> None:
    quarter = torch.zeros(6, 6, dtype=torch.float64)
    for i in range(0, 6, 2):
        quarter[i, i + 1], quarter[i + 1, i] = 1, -1
    blocks = [lambda x: x @ quarter, lambda x: x @ quarter]
    angles = score_blocks(LayerCorrelation(), blocks, normal(50, 6)).tables["angular_distance"]
    assert angles["blocks.0", "blocks.0"] == pytest.approx(0.5)
    assert angles["blocks.0", "blocks.1"] == pytest.approx(1)


def test_angles_are_exact_where_the_cosine_has_no_digits_left() -> None:
    a = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    b = torch.tensor([[1.0, 1e-10]], dtype=torch.float64)
    assert float(angle(a, b)) == pytest.approx(1e-10 / math.pi, rel=1e-9)
    assert float(angle(a, a)) == 0


def test_a_unit_that_cannot_be_compared_is_named_with_the_reason(score_blocks: Score) -> None:
    scores = score_blocks(LayerCorrelation(), [torch.zeros_like, lambda x: x], normal(20, 6))
    assert "do not differ enough" in scores.missing["blocks.0"]
    assert "do not differ enough" in scores.missing["blocks.1"]
    few = score_blocks(LayerCorrelation(), [torch.tanh], normal(3, 6))
    assert "at least 4 samples, got 3" in few.missing["blocks.0"]


def test_two_halves_merge_to_the_whole(score_blocks: Score) -> None:
    x, blocks = normal(60, 6), [torch.tanh, torch.sin]
    whole, first, second = LayerCorrelation(), LayerCorrelation(), LayerCorrelation()
    expected = score_blocks(whole, blocks, x)
    score_blocks(first, blocks, x[:25])
    score_blocks(second, blocks, x[25:])
    first.merge(second.state())
    found = first.scores()
    for name in expected:
        assert found[name].value == pytest.approx(expected[name].value, rel=1e-9)
        assert found[name].samples == 60
    assert found.tables["cka"].values[0][1] == pytest.approx(
        expected.tables["cka"].values[0][1], rel=1e-9
    )


def test_padding_counts_nowhere(score_padded: Callable[..., list[MethodScores]]) -> None:
    blocks = [torch.tanh, lambda x: x + x.sin()]
    short, filled = score_padded(LayerCorrelation, blocks)
    for name in short:
        assert filled[name].value == pytest.approx(short[name].value, rel=1e-9)
    ours, theirs = (torch.tensor(s.tables["angular_distance"].values) for s in (short, filled))
    assert torch.allclose(ours, theirs, equal_nan=True)
