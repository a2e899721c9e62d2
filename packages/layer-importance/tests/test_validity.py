import json
import math

import numpy as np
import pytest
from scipy import stats

from layer_importance import MethodScores, Score
from layer_importance._consensus import Consensus, consensus
from layer_importance._estimated_damage import estimated_damage
from layer_importance._validity import (
    Validity,
    partial_spearman,
    spearman,
    split_half,
    validity,
)

ORDER = [f"u{i}" for i in range(12)]


def scores(method: str, values: list[float], error: float = math.nan, **extras: list[float]):
    each = {name: Score(v, error, 10) for name, v in zip(ORDER, values, strict=False)}
    columns = {c: dict(zip(ORDER, v, strict=False)) for c, v in extras.items()}
    return MethodScores(
        method=method, measure="1", direction="importance", scores=each, extras=columns
    )


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_rank_correlation_is_that_of_scipy_with_ties(random: np.random.Generator) -> None:
    a, b = random.integers(0, 5, 30), random.integers(0, 5, 30)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_partial_correlation_is_that_of_what_depth_leaves_over(random: np.random.Generator) -> None:
    a, b, c = (stats.rankdata(random.normal(size=40)) for _ in range(3))
    left = [v - np.polyval(np.polyfit(c, v, 1), c) for v in (a, b)]
    assert partial_spearman(a, b, c) == pytest.approx(np.corrcoef(*left)[0, 1])


def test_what_knows_depth_alone_has_no_partial_correlation() -> None:
    damage = [5.0, 9.0, 3.0, 7.0, 1.0, 2.0]
    depth = [6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    found = validity({"layer_ablation": scores("x", damage), "d": scores("d", depth)}, ORDER)
    assert found.methods["d"].partial == 0.0
    assert found.methods["d"].spearman == found.depth.spearman > 0.5


def test_reliability_is_stepped_up_from_half_to_whole() -> None:
    first = dict(zip(ORDER, [1.0, 2, 3, 4, 5], strict=False))
    second = dict(zip(ORDER, [2.0, 1, 3, 4, 5], strict=False))
    # Spearman's r = 1 - 6 * 2 / (5 * 24) = 0.9
    assert split_half(first, second) == pytest.approx(2 * 0.9 / 1.9)


def test_halves_that_contradict_each_other_are_not_stepped_up() -> None:
    first = dict(zip(ORDER, [1.0, 2, 3, 4, 5], strict=False))
    assert split_half(first, {name: -value for name, value in first.items()}) == pytest.approx(-1)


def test_the_ceiling_is_the_reliability_of_the_damage() -> None:
    even, odd = [1.0, 2, 3, 4, 5], [2.0, 1, 3, 4, 5]
    found = validity({"layer_ablation": scores("x", even, even=even, odd=odd)}, ORDER)
    assert found.ceiling == pytest.approx(1.8 / 1.9)
    assert found.measured == 5


def test_four_units_say_nothing() -> None:
    found = validity({"layer_ablation": scores("x", [1, 2, 3, 4])}, ORDER)
    assert math.isnan(found.depth.spearman)
    assert found.depth.units == 4


def test_validity_comes_back_from_json() -> None:
    damage = scores("x", [3.0, 1.0, 2.0, 5.0, 4.0])
    found = validity({"layer_ablation": damage, "a": scores("a", [1.0] * 5)}, ORDER)
    again = Validity.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again.to_dict() == found.to_dict()


def planted(random: np.random.Generator, noises: dict[str, float]) -> dict[str, MethodScores]:
    truth = random.permutation(12) * 1.0
    found = {
        name: scores(name, (truth + noise * random.normal(size=12)).tolist())
        for name, noise in noises.items()
    }
    return {**found, "layer_ablation": scores("layer_ablation", truth.tolist(), 0.1)}


def test_noise_gets_less_weight_than_what_agrees_with_the_damage(
    random: np.random.Generator,
) -> None:
    methods = planted(random, {"good": 3.0, "fair": 3.5, "noise": 100.0, "noise2": 100.0})
    found = consensus(methods, ORDER)
    assert sum(found.weights.values()) == pytest.approx(1)
    assert found.weights.get("noise", 0.0) < found.weights["good"] or len(found.weights) == 1


def test_a_consensus_is_better_than_the_plain_mean_of_ranks() -> None:
    gains = []
    for seed in range(20):
        random = np.random.default_rng(seed)
        methods = planted(random, {"a": 2.0, "b": 4.0, "c": 50.0, "d": 50.0, "e": 50.0})
        truth = [methods["layer_ablation"][n].value for n in ORDER]
        found = consensus(methods, ORDER)
        ranks = [stats.rankdata([methods[m][n].value for n in ORDER]) for m in "abcde"]
        ours = spearman([found.scores[n] for n in ORDER], truth)
        gains.append(ours - spearman(np.mean(ranks, 0), truth))
    assert np.mean(gains) > 0.1


def test_the_best_single_method_is_taken_where_the_mean_is_worse(
    random: np.random.Generator,
) -> None:
    methods = planted(random, {"exact": 0.0, "rough": 6.0})
    found = consensus(methods, ORDER)
    assert found.weights == {"exact": 1.0}
    assert "exact alone" in found.why
    assert "weighted mean" in found.why


def test_without_damage_the_method_known_to_be_best_is_taken() -> None:
    some = {n: scores(n, [1.0, 2.0, 3.0]) for n in ("gradient_based", "skip_attribution", "own")}
    found = consensus(some, ORDER)
    assert found.weights == {"skip_attribution": 1.0}
    assert "damage of 0 units is measured" in found.why


def test_an_unreliable_method_counts_less() -> None:
    random = np.random.default_rng(3)
    methods = planted(random, {"a": 3.0, "b": 3.0, "c": 3.0})
    equal = consensus(methods, ORDER, {"a": 1.0, "b": 1.0, "c": 1.0})
    less = consensus(methods, ORDER, {"a": 0.1, "b": 1.0, "c": 1.0})
    assert len(equal.weights) == 3
    assert less.weights.get("a", 0.0) < equal.weights["a"]


def test_diagnostics_have_no_say() -> None:
    diagnostic = MethodScores(
        method="rank", measure="1", direction="diagnostic", scores={"u0": Score(1.0)}
    )
    with pytest.raises(ValueError, match="scores with a direction"):
        consensus({"rank": diagnostic}, ORDER)


def test_one_unit_measured_badly_does_not_make_the_others_unsure() -> None:
    random = np.random.default_rng(0)
    truth = random.permutation(12) * 0.01
    cheap = scores("cheap", (truth + 0.02 * random.normal(size=12)).tolist())
    values = {n: Score(v, 1e-4, 9) for n, v in zip(ORDER, truth, strict=True)}
    values["u0"] = Score(2.0, 1.0, 9)
    damage = MethodScores(
        method="layer_ablation", measure="nats", direction="importance", scores=values
    )
    agreed = Consensus(scores={n: s.value for n, s in cheap.items()}, weights={"cheap": 1})
    found = estimated_damage({"cheap": cheap, "layer_ablation": damage}, agreed)
    for name, value in list(zip(ORDER, truth, strict=True))[1:]:
        assert found[name] == pytest.approx(value, abs=1e-4)
    assert abs(found["u0"]) < 0.2


def test_measurements_all_alike_unsure_are_drawn_as_by_fay_and_herriot() -> None:
    random = np.random.default_rng(1)
    x = np.arange(12.0)
    y = x + 3 * random.normal(size=12)
    damage = scores("layer_ablation", y.tolist(), 1.5)
    agreed = Consensus(scores=dict(zip(ORDER, x, strict=True)), weights={"cheap": 1})
    found = estimated_damage({"layer_ablation": damage}, agreed)
    # with equal errors the line is the plain one, and the variances add up to that around it
    slope, intercept = np.polyfit(x, y, 1)
    line = intercept + slope * x
    own = np.square(y - line).sum() / 10 - 1.5**2
    assert own > 0
    expected = (y * own + line * 1.5**2) / (own + 1.5**2)
    assert [found[n] for n in ORDER] == pytest.approx(expected.tolist())


def test_a_sure_measurement_is_kept_and_an_unsure_one_is_drawn_to_the_line() -> None:
    truth = [float(i) for i in range(11)]
    line = {"cheap": scores("cheap", [*truth, 11.0])}
    values = {n: Score(v + 0.1 * (-1) ** v, 1e-6, 9) for n, v in zip(ORDER, truth, strict=False)}
    values["u0"] = Score(8.0, 100.0, 2)
    damage = MethodScores(
        method="layer_ablation", measure="nats", direction="importance", scores=values
    )
    methods = {**line, "layer_ablation": damage}
    agreed = Consensus(scores={n: s.value for n, s in line["cheap"].items()}, weights={"cheap": 1})
    found = estimated_damage(methods, agreed)
    assert found["u5"] == pytest.approx(values["u5"].value, abs=1e-3)
    assert found["u0"] < 5.0
    assert found["u11"] > found["u10"] - 1.5  # not measured: what the line says
