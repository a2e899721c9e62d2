"""Gates that learn: ranks by choice, blocks that open and close."""

import copy
from itertools import pairwise

import pytest
import torch
import torch._dynamo.testing
from torch import nn

from adlrns_models import (
    BlockGate,
    Decision,
    DynamicConv2d,
    DynamicLinear,
    Gate,
    LearnedGate,
    rank_penalty,
    record,
)
from adlrns_models._gate_learned import even_choices
from adlrns_models._gate_scorer import features
from adlrns_models.testing import check_dynamic, check_prefix_decisions

double = torch.float64
each_granularity = pytest.mark.parametrize("granularity", ["call", "sample"])
each_mode = pytest.mark.parametrize("training", [True, False])
each_gate = pytest.mark.parametrize("gate", ["learned", "block"])
each_kind = pytest.mark.parametrize("kind", ["linear", "conv"])


def make(kind, gate, granularity="call", **options):
    torch.manual_seed(0)
    options = {"gate": gate, "granularity": granularity, "dtype": double, **options}
    if kind == "linear":
        layer, x = DynamicLinear(24, 16, 12, 2, **options), torch.randn(6, 24, dtype=double)
    else:
        layer = DynamicConv2d(3, 16, 3, padding=1, r_max=12, r_min=2, **options)
        x = torch.randn(6, 3, 5, 5, dtype=double)
    with torch.no_grad():  # an untrained scorer gives all inputs the same
        layer.gate.scorer.last.weight.normal_(0, 20.0)
    return layer, x * torch.logspace(0, -3, 6, dtype=double).reshape(6, *[1] * (x.ndim - 1))


@each_kind
@each_gate
@each_granularity
@each_mode
def test_laws_hold(kind, gate, granularity, training):
    layer, x = make(kind, gate, granularity)
    check_dynamic(layer.train(training), x)


@each_kind
@each_granularity
def test_a_learned_gate_gives_each_sample_the_prefix_it_reports(kind, granularity):
    layer, x = make(kind, "learned", granularity)
    check_prefix_decisions(layer.eval(), x)
    if granularity == "sample" and kind == "linear":
        assert len(layer.last_rank.unique()) > 1


@each_kind
@each_gate
@each_granularity
def test_training_computes_what_serving_does_for_the_same_choice(kind, gate, granularity):
    layer, x = make(kind, gate, granularity)
    if gate == "learned":
        layer.gate.set_temperature(1e-6)
        layer.gate.scorer.last.bias.data.mul_(1e4)
        layer.gate.scorer.last.weight.data.mul_(1e4)
    else:
        layer.gate.rate = 0.0
        layer.gate.gain = 0.0
    trained = layer.train()(x)
    ranks = layer.last_rank
    served = layer.eval()(x)
    assert torch.equal(torch.as_tensor(layer.last_rank), torch.as_tensor(ranks))
    torch.testing.assert_close(served, trained)


@each_kind
@each_gate
@each_granularity
def test_gradients_of_loss_and_penalty_reach_the_scorer(kind, gate, granularity):
    layer, x = make(kind, gate, granularity)
    for objective in (lambda: layer(x).square().mean(), lambda: _after(layer, x)):
        layer.zero_grad()
        objective().backward()
        for parameter in layer.gate.scorer.parameters():
            assert bool(parameter.grad.abs().sum() > 0)


def _after(layer, x):
    with torch.no_grad():
        layer(x)
    with record(layer) as ran:
        layer(x)
    return rank_penalty(ran)


@each_granularity
def test_the_penalty_is_expected_over_the_probabilities(granularity):
    layer, x = make("linear", "learned", granularity)
    with record(layer) as ran:
        layer(x)
    mean = (layer.gate.probabilities(layer, x) @ layer.gate.choices.double()).mean()
    wanted = mean * (24 + 16) / (24 * 16)
    torch.testing.assert_close(rank_penalty(ran, beta=0.0), wanted)
    slope = torch.autograd.grad(rank_penalty(ran), layer.gate.scorer.last.bias)[0]
    assert float(slope[-1]) > 0 > float(slope[0])


def test_gumbel_noise_draws_from_the_softmax_of_the_scores():
    layer, x = make("linear", "learned", "sample")
    wanted = layer.gate.probabilities(layer, x[:1]).detach()
    x, count = x[:1].expand(20000, -1), 20000
    with torch.no_grad():
        layer(x)
    drawn = torch.stack([(layer.last_rank == r).double().mean() for r in layer.gate.choices])
    spread = (wanted * (1 - wanted) / count).sqrt()[0]
    assert bool(((drawn - wanted[0]).abs() <= 5 * spread + 1e-9).all())


def test_a_learned_gate_finds_out_which_inputs_need_the_directions():
    torch.manual_seed(0)
    target = nn.Linear(24, 16).double()
    layer = DynamicLinear.from_linear(
        target, r_max=16, r_min=2, gate="learned", granularity="sample"
    )
    layer.requires_grad_(False)
    layer.gate.requires_grad_(True)
    basis = layer.down.detach()
    optimizer = torch.optim.Adam(layer.gate.parameters(), lr=0.02)

    def batch(count):
        easy = torch.randn(count, 2, dtype=double) @ basis[:2]
        hard = torch.randn(count, 24, dtype=double)
        return torch.cat(
            [easy / easy.norm(dim=1, keepdim=True), hard / hard.norm(dim=1, keepdim=True)]
        )

    for step in range(150):
        layer.gate.anneal(step / 149)
        x = batch(32)
        with record(layer) as ran:
            loss = (layer(x) - target(x)).square().mean() * 100
        optimizer.zero_grad()
        (loss + 0.05 * rank_penalty(ran)).backward()
        optimizer.step()
    layer.eval()(batch(100))
    ranks = layer.last_rank.double()
    assert float(ranks[:100].mean()) < 4
    assert float(ranks[100:].mean()) > 10


@each_kind
@each_granularity
@each_mode
def test_a_budget_between_two_choices_is_used_whole(kind, granularity, training):
    layer, x = make(kind, "learned", granularity)
    layer.train(training)
    layer.gate.scorer.last.weight.data.zero_()
    layer.gate.scorer.last.bias.data.copy_(torch.linspace(0, 1000, 8))
    assert 7 not in layer.gate.choices.tolist()
    m, n = layer.sizes
    layer.set_budget(7 * (m + n) / (m * n), unit="flops")
    with record(layer) as ran:
        torch.testing.assert_close(layer(x), layer.at_rank(x, 7))
    assert bool((torch.as_tensor(layer.last_rank) == 7).all())
    wanted = 7 * (m + n) / (m * n)
    assert float(rank_penalty(ran, beta=0.0).detach()) == pytest.approx(wanted)


def test_temperature_is_annealed_from_5_to_a_half():
    gate = LearnedGate([2, 4, 8])
    gate.anneal(0.0)
    assert float(gate.temperature) == 5.0
    gate.anneal(1.0)
    assert float(gate.temperature) == 0.5
    assert "temperature=0.5" in repr(gate)


@pytest.mark.parametrize("r_min, max_rank", [(1, 1), (1, 3), (4, 64), (4, 10), (7, 8)])
def test_choices_rise_from_the_least_to_the_largest_rank(r_min, max_rank):
    choices = even_choices(r_min, max_rank)
    assert choices[0] == r_min
    assert choices[-1] == max_rank
    assert len(choices) <= 8
    assert all(b > a for a, b in pairwise(choices))


@each_gate
def test_statistics_do_not_depend_on_the_other_samples_and_scale_with_the_input(gate):
    layer, x = make("linear", gate)
    h = layer.inner(x, 0, 2)
    together = features(layer, x, h)
    alone = torch.cat([features(layer, x[i : i + 1], h[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone)
    torch.testing.assert_close(together[:, 2:].sum(1), torch.ones(6, dtype=double))


# blocks


def test_only_the_open_blocks_are_computed():
    layer, x = make("linear", "block", num_gate_blocks=4)
    layer.eval()
    with torch.no_grad():
        layer.gate.scorer.last.weight.zero_()
        layer.gate.scorer.last.bias.copy_(torch.tensor([9.0, -9.0, 9.0, -9.0]))
    y = layer(x)
    assert layer.gate.open_blocks.tolist() == [[True, False, True, False]]
    chosen = [0, 1, 2, 6, 7, 8]
    inner = x @ layer.down[chosen].T + layer.inner_bias[chosen]
    torch.testing.assert_close(y, inner @ layer.up[:, chosen].T + layer.outer_bias)
    assert layer.last_rank == 6
    half = layer.decision.share
    layer.gate.scorer.last.bias.data.fill_(9.0)
    layer(x)
    assert layer.last_rank == 12
    assert layer.decision.share - half == pytest.approx(6 * (16 + 24) / (16 * 24))
    # a closed block may hold anything
    layer.gate.scorer.last.bias.data.copy_(torch.tensor([9.0, -9.0, 9.0, -9.0]))
    with torch.no_grad():
        layer.up[:, 3:6] = float("nan")
    torch.testing.assert_close(layer(x), y)


def test_neighbours_inhibit_each_other():
    gate = BlockGate(16, 4, kappa=3.0)
    seen = torch.zeros(1, 6)
    with torch.no_grad():
        gate.offset.zero_()
        gate.scorer.last.bias.copy_(torch.tensor([0.0, 5.0, 0.0, 0.0]))
    p = gate.probabilities(seen, together=True)[0]
    rest = torch.sigmoid(torch.zeros(4))
    assert p[0] < p[3]
    assert p[2] < p[3]
    a = torch.sigmoid(torch.tensor([0.0, 5.0, 0.0, 0.0]))
    wanted = torch.stack([-3 * a[1], 5 - 3 * (a[0] + a[2]) / 2, -3 * (a[1] + a[3]) / 2, -3 * a[2]])
    torch.testing.assert_close(p, wanted.sigmoid())
    gate.kappa = 0.0
    torch.testing.assert_close(gate.probabilities(seen, together=True)[0][2:], rest[2:])


@pytest.mark.parametrize("target", [0.25, 0.5, 0.75])
def test_homeostasis_brings_every_block_to_its_share(target):
    torch.manual_seed(0)
    layer = DynamicLinear(24, 32, 24, 1, gate=BlockGate(24, 8, target=target))
    with torch.no_grad():
        layer.gate.scorer.last.bias.copy_(torch.linspace(-4, 4, 8))
        used = torch.zeros(8)
        for step in range(700):
            layer(torch.randn(4, 24))
            used += layer.gate.open_blocks[0] if step >= 300 else 0
    assert float((used / 400 - target).abs().max()) < 0.05
    before = layer.gate.offset.clone()
    layer.eval()(torch.randn(4, 24))
    assert torch.equal(layer.gate.offset, before)


@each_granularity
@pytest.mark.parametrize("blocks, r_min", [(1, 2), (3, 5), (8, 2), (100, 2)])
def test_enough_blocks_are_open_whatever_the_scores(granularity, blocks, r_min):
    torch.manual_seed(0)
    options = {"gate": "block", "num_gate_blocks": blocks, "granularity": granularity}
    layer = DynamicLinear(24, 16, 12, r_min, dtype=double, **options).eval()
    layer.gate.scorer.last.bias.data.fill_(-50.0)
    x = torch.randn(5, 24, dtype=double)
    layer(x)
    assert r_min <= int(torch.as_tensor(layer.last_rank).min()) <= 12
    assert len(layer.gate.usage) == min(blocks, 12)
    check_dynamic(layer, x)


@each_kind
@each_granularity
@each_mode
def test_the_penalty_counts_of_blocks_what_the_ceiling_leaves(kind, granularity, training):
    layer, x = make(kind, "block", granularity, num_gate_blocks=4)  # of three directions each
    layer.train(training).gate.gain = 0.0
    layer.gate.rate = 0.0
    bias, (m, n) = layer.gate.scorer.last.bias, layer.sizes
    for ceiling in (2, 5, 8, 12):
        layer.set_budget(ceiling * (m + n) / (m * n), unit="flops")
        with record(layer) as ran:
            layer(x)
        expected = ran[0][1].expected
        assert 2.0 <= float(expected.detach()) <= ceiling
    seen = features(layer, x, layer.inner(x, 0, 2))
    p = layer.gate.probabilities(seen, together=granularity == "call")
    torch.testing.assert_close(expected, (3.0 * p.sum(1)).clamp(min=2.0).mean())
    layer.gate.scorer.last.weight.data.zero_()
    layer.set_budget(5 * (m + n) / (m * n), unit="flops")
    with record(layer) as ran:
        layer(x)
    assert bool(torch.autograd.grad(ran[0][1].expected, bias)[0].any())
    with torch.no_grad():  # as good as open or closed
        bias.copy_(torch.tensor([90.0, -90.0, 90.0, 90.0]))
    for ceiling, rank in ((2, 2), (4, 4), (8, 8), (12, 9)):
        layer.set_budget(ceiling * (m + n) / (m * n), unit="flops")
        layer(x)
        ranks = torch.as_tensor(layer.last_rank, dtype=double)
        assert float(ranks.mean()) == float(layer.decision.expected) == rank


# state, compilers, refusals


@each_gate
def test_state_and_copies_decide_alike(gate):
    layer, x = make("linear", gate, "sample")
    layer(x)
    other, _ = make("linear", gate, "sample")
    with torch.no_grad():
        other.gate.scorer.last.weight.zero_()
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other.eval()(x), layer.eval()(x))
    layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.filterwarnings("ignore:`torch._prims_common.check`:FutureWarning")
@each_gate
@each_kind
@each_granularity
def test_a_compiled_layer_decides_as_the_plain_one(kind, gate, granularity):
    torch._dynamo.reset()
    layer, x = make(kind, gate, granularity)
    layer.eval()
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter)
    seen = set()
    for scale in torch.logspace(-6, 6, 12, dtype=double):
        y = compiled(scale * x)
        rank = torch.as_tensor(layer.last_rank)
        seen |= set(rank.flatten().tolist())
        torch.testing.assert_close(y, layer(scale * x))
        assert torch.equal(rank, torch.as_tensor(layer.last_rank))
    assert counter.frame_count == 1
    assert len(seen) > 1


@each_gate
def test_autocast_leaves_the_scorer_as_it_is(gate):
    layer, x = make("linear", gate)
    layer, x = layer.float(), x.float()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
        y.float().sum().backward()
    assert y.dtype == torch.bfloat16
    assert layer.gate.scorer.last.weight.grad.dtype == torch.float32


def test_a_gate_of_ones_own_decides():
    class Half(Gate):
        def forward(self, layer, x, ceiling):
            r = min(ceiling, layer.max_rank // 2)
            rows = layer.row_count(x)
            return layer.outer(layer.inner(x, 0, r)), Decision(r, r, r / layer.max_rank, rows)

    layer = DynamicLinear(24, 16, 12, 2, gate=Half())
    x = torch.randn(3, 24)
    assert torch.equal(layer(x), layer.at_rank(x, 6))
    assert layer.last_rank == 6


@pytest.mark.parametrize(
    "build, error, words",
    [
        (lambda: LearnedGate([]), ValueError, "choices must rise"),
        (lambda: LearnedGate([4, 4]), ValueError, "choices must rise"),
        (lambda: LearnedGate([0, 4]), ValueError, "choices must be in 1"),
        (lambda: LearnedGate([1], temperature=0.0), ValueError, "temperature must be above 0"),
        (lambda: LearnedGate([1], hidden=0), ValueError, "scorer_hidden must be in 1"),
        (lambda: LearnedGate([1]).anneal(2.0), ValueError, "progress must be in 0..1"),
        (lambda: BlockGate(8, 0), ValueError, "num_gate_blocks must be in 1"),
        (lambda: BlockGate(8, kappa=-1.0), ValueError, "must not be negative"),
        (lambda: BlockGate(8, target=1.5), ValueError, "target must be in 0..1"),
    ],
)
def test_wrong_options_are_refused(build, error, words):
    with pytest.raises(error, match=words):
        build()
