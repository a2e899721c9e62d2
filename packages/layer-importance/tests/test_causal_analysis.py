import itertools

import pytest
import torch
from torch import nn

from layer_importance import Task, Unit, Units, analyze
from layer_importance._corruptions import (
    gaussian_noise,
    permuted_features,
    resample,
    token_swap,
)
from layer_importance._methods.attribution_patching import AttributionPatching
from layer_importance._methods.causal_analysis import CausalAnalysis
from layer_importance._modalities.tabular import Tabular
from layer_importance._streams import derangement


class _First(Task):
    """A linear loss: a fixed combination of the answer."""

    name = "first"

    def loss(self, output, labels, batch):
        return output @ torch.linspace(1, 2, output.shape[-1], dtype=output.dtype)


class _Squares(Task):
    name = "squares"

    def loss(self, output, labels, batch):
        return (output - labels).square().sum(1)


class _Linear(nn.Module):
    """``x + A x``."""

    def __init__(self, d=4):
        super().__init__()
        self.a, self.b = nn.Linear(d, d, bias=False), nn.Linear(d, d, bias=False)
        nn.init.normal_(self.a.weight, std=0.5)

    @property
    def matrix(self):
        return (self.b.weight @ self.a.weight).detach()

    def forward(self, x):
        return x + self.b(self.a(x))


class _Tanh(_Linear):
    def forward(self, x):
        return x + self.b(torch.tanh(self.a(x)))


def _unit(path, removal):
    named = dict.fromkeys(("chain", "tower", "type_name"), "")
    return Unit(name=path, path=path, index=0, parameters=0, removal=removal, **named)


def _chain(block=_Linear, length=4, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(*[block() for _ in range(length)]).double()


def _batch(count=12, d=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(count, d, generator=generator, dtype=torch.float64) for _ in "xy")


def _causal(net, batches, task=None, units=None, **kwargs):
    method = CausalAnalysis(**kwargs)
    report = analyze(net, batches, task=task or _First(), methods=[method], units=units)
    return report["causal_analysis"]


def _shift(batch, generator):
    """Spoils in a way that costs something on average, as no exchange of samples does here."""
    return batch[0].sin() + 0.5, batch[1]


def _donors(count, seed=0):
    return derangement(count, torch.Generator().manual_seed(seed))


def test_in_a_linear_chain_the_total_is_the_direct_effect_and_all_paths():
    net, (x, y) = _chain(), _batch()
    scores = _causal(net, [(x, y)], corruption=_shift)
    change = x.sin() + 0.5 - x
    head = torch.linspace(1, 2, 4, dtype=torch.float64)

    def path(blocks):
        flow = change
        for b in blocks:
            flow = flow @ net[b].matrix.T
        return float((flow @ head).mean())

    paths = {p: path(p) for n in range(5) for p in itertools.combinations(range(4), n)}
    for b in range(4):
        through = sum(value for p, value in paths.items() if b in p)
        assert scores[str(b)].value == pytest.approx(through, rel=1e-10)
        assert scores.extras["necessity"][str(b)] == pytest.approx(through, rel=1e-10)
        assert scores.extras["total"][str(b)] == pytest.approx(sum(paths.values()), rel=1e-10)
        share = through / sum(paths.values())
        assert scores.extras["restored_share"][str(b)] == pytest.approx(share, rel=1e-10)
    # the skips alone are the direct effect
    assert paths[()] == pytest.approx(float((change @ head).mean()), rel=1e-12)


class _Parallel(nn.Module):
    def __init__(self, branches=3):
        super().__init__()
        self.branches = nn.ModuleList(
            [nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(branches)]
        )

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


def _parallel():
    torch.manual_seed(0)
    units = Units(tuple(_unit(f"branches.{i}", "zero") for i in range(3)))
    return _Parallel().double(), units


def test_effects_of_parallel_linear_branches_add_up_to_all_of_it():
    net, units = _parallel()
    scores = _causal(net, [_batch()], units=units, corruption=_shift)
    for column in ("restored_share", "necessity_share"):
        shares = scores.extras[column]
        assert sum(shares.values()) == pytest.approx(1, abs=1e-11)
        assert min(abs(v) for v in shares.values()) > 0.01
    total = next(iter(scores.extras["total"].values()))
    assert sum(s.value for s in scores.values()) == pytest.approx(total, rel=1e-11)


def test_noise_on_the_output_is_no_patching_and_fails_the_additivity():
    net, units = _parallel()
    x, y = _batch()
    scores = _causal(net, [(x, y)], units=units, corruption=_shift)
    total = next(iter(scores.extras["total"].values()))
    generator, head = torch.Generator().manual_seed(0), torch.linspace(1, 2, 4).double()
    fake = 0.0
    with torch.no_grad():
        for branch in net.branches:
            out = branch(x)
            noise = 0.1 * out.std() * torch.randn(out.shape, generator=generator).double()
            fake += float((noise @ head).mean())
    assert abs(fake / total - 1) > 0.1


@pytest.mark.parametrize("block", [_Linear, _Tanh])
def test_patching_the_whole_stream_of_a_chain_restores_exactly_all(block):
    scores = _causal(_chain(block), [_batch(), _batch(7, seed=2)], _Squares(), patch="stream")
    for name in scores:
        assert scores.extras["restored_share"][name] == 1.0
        assert scores.extras["necessity_share"][name] == 1.0
        assert scores[name].value == scores.extras["total"][name]


def test_a_dead_branch_restores_exactly_nothing():
    net = _chain(_Tanh)
    nn.init.zeros_(net[2].b.weight)
    scores = _causal(net, [_batch()], _Squares())
    assert (scores["2"].value, scores["2"].standard_error) == (0.0, 0.0)
    assert scores.extras["necessity"]["2"] == 0.0
    assert all(scores[n].value != 0 for n in "013")


def test_scores_are_those_of_the_plain_loop_with_its_costs():
    net, (x, y) = _chain(_Tanh), _batch()
    scores = _causal(net, [(x, y)], _Squares(), corruption=resample)
    spoiled = x[_donors(12)]

    def run(x, patch=None, added=None):
        for i, block in enumerate(net):
            x = x + added if i == patch else block(x)
        return (x - y).square().sum(1)

    with torch.no_grad():
        for b in range(4):
            clean_in, spoiled_in = x, spoiled
            for block in net[:b]:
                clean_in, spoiled_in = block(clean_in), block(spoiled_in)
            up = run(spoiled) - run(spoiled, b, net[b](clean_in) - clean_in)
            down = run(x, b, net[b](spoiled_in) - spoiled_in) - run(x)
            assert scores[str(b)].value == pytest.approx(float(up.mean()), rel=1e-10)
            error = float(up.std()) / 12**0.5
            assert scores[str(b)].standard_error == pytest.approx(error, rel=1e-10)
            got = scores.extras["necessity"][str(b)]
            assert got == pytest.approx(float(down.mean()), rel=1e-10)
    assert scores.forwards == CausalAnalysis().passes(4)[0] == 5


def test_attribution_patching_is_exact_for_a_linear_loss():
    net, batch = _chain(), _batch()
    exact = _causal(net, [batch])
    report = analyze(net, [batch], task=_First(), methods=[AttributionPatching()])
    cheap = report["attribution_patching"]
    for name in exact:
        assert cheap.extras["signed"][name] == pytest.approx(exact[name].value, rel=1e-10)
        assert cheap[name].value >= abs(cheap.extras["signed"][name])
    assert (cheap.forwards, cheap.backwards) == (2, 1)


def test_attribution_patching_is_the_derivative_of_patching():
    net = _chain(_Tanh)
    x, y = _batch(200)

    def close(batch, generator):
        return (batch[0] * (1 + 1e-6), batch[1])

    exact = _causal(net, [(x, y)], _Squares(), corruption=close)
    method = AttributionPatching(corruption=close)
    report = analyze(net, [(x, y)], task=_Squares(), methods=[method])
    cheap = report["attribution_patching"].extras["signed"]
    for name in exact:
        assert cheap[name] == pytest.approx(exact[name].value, rel=1e-3)


class _Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([_Tanh() for _ in range(3)])

    def forward(self, x, attention_mask):
        for block in self.blocks:
            x = block(x)
        weight = attention_mask[..., None].to(x.dtype)
        return torch.where(weight > 0, x, 0 * x).sum(1) / weight.sum(1)


def _padded(garbage):
    torch.manual_seed(1)
    x, mask = torch.randn(6, 5, 4, dtype=torch.float64), torch.ones(6, 5, dtype=torch.long)
    for row, length in enumerate([5, 2, 3, 4, 1, 5]):
        mask[row, length:] = 0
        x[row, length:] = garbage
    return {"x": x, "attention_mask": mask, "labels": torch.randn(6, 4, dtype=torch.float64)}


@pytest.mark.parametrize("method", [CausalAnalysis, AttributionPatching])
def test_what_is_in_the_padding_changes_no_score(method):
    torch.manual_seed(0)
    net = _Tokens().double()
    found = [
        analyze(net, [_padded(g)], task=_Squares(), methods=[method()])[method.name]
        for g in (0.0, 50.0)
    ]
    for name in found[0]:
        assert found[0][name].value == pytest.approx(found[1][name].value, rel=1e-12)
        assert found[0][name].value != 0


def test_a_corruption_must_keep_the_number_of_samples():
    with pytest.raises(ValueError, match="keep the number of samples, got 3 for 12"):
        _causal(_chain(), [_batch()], corruption=lambda batch, g: (batch[0][:3], batch[1][:3]))
    with pytest.raises(ValueError, match="patch must be one of branch, stream, got 'all'"):
        CausalAnalysis(patch="all")


@pytest.mark.parametrize("method", ["causal_analysis", "attribution_patching"])
def test_a_last_batch_of_one_is_left_out(method):
    (x, y), net = _batch(5), _chain()
    pieces = list(zip(x.split(4), y.split(4), strict=True))
    found = [
        analyze(net, batches, task=_First(), methods=[method], modality=None)[method]
        for batches in (pieces, pieces[:1])
    ]
    values = [{name: one[name].value for name in one.scores} for one in found]
    assert values[0] == values[1]
    assert values[0]
    with pytest.raises(ValueError, match="batches of at least 2 samples, got 1"):
        analyze(net, pieces[1:], task=_First(), methods=[method], modality=None)


def test_no_corruption_has_no_effect_and_no_share():
    scores = _causal(_chain(_Tanh), [_batch()], _Squares(), corruption=gaussian_noise(0.0))
    assert all(score.value == 0 for score in scores.values())
    assert all(share != share for share in scores.extras["restored_share"].values())


def test_resampling_gives_every_sample_another_one():
    x, y = torch.arange(9.0), torch.arange(9)
    spoiled = resample((x, y), torch.Generator().manual_seed(0))[0]
    assert sorted(spoiled.tolist()) == x.tolist()
    assert not (spoiled == x).any()


def test_gaussian_noise_has_the_stated_size_and_spares_labels_and_integers():
    x, ids, y = torch.randn(50, 400).double() * 7, torch.arange(50), torch.randn(50)
    spoiled = gaussian_noise(3.0)((x, ids, y), torch.Generator().manual_seed(0))
    assert float((spoiled[0] - x).std() / x.std()) == pytest.approx(3, rel=0.02)
    assert spoiled[1] is ids
    assert spoiled[2] is y
    with pytest.raises(ValueError, match="scale must be at least 0, got -1"):
        gaussian_noise(-1)


def test_tokens_are_swapped_at_the_stated_rate_within_the_real_ones():
    ids = torch.randint(5, 1000, (40, 60))
    mask = (torch.arange(60)[None] < torch.randint(10, 60, (40, 1))).long()
    ids = ids * mask
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": mask + 1, "labels": ids}
    spoiled = token_swap(0.3)(batch, torch.Generator().manual_seed(0))
    real = mask.bool()
    changed = (spoiled["input_ids"] != ids)[real].double().mean()
    assert float(changed) == pytest.approx(0.3, abs=0.05)
    assert torch.equal(spoiled["input_ids"][~real], ids[~real])
    assert bool((spoiled["input_ids"][real] >= 5).all())
    for key in ("attention_mask", "token_type_ids", "labels"):
        assert spoiled[key] is batch[key]
    pair = token_swap(1.0)((ids, torch.arange(40)), torch.Generator().manual_seed(0))
    assert not torch.equal(pair[0], ids)
    with pytest.raises(ValueError, match=r"rate must be in 0..1, got 1.5"):
        token_swap(1.5)


def test_permuted_features_keep_every_column_and_break_the_rows():
    x = torch.randn(30, 3)
    spoiled = permuted_features((x, torch.arange(30)), torch.Generator().manual_seed(0))[0]
    assert torch.equal(spoiled.sort(0).values, x.sort(0).values)
    orders = [tuple(spoiled[:, j].argsort().argsort().tolist()) for j in range(3)]
    assert len(set(orders)) == 3
    assert not torch.equal(spoiled, x)


@pytest.mark.parametrize("method", [CausalAnalysis, AttributionPatching])
def test_inputs_are_spoiled_as_their_modality_says_unless_somebody_says_how(method):
    net, batch = _chain(_Tanh), _batch(40)

    def found(modality, **kwargs):
        chosen = method(**kwargs)
        return analyze(net, [batch], methods=[chosen], task=_Squares(), modality=modality)[
            chosen.name
        ]

    columns, others = found("tabular"), found(None)
    assert set(columns.notes.values()) == {"corruption: as tabular is spoiled"}
    assert set(others.notes.values()) == {"corruption: another sample"}
    for scores, corruption in ((columns, permuted_features), (others, resample)):
        given = found("tabular", corruption=corruption)
        assert set(given.notes.values()) == {"corruption: given"}
        assert {n: s.value for n, s in given.items()} == {n: s.value for n, s in scores.items()}
    assert columns["0"].value != others["0"].value


class _Still(Tabular):
    name = "still"

    def corrupt(self, batch, generator):
        return batch


def test_a_modality_that_spoils_nothing_leaves_it_to_another_sample():
    net, batch = _chain(_Tanh), _batch(12)
    for method in (CausalAnalysis, AttributionPatching):
        name = method.name
        still = analyze(net, [batch], methods=[method()], task=_Squares(), modality=_Still())
        other = analyze(net, [batch], methods=[method()], task=_Squares(), modality=None)
        assert still[name]["0"].value == other[name]["0"].value != 0
