import contextlib
import copy
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from adlrns_models import RankCascade, agreement, fit_cascade, make_elastic, margin
from adlrns_models._cascade_file import _digest
from adlrns_models._cascade_ledger import Ledger


@pytest.fixture(scope="module")
def cascade(digits, digits_cnn):
    elastic = make_elastic(digits_cnn, digits[0][:512].split(64))
    return fit_cascade(elastic, digits[2][:250].split(125))


@pytest.fixture
def fresh(cascade):
    return copy.deepcopy(cascade)


BUDGETS = [0.1, 0.15, 0.2, 0.3, 0.5, 1.0]


@pytest.mark.parametrize("flops", BUDGETS)
@pytest.mark.parametrize("size", [1, 7, 500])
def test_no_stream_of_inputs_overspends_the_budget(fresh, digits, flops, size):
    fresh.set_budget(flops=flops)
    hardest_first = digits[2][margin(fresh.elastic(digits[2])).argsort()]
    for batch in hardest_first[:200].split(size):
        fresh(batch)
        assert fresh.mean_flops <= flops + 1e-12


def test_each_input_is_answered_by_the_point_it_was_worth(fresh, digits):
    rule = fresh.set_budget(flops=0.2)
    assert rule.first != rule.second
    x = digits[2][:300]
    with torch.no_grad():
        y = fresh(x)
        cheap, dear = (_at(fresh, fresh.points[k], x) for k in (rule.first, rule.second))
    went_on = torch.isclose(y, dear, atol=1e-4).all(1)
    torch.testing.assert_close(y[~went_on], cheap[~went_on], atol=1e-4, rtol=1e-4)
    unsure = torch.from_numpy(rule.escalates(margin(cheap).numpy()))
    assert not (went_on & ~unsure & ~torch.isclose(cheap, dear, atol=1e-4).all(1)).any()
    spent = fresh._shares[rule.first] + went_on.double().mean() * fresh._shares[rule.second]
    assert fresh.mean_flops == pytest.approx(float(spent), abs=0.01)


def test_unseen_inputs_agree_with_the_full_model_as_predicted(fresh, digits, digits_cnn):
    x = digits[2][250:]
    with torch.no_grad():
        full = digits_cnn(x)
        for flops in (0.12, 0.2, 0.3):
            rule = fresh.set_budget(flops=flops)
            found = agreement(fresh(x), full, None).mean()
            fixed = [agreement(_at(fresh, point, x), full, None).mean() for point in fresh.points]
            affordable = [a for a, c in zip(fixed, fresh._shares, strict=True) if c <= flops]
            assert found == pytest.approx(rule.quality, abs=0.06)  # 250 answers
            assert found >= max(affordable) - 0.02


def _at(cascade, point, x):
    with cascade.elastic.at(ranks=point.ranks):
        return cascade.elastic(x)


def test_a_full_budget_is_the_full_model_and_ranks_outside_stay(fresh, digits, digits_cnn):
    before = fresh.elastic.ranks()
    fresh.set_budget(flops=1.0)
    x = digits[2][:64]
    with torch.no_grad():
        assert agreement(fresh(x), digits_cnn(x), None).all()
    assert fresh.elastic.ranks() == before


def test_structured_inputs_and_outputs_are_taken_apart_row_by_row():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Linear(12, 24), nn.ReLU(), nn.Linear(24, 3))

        def forward(self, x, scale):
            assert scale.shape[0] == x.shape[0]
            return {"logits": self.body(x) * scale, "hidden": x, "constant": torch.ones(2)}

    model = Named()
    batches = [{"x": torch.randn(96, 12), "scale": torch.ones(96, 1)} for _ in range(3)]
    cascade = fit_cascade(make_elastic(model, batches), batches)
    for flops in (0.3, 0.5, 0.7):
        rule = cascade.set_budget(flops=flops)
        y = cascade(**batches[0])
        assert set(y) == {"logits", "hidden", "constant"}
        torch.testing.assert_close(y["hidden"], batches[0]["x"])
        assert y["logits"].shape == (96, 3), rule


def test_what_was_saved_serves_the_same(fresh, digits, digits_cnn, tmp_path):
    fresh.save(tmp_path)
    back = RankCascade.load(tmp_path, digits_cnn)
    for flops in (0.15, 0.4):
        assert back.set_budget(flops=flops) == fresh.set_budget(flops=flops)
        torch.testing.assert_close(back(digits[2]), fresh(digits[2]))
        assert back.mean_flops == fresh.mean_flops


def test_a_threshold_without_end_is_saved_and_serves_the_same(digits, digits_mlp, tmp_path):
    def certain(output):  # of every other answer, and of the rest not at all
        sure = torch.full((len(output),), float("inf"))
        sure[1::2] = 0.0
        return sure

    def quality(output, full, batch):  # the cheapest point errs where it is unsure
        good = torch.ones(len(output))
        good[1::2] = 1.0 - (output - full).abs().amax(1)[1::2]
        return good

    elastic = make_elastic(digits_mlp, [digits[0]])
    options = {"confidence": certain, "quality": quality, "lead": 0.0}
    cascade = fit_cascade(elastic, [digits[0][:200]], **options)
    assert float("inf") in [rule.threshold for rule in cascade.rules]
    cascade.save(tmp_path)

    def no_constants(name):
        raise AssertionError(name)

    json.loads((tmp_path / "cascade.json").read_text(), parse_constant=no_constants)
    back = RankCascade.load(tmp_path, digits_mlp, confidence=certain)
    assert list(back.rules) == list(cascade.rules)
    budget = next(rule.cost for rule in cascade.rules if rule.threshold == float("inf"))
    assert back.set_budget(flops=budget) == cascade.set_budget(flops=budget)
    torch.testing.assert_close(back(digits[2]), cascade(digits[2]))


@pytest.mark.parametrize("value", ["nan", "much", True, [1.0]])
def test_a_threshold_that_is_none_is_named(fresh, digits_cnn, tmp_path, value):
    fresh.save(tmp_path)
    path = tmp_path / "cascade.json"
    body = json.loads(path.read_text())
    body["rules"][0][2] = value
    del body["sha256"]
    path.write_text(json.dumps({**body, "sha256": _digest(body)}))
    with pytest.raises(
        ValueError, match=r"cascade\.json: field rules: a threshold must be a number"
    ):
        RankCascade.load(tmp_path, digits_cnn)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda body: body.update(kind="elastic"), "kind"),
        (lambda body: body.update(format=9), "format"),
        (lambda body: body["rules"][0].__setitem__(3, 0.0), "sha256"),
        (lambda body: body.pop("points"), "sha256"),
    ],
)
def test_a_damaged_file_is_named(fresh, digits_cnn, tmp_path, damage, message):
    fresh.save(tmp_path)
    path = tmp_path / "cascade.json"
    body = json.loads(path.read_text())
    damage(body)
    path.write_text(json.dumps(body))
    with pytest.raises(ValueError, match=rf"cascade\.json.*{message}"):
        RankCascade.load(tmp_path, digits_cnn)


def test_no_mutation_of_a_file_loads_another_cascade(fresh, digits_cnn, tmp_path):
    fresh.save(tmp_path)
    path = tmp_path / "cascade.json"
    good = path.read_bytes()
    for place in torch.randint(len(good), (60,)).tolist():
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x15]) + good[place + 1 :])
        with contextlib.suppress(ValueError):
            back = RankCascade.load(tmp_path, digits_cnn)
            assert list(back.rules) == list(fresh.rules)  # white space between values


def test_threads_share_one_budget(fresh, digits):
    fresh.set_budget(flops=0.2)
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        list(pool.map(fresh, digits[2].split(20)))
    assert fresh._now.ledger.inputs == 500
    assert fresh.mean_flops <= 0.2


def counted(cascade):
    """Has a cascade note what it really runs; returns the notes."""
    run, spent = cascade._run, []

    def noting(point, args, kwargs):
        spent.append(len(args[0]) * point.cost / cascade.elastic.full_cost())
        return run(point, args, kwargs)

    cascade._run = noting
    return spent


def test_a_call_that_a_new_budget_overtakes_ends_under_its_own(fresh, digits):
    rule = fresh.set_budget(flops=0.2)
    assert rule.first != rule.second
    old, spent, budgets = fresh._now.ledger, counted(fresh), iter([0.1])

    def setting(output):
        for flops in budgets:
            fresh.set_budget(flops=flops)
        return margin(output)

    fresh.confidence, x = setting, digits[2][:50]
    with torch.no_grad():
        fresh(x)
        assert fresh.mean_flops == 0.0
        assert 50 * old.mean == pytest.approx(sum(spent))
        assert old.mean <= 0.2
        spent.clear()
        for batch in x.split(7):
            fresh(batch)
            assert fresh.mean_flops <= 0.1
    assert 50 * fresh.mean_flops == pytest.approx(sum(spent))


def test_no_budget_is_overspent_while_threads_set_others(fresh, digits, monkeypatch):
    ledgers, spent = [], counted(fresh)

    def opened(budget):
        ledger = Ledger(budget)
        ledgers.append(ledger)
        return ledger

    def serve(batch):
        fresh(batch)
        fresh.set_budget(flops=0.1 + 0.4 * float(batch[0, 20]))

    monkeypatch.setattr("adlrns_models._cascade.Ledger", opened)
    fresh.set_budget(flops=0.2)
    with torch.no_grad(), ThreadPoolExecutor(4) as pool:
        list(pool.map(serve, digits[2].split(10)))
    assert all(ledger.mean <= ledger.budget + 1e-12 for ledger in ledgers)
    assert sum(ledger.inputs for ledger in ledgers) == 500
    assert sum(ledger.mean * ledger.inputs for ledger in ledgers) == pytest.approx(sum(spent))


def test_a_ledger_never_grants_less_than_nothing():
    ledger = Ledger(0.1)
    assert ledger.grant(10, 0.5, 0.5, 10) == 0
    assert ledger.mean == 0.5
    copied = copy.deepcopy(ledger)
    copied.pay(10, 0.1)
    assert (ledger.inputs, copied.inputs) == (10, 20)
    assert Ledger(float("inf")).grant(10, 0.5, 0.5, 7) == 7


def test_other_outputs_need_their_own_confidence():
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
    x = torch.randn(200, 16)
    elastic = make_elastic(model, [x])
    with pytest.raises(ValueError, match="confidence= and quality="):
        fit_cascade(elastic, [x])
    cascade = fit_cascade(
        elastic,
        [x],
        confidence=lambda y: y.squeeze(1).abs(),
        quality=lambda y, full, batch: -(y - full).square().squeeze(1),
    )
    cascade.set_budget(flops=0.5)
    assert cascade(x).shape == (200, 1)


def test_wrong_arguments_are_named(cascade, digits):
    elastic = cascade.elastic
    with pytest.raises(TypeError, match="elastic must be a ElasticModel"):
        fit_cascade(nn.Linear(2, 2), [digits[0]])
    with pytest.raises(TypeError, match="batches must be an iterable of batches"):
        fit_cascade(elastic, digits[0])
    with pytest.raises(ValueError, match="batches must hold at least one batch"):
        fit_cascade(elastic, [])
    with pytest.raises(ValueError, match=r"points must be in 2\.\."):
        fit_cascade(elastic, [digits[0]], points=1)
    with pytest.raises(ValueError, match=r"confidence must return a tensor of shape \[B\]"):
        fit_cascade(elastic, [digits[0][:8]], confidence=lambda y: y)
    with pytest.raises(ValueError, match="budget must be at least"):
        cascade.set_budget(flops=0.0)
