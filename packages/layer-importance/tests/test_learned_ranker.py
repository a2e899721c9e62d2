import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from layer_importance import MethodScores, Score, analyze
from layer_importance._consensus import consensus
from layer_importance._methods.learned_ranker import LearnedRanker
from layer_importance._ranker import (
    Held,
    Ranker,
    _left_out,
    agreement,
    centred,
    features,
    left_out,
    shipped,
)
from layer_importance._ranker_training import RankedModel, best_single, held_out, train_ranker
from layer_importance._registry import registry

ORDER = tuple(f"u{i}" for i in range(12))
WON = Held(ranker=0.9, best=0.8, method="a", advantage=0.1, standard_error=0.01)


def ranks(random: np.random.Generator) -> np.ndarray:
    return centred(random.permutation(len(ORDER)))


def values(column: np.ndarray) -> dict[str, float]:
    return dict(zip(ORDER, map(float, column), strict=True))


def zoo(
    rule: dict[str, float], *, models: int = 12, noise: float = 0.0, seed: int = 0
) -> list[RankedModel]:
    """Models whose damage is a sum of ranks by independent methods, and of place."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(models):
        columns = {name: ranks(random) for name in ("a", "b", "c")}
        known = {**columns, "depth": centred(range(len(ORDER)))}
        damage = sum(weight * known[name] for name, weight in rule.items())
        damage = damage + noise * random.normal(size=len(ORDER))
        found.append(
            RankedModel(
                model=f"m{number}",
                family=f"f{number % 3}",
                order=ORDER,
                scores={name: values(column) for name, column in columns.items()},
                shares=values(random.normal(size=len(ORDER))),
                damage=values(damage),
            )
        )
    return found


# learning


def test_a_planted_rule_is_found() -> None:
    found = train_ranker(zoo({"a": 1.0, "b": 1.0, "depth": 1.0}))
    equal = [found.coefficients[name] for name in ("a", "b", "depth")]
    assert np.std(equal) < 0.1 * np.mean(equal)
    assert abs(found.coefficients["c"]) < 0.1 * np.mean(equal)
    assert abs(found.coefficients["parameters"]) < 0.1 * np.mean(equal)


def test_where_methods_complete_each_other_models_held_out_are_ranked_better_than_by_one() -> None:
    found = train_ranker(zoo({"a": 1.0, "b": 1.0, "depth": 1.0}))
    for held in found.held.values():
        assert held.ranker > 0.95
        assert held.best < 0.8
    assert found.refusal == ""


def test_where_one_method_is_the_damage_the_ranker_cannot_win_and_is_off() -> None:
    found = train_ranker(zoo({"a": 1.0}))
    assert found.held["one model held out"].best == pytest.approx(1.0)
    assert "is switched off" in found.refusal
    assert "1.000 of a" in found.refusal


@pytest.mark.parametrize("seed", range(5))
def test_a_ranker_of_shuffled_damages_is_refused(seed: int) -> None:
    random = np.random.default_rng(seed)
    true = zoo({"a": 1.0, "b": 1.0, "depth": 1.0}, seed=seed)
    fake = [
        replace(one, damage=values(random.permutation(list(one.damage.values())))) for one in true
    ]
    assert train_ranker(true).refusal == ""
    assert "does not beat the best single method" in train_ranker(fake).refusal


def test_a_rule_that_holds_in_one_family_alone_is_refused() -> None:
    plain = zoo({"a": 1.0, "b": 1.0})
    turned = zoo({"a": 1.0, "b": -1.0}, seed=1)
    mixed = [
        replace(plain[i] if i % 2 else turned[i], model=f"m{i}", family=str(i % 2))
        for i in range(12)
    ]
    assert train_ranker(mixed).refusal != ""


def test_a_model_held_out_does_not_teach() -> None:
    examples = zoo({"a": 1.0, "b": 1.0}, models=6)
    before = held_out(examples, lambda one: one.model)
    fake = replace(examples[0], damage=values(-np.array(list(examples[0].damage.values()))))
    after = held_out([fake, *examples[1:]], lambda one: one.model)
    # what is said of the first model is the same, and its damage is turned around
    assert after[0] == pytest.approx(-before[0])
    assert before[0] > 0.9


def test_the_best_single_method_is_the_one_of_highest_mean() -> None:
    method, alone = best_single(zoo({"a": 1.0, "b": 0.2}))
    assert method == "a"
    assert len(alone) == 12
    assert min(alone) > 0.8


def test_coefficients_are_those_of_the_normal_equations() -> None:
    examples = zoo({"a": 1.0, "c": 0.5}, noise=0.3)
    found = train_ranker(examples)
    rows = [features(ORDER, one.scores, one.shares, ["a", "b", "c"]) for one in examples]
    targets = [centred(list(one.damage.values())) for one in examples]
    x, y = np.concatenate(rows), np.concatenate(targets)
    penalty = found.penalty * len(examples) * len(ORDER)
    expected = np.linalg.solve(x.T @ x + penalty * np.eye(5), x.T @ y)
    assert list(found.coefficients.values()) == pytest.approx(expected.tolist())


@pytest.mark.parametrize(
    "examples, message",
    [
        (zoo({"a": 1.0}, models=2), "at least 3 different models"),
        ([zoo({"a": 1.0})[0]] * 4, "at least 3 different models"),
        ([replace(one, family="f") for one in zoo({"a": 1.0})], "at least 2 families"),
        ([replace(one, damage={"u0": 1.0}) for one in zoo({"a": 1.0})], "at least 5 damages"),
        ([replace(one, scores={}) for one in zoo({"a": 1.0})], "at least one method"),
    ],
)
def test_a_zoo_that_teaches_nothing_is_refused(examples: list[RankedModel], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        train_ranker(examples)


# estimates


def test_estimates_are_sums_of_ranks() -> None:
    ranker = Ranker(coefficients={"a": 0.5, "depth": 0.25, "parameters": 0.0}, penalty=0.1)
    found = ranker.estimate(["x", "y", "z"], {"a": {"x": 9.0, "y": 1.0, "z": 4.0}}, {})
    assert found == pytest.approx({"x": 0.625, "y": 0.25, "z": 0.625})


def test_any_growing_function_of_a_score_says_the_same() -> None:
    ranker = train_ranker(zoo({"a": 1.0, "b": 1.0}))
    one = zoo({"a": 1.0}, seed=5)[0]
    other = {name: {n: math.exp(3 * v) for n, v in s.items()} for name, s in one.scores.items()}
    assert ranker.estimate(ORDER, one.scores, one.shares) == pytest.approx(
        ranker.estimate(ORDER, other, one.shares)
    )


def test_what_has_no_score_counts_as_undecided() -> None:
    ranker = Ranker(coefficients={"a": 1.0, "depth": 0.0, "parameters": 0.0}, penalty=0.1)
    found = ranker.estimate(["x", "y", "z"], {"a": {"x": 2.0, "y": 1.0, "z": math.nan}}, {})
    assert found == pytest.approx({"x": 1.0, "y": 0.0, "z": 0.5})


def test_measured_damages_teach_a_rule_that_other_models_did_not() -> None:
    ranker = train_ranker(zoo({"a": 1.0}))
    gains = []
    for one in zoo({"b": 1.0}, seed=7):
        estimates = left_out(ranker, ORDER, one.scores, one.shares, one.damage)
        before = ranker.estimate(ORDER, one.scores, one.shares)
        gains.append(agreement(estimates, one.damage) - agreement(before, one.damage))
    assert np.mean(gains) > 0.3


def test_measured_damages_that_say_the_same_leave_the_ranking() -> None:
    ranker = train_ranker(zoo({"a": 1.0, "b": 1.0}))
    one = zoo({"a": 1.0, "b": 1.0}, seed=8)[0]
    drawn = ranker.refitted(ORDER, one.scores, one.shares, one.damage)
    estimates = drawn.estimate(ORDER, one.scores, one.shares)
    assert agreement(estimates, one.damage) == pytest.approx(1.0, abs=0.02)
    assert abs(drawn.coefficients["c"]) < 0.1 * drawn.coefficients["a"]


def test_what_a_ridge_without_a_row_leaves_of_it_needs_no_other_fit() -> None:
    random = np.random.default_rng(0)
    rows, wanted = random.normal(size=(9, 4)), random.normal(size=9)
    expected = []
    for i in range(9):
        x, y = np.delete(rows, i, 0), np.delete(wanted, i)
        expected.append(wanted[i] - rows[i] @ np.linalg.solve(x.T @ x + 0.3 * np.eye(4), x.T @ y))
    assert _left_out(rows, wanted, 0.3) == pytest.approx(expected)


def test_four_damages_teach_nothing() -> None:
    ranker = train_ranker(zoo({"a": 1.0, "b": 1.0}))
    one = zoo({"c": 1.0}, seed=9)[0]
    few = {name: one.damage[name] for name in ORDER[:4]}
    assert ranker.refitted(ORDER, one.scores, one.shares, few) is ranker


# the consensus


def scores_of(one: RankedModel, *names: str) -> dict[str, MethodScores]:
    columns = {**one.scores, "layer_ablation": one.damage}
    return {
        name: MethodScores(
            method=name,
            measure="1",
            direction="importance",
            scores={unit: Score(value, 0.1, 10) for unit, value in columns[name].items()},
        )
        for name in names
    }


def test_without_damage_the_ranker_comes_first_unless_it_is_off() -> None:
    one = zoo({"a": 1.0, "b": 1.0}, seed=3)[0]
    ranker = train_ranker(zoo({"a": 1.0, "b": 1.0}))
    methods = scores_of(one, "a", "b", "c")
    found = consensus(methods, ORDER, shares=one.shares, ranker=ranker)
    assert found.weights == {"learned_ranker": 1.0}
    assert agreement(found.scores, one.damage) > 0.95
    off = consensus(methods, ORDER, shares=one.shares, ranker=replace(ranker, held={}))
    assert off == consensus(methods, ORDER)


def test_a_ranker_that_knows_few_of_the_methods_has_no_say() -> None:
    one = zoo({"a": 1.0}, seed=3)[0]
    names = ("a", "x", "y", "z", "depth", "parameters")
    ranker = Ranker(
        coefficients=dict.fromkeys(names, 1.0), penalty=0.1, held={"one model held out": WON}
    )
    assert ranker.refusal == ""
    found = consensus(scores_of(one, "a"), ORDER, shares=one.shares, ranker=ranker)
    assert found.weights == {"a": 1.0}


def test_with_damage_the_ranker_is_taken_where_it_agrees_more_and_only_there() -> None:
    right, wrong = (
        train_ranker(zoo({"a": 1.0, "b": 1.0, "depth": -2.0})),
        train_ranker(zoo({"c": 1.0})),
    )
    wrong = replace(wrong, held={"one model held out": WON})
    taken, kept = 0, 0
    for one in zoo({"a": 1.0, "b": 1.0, "depth": -2.0}, noise=0.1, seed=4, models=4):
        methods = scores_of(one, "a", "b", "c", "layer_ablation")
        plain = consensus(methods, ORDER)
        found = consensus(methods, ORDER, shares=one.shares, ranker=right)
        assert found.validity.spearman >= plain.validity.spearman
        taken += "learned_ranker" in found.weights
        other = consensus(methods, ORDER, shares=one.shares, ranker=wrong)
        kept += other.validity.spearman >= plain.validity.spearman
    assert taken == kept == 4


# the method


class Block(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.scale * self.down(torch.relu(self.up(x)))


def test_it_ranks_by_one_sweep_of_its_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(*map(Block, (2.0, 0.0, 1.5, 1.0, 0.5, 3.0)), nn.Linear(8, 4))
    x = torch.randn(64, 8)
    batches = [(part, net(part).softmax(1).detach()) for part in x.split(16)]
    ranker = Ranker(
        coefficients={"skip_attribution": 0.5, "snip": 0.5, "depth": 0.0, "parameters": 0.0},
        penalty=0.1,
        held={"one model held out": WON},
    )
    methods = ["skip_attribution", "snip", LearnedRanker(ranker)]
    report = analyze(net, batches, methods=methods)
    found = report["learned_ranker"]
    columns = {
        n: report[n].values_of(list(report.units.names)) for n in ("skip_attribution", "snip")
    }
    expected = 0.5 + (centred(columns["skip_attribution"]) + centred(columns["snip"])) / 2
    assert [s.value for s in found.values()] == pytest.approx(expected.tolist())
    assert {s.samples for s in found.values()} == {64}
    assert LearnedRanker(ranker).passes(6) == (1.0, 1.0)


def test_it_is_in_the_registry_and_one_that_is_off_says_why() -> None:
    assert registry.get("learned_ranker") is LearnedRanker
    net = nn.Sequential(*[Block(1.0) for _ in range(5)], nn.Linear(8, 4))
    batches = [(torch.randn(16, 8), torch.randint(0, 4, (16,)))]
    off = Ranker(coefficients={"snip": 1.0, "depth": 0.0, "parameters": 0.0}, penalty=0.1)
    report = analyze(net, batches, methods=[LearnedRanker(off), "snip"])
    assert list(report.methods) == ["snip"]
    assert "switched off" in report.reasons["learned_ranker"]


def test_a_ranker_without_its_methods_says_which_are_missing() -> None:
    net = nn.Sequential(*[Block(1.0) for _ in range(5)], nn.Linear(8, 4))
    batches = [(torch.randn(16, 8), torch.randint(0, 4, (16,)))]
    names = ("attention_analysis", "somebody_elses", "depth", "parameters")
    ranker = Ranker(
        coefficients=dict.fromkeys(names, 1.0), penalty=0.1, held={"one model held out": WON}
    )
    report = analyze(net, batches, methods=[LearnedRanker(ranker), "snip"])
    assert "attention_analysis, somebody_elses" in report.reasons["learned_ranker"]


# files


def test_a_ranker_comes_back_from_its_file(tmp_path: Path) -> None:
    ranker = train_ranker(zoo({"a": 1.0, "b": 1.0}), {"command": "train"})
    ranker.save(tmp_path / "ranker.json")
    assert Ranker.load(tmp_path / "ranker.json") == ranker


@pytest.mark.parametrize(
    "change, message",
    [
        ({"schema": 9}, "schema must be 1, got 9"),
        ({"coefficients": {"a": 1.0}}, "must hold depth, parameters"),
        ({"coefficients": {"depth": None, "parameters": 1.0}}, "missing or wrong"),
        ({"penalty": "much"}, "missing or wrong"),
        ({"held_out": {"way": {"ranker": 1.0}}}, "missing or wrong"),
        ({"record": None}, "missing or wrong"),
    ],
)
def test_a_file_that_holds_no_ranker_is_refused(
    change: dict[str, object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "ranker.json"
    path.write_text(json.dumps({**train_ranker(zoo({"a": 1.0})).to_dict(), **change}))
    with pytest.raises(ValueError, match=message) as caught:
        Ranker.load(path)
    assert "ranker.json" in str(caught.value)


def test_the_ranker_that_is_shipped_says_how_it_came_about_and_whether_it_won() -> None:
    ranker = shipped()
    assert len(ranker.record["models"]) >= 9
    assert {"command", "versions", "units"} <= set(ranker.record)
    assert set(ranker.held) == {"one model held out", "one family held out"}
    won = all(one.advantage > one.standard_error for one in ranker.held.values())
    assert (ranker.refusal == "") == won
    known = set(registry.names())
    assert set(ranker.methods) <= known
