import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, strategies as st

from layer_importance._plan_search import Search, oracle
from layer_importance._plan_space import Names, Space
from layer_importance._surrogate import Surrogate


class Synthetic:
    """Effects of units, of pairs of them, and a damage that grows faster than their sum."""

    def __init__(self, seed: int, units: int = 12, interaction: float = 0.0) -> None:
        random = np.random.default_rng(seed)
        self.names = [f"u{i}" for i in range(units)]
        self.alone = random.exponential(1.0, units)
        apart = np.abs(np.subtract.outer(np.arange(units), np.arange(units)))
        pairs = random.normal(0.3, 1.0, (units, units)) * np.exp(-apart / 3)
        self.pairs = np.triu(pairs, 1) * interaction * self.alone.mean()
        noise = np.exp(random.normal(0.0, 0.6, units))
        self.prior = dict(zip(self.names, (self.alone * noise).tolist(), strict=True))
        self.tried: list[Names] = []

    def damages(self, sets: Sequence[Names]) -> list[float]:
        self.tried += sets
        return [self.damage(names) for names in sets]

    def damage(self, names: Names) -> float:
        rows = sorted(self.names.index(name) for name in names)
        plain = self.alone[rows].sum() + self.pairs[np.ix_(rows, rows)].sum()
        return float(plain * (1 + 0.1 * max(len(rows) - 1, 0)))

    def space(self, remove: int) -> Space:
        groups = tuple((name,) for name in self.names)
        return Space(groups=groups, gain=lambda names: float(len(names)), need=remove)

    def recovery(self, remove: int, evaluations: int) -> float:
        """How much of the way from the median set to the best one a search goes."""
        space = self.space(remove)
        found = Search(space, self.damages, self.prior, evaluations).run()
        every = [self.damage(names) for names in space.all_sets(5000) or []]
        middle, least = float(np.median(every)), min(every)
        return (middle - self.damage(found.best)) / (middle - least)


def test_where_damages_add_up_the_best_set_is_found_in_ten_more_tries_than_units() -> None:
    assert [Synthetic(s).recovery(4, 22) for s in range(6)] == pytest.approx([1.0] * 6)


def test_interactions_cost_little_of_it() -> None:
    found = [Synthetic(s, interaction=0.5).recovery(k, 22) for s in range(8) for k in (3, 4)]
    assert np.mean(found) >= 0.95


def test_seventy_tries_are_nearly_as_good_as_all_sets() -> None:
    found = [Synthetic(s, interaction=0.5).recovery(4, 70) for s in range(8)]
    assert np.mean(found) >= 0.99


def test_a_search_tries_no_set_twice_and_keeps_its_budget() -> None:
    problem = Synthetic(3, interaction=1.0)
    found = Search(problem.space(4), problem.damages, problem.prior, 30).run()
    assert len(problem.tried) == len(set(problem.tried)) == len(found.seen) == 30


def test_the_last_units_are_always_a_candidate() -> None:
    problem = Synthetic(1)
    last = frozenset(problem.names[-3:])
    found = Search(problem.space(3), problem.damages, problem.prior, 2).run()
    assert found.from_the_end == last
    assert last in found.seen
    assert problem.damage(found.best) <= problem.damage(last)


def test_no_exchange_gains_where_the_search_ends_by_itself() -> None:
    problem = Synthetic(2, interaction=1.0)
    space = problem.space(3)
    found = Search(space, problem.damages, problem.prior, 500).run()
    near = [problem.damage(names) for names in space.neighbours(found.best)]
    assert min(near) >= problem.damage(found.best)


def test_without_a_budget_the_order_alone_decides() -> None:
    problem = Synthetic(0)
    found = Search(problem.space(2), problem.damages, problem.prior, 0).run()
    assert found.best == frozenset(sorted(problem.prior, key=problem.prior.__getitem__)[:2])
    assert not problem.tried


def test_large_sets_are_grown() -> None:
    problem = Synthetic(5, units=24, interaction=0.3)
    found = Search(problem.space(10), problem.damages, problem.prior, 80).run()
    additive = frozenset(f"u{i}" for i in np.argsort(problem.alone)[:10])
    assert problem.damage(found.best) <= problem.damage(additive)


def test_sets_that_break_the_model_are_avoided() -> None:
    problem = Synthetic(0)

    def damages(sets: Sequence[Names]) -> list[float]:
        return [float("inf") if "u3" in names else problem.damage(names) for names in sets]

    prior = {**problem.prior, "u3": 0.0}
    assert "u3" not in Search(problem.space(3), damages, prior, 40).run().best


def test_the_oracle_is_the_best_of_all_sets() -> None:
    problem = Synthetic(4, interaction=1.0)
    found = oracle(problem.space(3), problem.damages)
    every = [problem.damage(frozenset(c)) for c in itertools.combinations(problem.names, 3)]
    assert found is not None
    assert found[1] == min(every)
    assert oracle(problem.space(6), problem.damages) is None


def test_a_knapsack_takes_what_costs_least_for_what_it_frees() -> None:
    sizes = {"a": 10.0, "b": 6.0, "c": 5.0, "d": 1.0}
    space = Space(
        groups=tuple((n,) for n in sizes), gain=lambda s: sum(sizes[n] for n in s), need=11
    )
    worth = {"a": 5.0, "b": 2.0, "c": 2.0, "d": 0.1}
    assert space.cheapest(worth) == {"b", "c"}


@given(st.integers(0, 1000), st.integers(3, 7))
def test_the_knapsack_is_the_best_of_all_that_fit(seed: int, units: int) -> None:
    random = np.random.default_rng(seed)
    sizes = {str(i): float(random.integers(1, 9)) for i in range(units)}
    worth = {name: float(random.uniform(0.1, 3)) for name in sizes}
    space = Space(
        groups=tuple((n,) for n in sizes),
        gain=lambda s: sum(sizes[n] for n in s),
        need=float(random.uniform(0.2, 0.8)) * sum(sizes.values()),
        quotas=(frozenset("012"),),
    )
    every = [
        sum(worth[n] for n in chosen)
        for size in range(units + 1)
        for chosen in itertools.combinations(sizes, size)
        if space.fits(frozenset(chosen))
    ]
    found = space.cheapest(worth)
    assert (found is None) == (not every)
    assert found is None or sum(worth[n] for n in found) == pytest.approx(min(every))


def test_tied_units_go_together_and_quotas_stay() -> None:
    space = Space(
        groups=(("a", "b"), ("c",), ("d",)),
        gain=lambda names: float(len(names)),
        need=2,
        quotas=(frozenset("cd"),),
    )
    assert space.all_sets(100) == [frozenset("ab")]
    assert space.from_the_end() == frozenset("ab")


def test_a_target_out_of_reach_says_how_far_one_gets() -> None:
    problem = Synthetic(0, units=4)
    space = Space(groups=(("u0",), ("u1",)), gain=lambda names: float(len(names)), need=3)
    with pytest.raises(ValueError, match="3 has to go, and of 2 that may go 2 can"):
        Search(space, problem.damages, problem.prior, 10).run()


def test_the_surrogate_learns_a_sum_and_is_sure_of_what_it_saw() -> None:
    worth = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 0.5}
    seen = {frozenset(n): worth[n] for n in worth}
    seen |= {frozenset("ab"): 3.0, frozenset("cd"): 4.5, frozenset("abc"): 7.0}
    expected, deviation = Surrogate(list(worth), seen).predict([frozenset("bd"), frozenset("ab")])
    assert expected == pytest.approx([2.5, 3.0], rel=0.02)
    assert deviation[1] < deviation[0]


def test_the_surrogate_learns_a_pair() -> None:
    seen = {frozenset(n): 1.0 for n in "abcd"}
    seen |= {frozenset("ab"): 7.0, frozenset("cd"): 2.0, frozenset("ac"): 2.0}
    expected, _ = Surrogate(list("abcd"), seen).predict([frozenset("abd"), frozenset("acd")])
    assert expected[0] > expected[1] + 3


def test_nothing_goes_that_need_not() -> None:
    space = Space(
        groups=(("a",), ("b",), ("c",), ("d",)), gain=lambda names: float(len(names)), need=2
    )
    damage = {"a": 1.0, "b": 1.0, "c": -1.0, "d": -1.0}
    prior = {"a": 0.0, "b": 0.0, "c": 1.0, "d": 1.0}

    def damages(sets: Sequence[Names]) -> list[float]:
        # every further unit would make the loss lower
        return [sum(damage[n] for n in names) - len(names) ** 2 for names in sets]

    assert Search(space, damages, prior, 50).run().best == {"c", "d"}
