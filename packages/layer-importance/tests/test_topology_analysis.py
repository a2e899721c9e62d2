from collections.abc import Callable

import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from layer_importance import MethodScores
from layer_importance._methods.topology_analysis import TopologyAnalysis
from layer_importance._topology import deaths, neural_persistence, relative_deaths, transport

Score = Callable[..., MethodScores]


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def clusters(count: int, each: int = 20) -> Tensor:
    """Points about the corners of a simplex whose corners are 5 apart."""
    corners = 5 / 2**0.5 * torch.eye(count, 6, dtype=torch.float64)
    return (corners[:, None] + 0.01 * normal(count, each, 6)).reshape(-1, 6)


def spanning_tree(lengths: Tensor) -> Tensor:
    """Lengths of the edges of a minimum spanning tree; a length of 0 is no edge."""
    return torch.from_numpy(minimum_spanning_tree(lengths.numpy()).data).sort().values


@pytest.mark.parametrize("count", [1, 2, 5])
def test_clusters_have_a_long_bar_for_each_but_one(count: int) -> None:
    found = deaths(clusters(count))
    assert len(found) == 20 * count - 1
    long = found[found > 0.2]
    assert len(long) == count - 1
    assert torch.allclose(long, torch.full_like(long, 4.95), atol=0.05)


def test_bars_are_the_edges_of_a_minimum_spanning_tree_also_of_length_zero() -> None:
    points = torch.cat([normal(12, 3), normal(12, 3)[:4]])
    truth = spanning_tree(torch.cdist(points[:12], points[:12]))
    assert torch.allclose(deaths(points[:12]), truth, atol=1e-6)
    assert torch.allclose(deaths(points), torch.cat([torch.zeros(4), truth]), atol=1e-6)
    assert int((deaths(points) == 0).sum()) == 4
    assert deaths(points[:1]).tolist() == []


def test_points_on_a_line_die_at_their_gaps() -> None:
    points = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert deaths(points).tolist() == [1, 2, 4]
    assert relative_deaths(points).tolist() == pytest.approx([1 / 3.5, 2 / 3.5, 4 / 3.5])
    assert relative_deaths(torch.ones(3, 2)).tolist() == [0, 0]


def test_the_distance_of_bars_is_their_optimal_transport() -> None:
    a, b = normal(30).abs(), normal(30, seed=1).abs()
    assert transport(a, b) == pytest.approx(wasserstein_distance(a, b))


def test_moving_turning_scaling_and_renaming_changes_nothing(score_blocks: Score) -> None:
    turn = torch.linalg.qr(normal(6, 6, seed=7))[0]
    blocks = [lambda x: x + 3, lambda x: x @ turn, lambda x: 7 * x, lambda x: x.flip(0)]
    scores = score_blocks(TopologyAnalysis(), blocks, normal(60, 6), split=60)
    assert max(scores[name].value for name in scores) < 1e-9


def test_a_unit_that_collapses_clusters_is_where_the_long_bars_vanish(score_blocks: Score) -> None:
    x = clusters(4)
    centres = 5 / 2**0.5 * torch.eye(4, 6, dtype=torch.float64)

    def collapse(x: Tensor) -> Tensor:
        return x - centres[torch.cdist(x, centres).argmin(1)]

    method = TopologyAnalysis()
    scores = score_blocks(method, [lambda x: x, collapse, lambda x: 2 * x], x)
    assert [scores[f"blocks.{i}"].value > 0.01 for i in range(3)] == [False, True, False]
    bars = {
        name: int((deaths(sample.rows) > 1).sum()) for name, sample in method.found("y").items()
    }
    assert bars == {"blocks.0": 3, "blocks.1": 0, "blocks.2": 0}


def test_equal_weights_have_no_persistence_and_a_star_has_most_of_it() -> None:
    assert neural_persistence(torch.full((4, 5), -0.3)) == 0
    assert neural_persistence(torch.zeros(4, 5)) == 0
    one = torch.zeros(4, 5)
    one[1, 2] = 7
    assert neural_persistence(one) == pytest.approx((7 / 8) ** 0.5)


def test_persistence_of_weights_is_that_of_the_maximum_spanning_tree() -> None:
    for shape in ((3, 7), (7, 3), (6, 6)):
        W = normal(*shape)
        m, n = shape
        lengths = torch.zeros(m + n, m + n, dtype=torch.float64)
        lengths[:m, m:] = 2 - W.abs() / W.abs().max()
        edges = 2 - spanning_tree(lengths)
        truth = ((1 - edges).square().sum() / (m + n - 1)).sqrt()
        assert neural_persistence(W) == pytest.approx(float(truth))


def test_columns_and_reasons_are_there(score_blocks: Score) -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(6, 6)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.a(x)

    scores = score_blocks(TopologyAnalysis(), [Layer(), Layer()], normal(40, 6))
    assert set(scores.extras) == {"persistence", "persistence_change", "neural_persistence"}
    assert 0 < scores.extras["neural_persistence"]["blocks.0"] < 1
    change = scores.extras["persistence_change"]["blocks.0"]
    assert abs(change) <= scores["blocks.0"].value + 1e-12
    few = score_blocks(TopologyAnalysis(), [Layer()], normal(2, 6))
    assert "needs at least 3 samples" in few.missing["blocks.0"]


def test_the_error_is_the_spread_of_other_samples(score_blocks: Score) -> None:
    values, errors = [], []
    for seed in range(25):
        x = normal(64, 6, seed=seed)
        score = score_blocks(TopologyAnalysis(), [lambda x: x**3], x)["blocks.0"]
        values.append(score.value)
        errors.append(score.standard_error)
    assert sum(errors) / 25 == pytest.approx(float(torch.tensor(values).std()), rel=0.5)


def test_splits_order_merges_and_padding_do_not_matter(
    score_blocks: Score, score_padded: Callable[..., list[MethodScores]]
) -> None:
    x, blocks = normal(90, 6), [torch.tanh, lambda x: x + x.relu()]

    def method() -> TopologyAnalysis:
        return TopologyAnalysis(samples=40)

    whole = score_blocks(method(), blocks, x, split=90)
    first, second = method(), method()
    score_blocks(first, blocks, x[:20])
    score_blocks(second, blocks, x[20:])
    first.merge(second.state())
    for other in (first.scores(), score_blocks(method(), blocks, x.flip(0), split=7)):
        for name in whole:
            assert other[name].value == pytest.approx(whole[name].value, rel=1e-9)
            assert other[name].standard_error == pytest.approx(whole[name].standard_error, rel=1e-6)
    short, filled = score_padded(TopologyAnalysis, blocks)
    for name in short:
        assert filled[name].value == pytest.approx(short[name].value, rel=1e-9)
