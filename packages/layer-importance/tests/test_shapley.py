import itertools
import math

import pytest
import torch
from torch import nn

from layer_importance import Classification, Task, Unit, Units, analyze
from layer_importance._coalitions import count_up_to, drawn_orders, every_set, prefixes
from layer_importance._methods.layer_ablation import LayerAblation
from layer_importance._methods.shapley import Shapley


class _Sum(Task):
    name = "sum"

    def loss(self, output, labels, batch):
        return output.sum(1)


class _Squares(Task):
    name = "squares"

    def loss(self, output, labels, batch):
        return (output - labels).square().sum(1)


class _Block(nn.Module):
    def __init__(self, d=4):
        super().__init__()
        self.up, self.down = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


class _Parallel(nn.Module):
    def __init__(self, branches):
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(branches)]
        )

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


def _branches(count):
    named = dict.fromkeys(("chain", "tower", "type_name"), "")
    units = [
        Unit(name=p, path=p, index=0, parameters=0, removal="zero", **named)
        for p in (f"branches.{i}" for i in range(count))
    ]
    return Units(tuple(units))


def _chain(length, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*[_Block() for _ in range(length)]).double()


def _batch(count=10):
    return torch.randn(count, 4).double(), torch.randn(count, 4).double()


def _shapley(net, batches, task=None, units=None, **kwargs):
    method = Shapley(**kwargs)
    return analyze(net, batches, task=task or _Squares(), methods=[method], units=units)["shapley"]


def _loss_without(net, gone, batch):
    with torch.no_grad():
        x = batch[0]
        for i, block in enumerate(net):
            x = x if i in gone else block(x)
        return _Squares().loss(x, batch[1], None)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_counting_every_set_is_the_definition(depth):
    net, batch = _chain(4), _batch()
    scores = _shapley(net, [batch], depth=depth)
    for b in range(4):
        want = 0.0
        for order in itertools.permutations([i for i in range(4) if i != b]):
            for size in range(depth):
                gone = set(order[:size])
                change = _loss_without(net, gone | {b}, batch) - _loss_without(net, gone, batch)
                want += float(change.mean()) / depth / math.factorial(3)
        assert scores[str(b)].value == pytest.approx(want, rel=1e-10)
        assert scores.extras["order_error"][str(b)] == 0


def test_depth_one_is_leaving_one_out():
    net, batch = _chain(5), _batch()
    scores = _shapley(net, [batch], depth=1)
    single = analyze(net, [batch], task=_Squares(), methods=[LayerAblation()])["layer_ablation"]
    for name in single:
        assert scores[name].value == pytest.approx(single[name].value, rel=1e-12)
        error = single[name].standard_error
        assert scores[name].standard_error == pytest.approx(error, rel=1e-10)


@pytest.mark.parametrize("permutations", [1, 3, 100])
def test_values_add_up_to_what_taking_all_away_costs(permutations):
    net, batches = _chain(5), [_batch(), _batch(7)]
    scores = _shapley(net, batches, depth=None, permutations=permutations)
    whole = [_loss_without(net, range(5), b) - _loss_without(net, (), b) for b in batches]
    total = float(torch.cat(whole).mean())
    assert sum(score.value for score in scores.values()) == pytest.approx(total, rel=1e-11)
    counted = permutations == 100
    assert all((error == 0) == counted for error in scores.extras["order_error"].values())


def test_an_additive_game_is_known_after_one_permutation():
    torch.manual_seed(0)
    net, (x, y) = _Parallel(5).double(), _batch()
    scores = _shapley(net, [(x, y)], _Sum(), _branches(5), depth=None, permutations=2)
    with torch.no_grad():
        for i, branch in enumerate(net.branches):
            want = -float(branch(x).sum(1).mean())
            assert scores[f"branches.{i}"].value == pytest.approx(want, rel=1e-10)
            assert scores.extras["order_error"][f"branches.{i}"] < 1e-12


def test_a_dummy_is_worth_exactly_nothing_and_equals_are_worth_the_same():
    torch.manual_seed(0)
    net, batch = _Parallel(4).double(), _batch()
    net.branches[1].load_state_dict(net.branches[0].state_dict())
    for parameter in net.branches[2][1].parameters():
        nn.init.zeros_(parameter)
    for permutations in (2, 50):
        scores = _shapley(net, [batch], units=_branches(4), depth=None, permutations=permutations)
        assert (scores["branches.2"].value, scores["branches.2"].standard_error) == (0.0, 0.0)
    first, second = scores["branches.0"].value, scores["branches.1"].value
    assert first == pytest.approx(second, rel=1e-12)


def test_drawn_values_lie_around_the_counted_ones_as_their_error_says():
    net, batch = _chain(8), _batch(3)
    exact = _shapley(net, [batch], depth=None, permutations=40)
    drawn = _shapley(net, [batch], depth=None, permutations=20)
    assert any(exact.extras["order_error"].values()) is False
    apart = [(drawn[n].value - exact[n].value) / drawn.extras["order_error"][n] for n in exact]
    assert max(map(abs, apart)) < 4
    assert sum(z * z for z in apart) / 8 < 3
    # the same samples: the errors over samples agree nearly, those over orders are not there
    for name in exact:
        assert exact[name].standard_error == exact.extras["sample_error"][name]


def test_drawing_pieces_of_a_permutation_has_no_bias():
    net, batch = _chain(7), _batch(2)
    exact = _shapley(net, [batch], depth=3, permutations=30)
    drawn = []
    for seed in range(40):
        method = Shapley(depth=3, permutations=1)
        report = analyze(net, [batch], task=_Squares(), methods=[method], seed=seed)["shapley"]
        drawn.append([report[name].value for name in exact])
    found = torch.tensor(drawn, dtype=torch.float64)
    apart = (found.mean(0) - torch.tensor([exact[n].value for n in exact])) / (
        found.std(0) / 40**0.5
    )
    assert float(apart.abs().max()) < 4


def test_samples_and_batches_do_not_matter_to_the_value():
    net, (x, y) = _chain(6), _batch(12)
    whole = _shapley(net, [(x, y)], depth=3, permutations=3)
    parts = _shapley(net, [(x[:5], y[:5]), (x[5:], y[5:])], depth=3, permutations=3)
    for name in whole:
        assert parts[name].value == pytest.approx(whole[name].value, rel=1e-10)
        error = whole[name].standard_error
        assert parts[name].standard_error == pytest.approx(error, rel=1e-9)


def test_runs_are_those_that_are_stated():
    net, batch = _chain(6), _batch()
    for permutations, runs in ((4, 22), (2, 13)):
        scores = _shapley(net, [batch], depth=2, permutations=permutations)
        assert scores.forwards <= Shapley(depth=2, permutations=permutations).passes(6)[0] == runs


@pytest.mark.parametrize("players, depth", [(7, 3), (6, 4), (6, 3), (5, 5), (4, 1)])
def test_every_player_is_equally_often_in_the_orders_and_every_place_counts_the_same(
    players, depth
):
    groups = drawn_orders(players, depth, 5, torch.Generator().manual_seed(0))
    assert len(groups) == 5
    for orders in groups:
        assert all(len(set(order)) == depth for order in orders)
        often = torch.bincount(torch.tensor(orders).flatten(), minlength=players)
        assert often.tolist() == [len(orders) * depth // players] * players


def test_sets_are_listed_and_counted():
    assert len(prefixes([(1, 2), (2, 1)])) == 4
    assert len(list(every_set(6, 2))) == count_up_to(6, 2) == 22


def test_what_cannot_be_removed_has_a_reason():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(3, 3)).double()
    batch = torch.randn(6, 4).double(), torch.randint(0, 3, (6,))
    report = analyze(net, [batch], task=Classification(), methods=[Shapley()])
    assert set(report["shapley"]) == {"0", "2"}
    assert "changes the shape" in report["shapley"].missing["1"]
    with pytest.raises(ValueError, match="depth must be at least 1, got 0"):
        Shapley(depth=0)
    with pytest.raises(ValueError, match="permutations must be at least 1, got 0"):
        Shapley(permutations=0)
