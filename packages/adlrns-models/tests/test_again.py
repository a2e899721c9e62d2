"""Activation checkpointing: what is computed again is decided as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from adlrns_models import (
    ADLRNSTrainer,
    Decision,
    DynamicConv2d,
    DynamicLinear,
    DynamicLowRankLayer,
    Gate,
    SpectralGate,
    iter_dynamic_layers,
    rank_budget,
)
from adlrns_models._again import LIMIT
from rank_sched import RankScheduler

double = torch.float64
each_way = pytest.mark.parametrize("reentrant", [True, False])


class Restless(Gate):
    """Takes another rank at every call, by a buffer and by a number."""

    def __init__(self):
        super().__init__()
        self.register_buffer("turn", torch.tensor(1))
        self.turns = 0

    def forward(self, layer, x, ceiling):
        rank = min(int(ceiling), 2 + int(self.turn) % 5 + self.turns % 2)
        self.turn += 2
        self.turns += 1
        return layer.at_rank(x, rank), Decision(rank, float(rank), 1.0, layer.row_count(x))


class Up:
    """A scheduler that allows one rank more at every call."""

    def init(self):
        return 2

    def step(self, state, observation):
        return state, state + 1


GATES = {
    "spectral": lambda: {"gate": SpectralGate(0.2)},
    "learned": lambda: {"gate": "learned"},
    "block": lambda: {"gate": "block", "num_gate_blocks": 4},
    "own": lambda: {"gate": Restless()},
    "scheduled": lambda: {"gate": SpectralGate(0.0), "scheduler": Up()},
    "scheduled learned": lambda: {"gate": "learned", "scheduler": Up()},
    "scheduled block": lambda: {"gate": "block", "scheduler": Up()},
    "rank scheduler": lambda: {"scheduler": RankScheduler("complexity", 2, 8)},
}
each_gate = pytest.mark.parametrize("gate", list(GATES))
# one's own decides once a call
each_way_to_decide = pytest.mark.parametrize(
    "gate, granularity",
    [(gate, "call") for gate in GATES] + [(gate, "sample") for gate in GATES if gate != "own"],
)


class Net(nn.Module):
    """Segments that are checkpointed: one layer, then the same two twice around a dropout."""

    def __init__(self, gate, granularity="call"):
        super().__init__()
        torch.manual_seed(0)
        options = {"r_max": 8, "r_min": 2, "granularity": granularity, "dtype": double}
        self.first = DynamicLinear(8, 8, **options, **GATES[gate]())
        self.second = DynamicLinear(8, 8, **options, **GATES[gate]())
        self.dropout, self.run = nn.Dropout(0.3), lambda part, x: part(x)
        for layer in iter_dynamic_layers(self):
            if hasattr(layer.gate, "scorer"):
                nn.init.normal_(layer.gate.scorer.last.weight)
            if hasattr(layer.gate, "gain"):
                layer.gate.gain, layer.gate.rate = 1.0, 0.9

    def pair(self, x):
        return self.first(self.dropout(torch.tanh(self.second(x))))

    def forward(self, x):
        for part in (self.first, self.pair, self.pair):
            x = self.run(part, x)
        return x


def saving(reentrant, **options):
    return lambda part, x: checkpoint(part, x, use_reentrant=reentrant, **options)


def trained(net, x, run, context=None, steps=3):
    """Returns gradients, buffers and ranks after some steps with a backward pass each."""
    found = []
    net = copy.deepcopy(net)
    net.run = run
    for step in range(steps):
        torch.manual_seed(step)
        net.zero_grad()
        if context is None:
            loss = net(x).square().sum()
        else:
            with context(net):
                loss = net(x).square().sum()
        loss.backward()
        found += [torch.zeros(()) if p.grad is None else p.grad.clone() for p in net.parameters()]
        found += [b.clone() for b in net.buffers()]
        found += [torch.as_tensor(layer.last_rank) for layer in iter_dynamic_layers(net)]
        found += [torch.tensor(layer._steps) for layer in iter_dynamic_layers(net)]
        found += [torch.rand(())]  # the generator stands where it would
    return found


def assert_same(one, two):
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def plainly(part, x):
    return part(x)


@each_way
@each_way_to_decide
def test_gradients_and_state_are_those_without_checkpointing(gate, granularity, reentrant):
    net, x = Net(gate, granularity), torch.randn(5, 8, dtype=double, requires_grad=True)
    assert_same(trained(net, x, saving(reentrant)), trained(net, x, plainly))


@each_way
@pytest.mark.parametrize("gate", ["learned", "block", "scheduled"])
def test_checkpoints_inside_of_checkpoints_decide_as_before(gate, reentrant):
    net, x = Net(gate), torch.randn(5, 8, dtype=double, requires_grad=True)

    inner = saving(reentrant)

    def nested(part, x):
        return inner(lambda x: torch.tanh(inner(part, x)), x)

    def flat(part, x):
        return torch.tanh(part(x))

    assert_same(trained(net, x, nested), trained(net, x, flat))


@each_way
@each_gate
def test_a_budget_that_ended_before_the_backward_pass_is_in_force_where_it_was(gate, reentrant):
    net, x = Net(gate), torch.randn(5, 8, dtype=double, requires_grad=True)

    def tight(net):
        return rank_budget(net, 0.75, "flops")

    assert_same(trained(net, x, saving(reentrant), tight), trained(net, x, plainly, tight))


@each_way
def test_ranks_by_force_and_budgets_of_a_call_are_repeated(reentrant):
    torch.manual_seed(0)
    told = DynamicLowRankLayer(8, 8, 8, 2, budget_unit="flops", gate=SpectralGate(0.0)).double()
    x, slopes = torch.randn(4, 8, dtype=double, requires_grad=True), []
    for run in (plainly, saving(reentrant)):
        told.zero_grad()
        total = torch.zeros((), dtype=double)
        for rank in (3, 7, None):
            told.force_rank(rank)
            ranks = []

            def part(x, ranks=ranks):
                y, rank = told(x, 1.0)
                ranks.append(rank)
                return y

            total = total + run(part, x).square().sum()
            assert ranks == [rank or 4]
        told.force_rank(1)
        total.backward()
        assert set(ranks) == {4}  # also the second time
        slopes.append([p.grad.clone() for p in told.parameters() if p.grad is not None])
    assert_same(*slopes)


@each_way
def test_a_convolution_repeats_its_decisions(reentrant):
    torch.manual_seed(0)
    conv = DynamicConv2d(2, 8, 3, r_max=8, r_min=2, gate="block", num_gate_blocks=4, dtype=double)
    nn.init.normal_(conv.gate.scorer.last.weight)
    conv.gate.gain, conv.gate.rate = 1.0, 0.9
    x, found = torch.randn(3, 2, 6, 6, dtype=double, requires_grad=True), []
    for run in (plainly, saving(reentrant)):
        twin = copy.deepcopy(conv)
        for _ in range(3):
            twin.zero_grad()
            run(twin, x).square().sum().backward()
        found.append([p.grad for p in twin.parameters() if p.grad is not None] + [twin.gate.offset])
    assert_same(*found)


@each_way
def test_training_under_a_budget_and_a_sandwich_may_save_memory(tmp_path, reentrant):
    class Head(Net):
        def forward(self, x):
            return super().forward(self.lift * x)[:, :2]

    x = torch.randn(8, 8, dtype=double)
    y, ends = (x[:, 0] > 0).long(), []
    config = {"epochs": 2, "sandwich": 2, "energy_budget_mj_per_sample": 2e-4, "lr": 0.1}
    for name, run in (("plain", plainly), ("saving", saving(reentrant))):
        net = Head("learned")
        net.lift, net.run = nn.Parameter(torch.ones(8, dtype=double)), run
        loader = [(x[:4], y[:4]), (x[4:], y[4:])]
        ADLRNSTrainer(net, config, "cpu", tmp_path / name, callbacks=[]).train(loader)
        ends.append(list(net.parameters()))
    assert_same(*ends)


@each_way
def test_what_cannot_be_known_again_is_refused_by_name(reentrant):
    net, x = Net("block"), torch.randn(5, 8, dtype=double, requires_grad=True)
    net.run = saving(reentrant, preserve_rng_state=False)
    loss = net(x).square().sum()
    with pytest.raises(RuntimeError, match="preserve_rng_state=True"):
        loss.backward()
    net.run = saving(reentrant)
    loss = net(x).square().sum()
    with torch.no_grad():
        for _ in range(LIMIT):
            net.first(x)
    with pytest.raises(RuntimeError, match=f"no more than {LIMIT} calls"):
        loss.backward()


@each_way
@pytest.mark.parametrize("gate", ["scheduled", "spectral"])
def test_in_eval_mode_what_would_be_decided_otherwise_is_refused(gate, reentrant):
    net, x = Net(gate).eval(), torch.randn(5, 8, dtype=double, requires_grad=True)
    if gate == "spectral":
        assert_same(trained(net, x, saving(reentrant)), trained(net, x, plainly))
    net.run = saving(reentrant)
    with rank_budget(net, 0.6, "flops"):
        loss = net(x).square().sum()
    what = "budget" if gate == "spectral" else "scheduler"
    with pytest.raises(RuntimeError, match=f"cannot decide again what its {what} decided"):
        loss.backward()


def test_a_compiled_block_gate_is_refused_and_one_that_draws_draws_the_same():
    torch._dynamo.reset()
    x, found = torch.randn(5, 8, dtype=double, requires_grad=True), []
    drawing, blocks = Net("learned").first, Net("block").first
    compiled = [torch.compile(layer, backend="eager") for layer in (drawing, blocks)]
    for run in (plainly, saving(True), saving(False)):
        drawing.zero_grad()
        torch.manual_seed(1)
        run(compiled[0], x).square().sum().backward()
        found.append([p.grad.clone() for p in drawing.parameters()])
        loss = run(compiled[1], x).square().sum()
        if run is not plainly:
            with pytest.raises(RuntimeError, match="BlockGate cannot decide again"):
                loss.backward()
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_copies_of_a_gate_that_stands_still_are_made_once():
    layer = Net("block").first
    layer(torch.randn(3, 8, dtype=double))
    layer(torch.randn(3, 8, dtype=double))
    one, two = (dict(basis.buffers[0][1]) for basis in layer._memory.bases.values())
    assert one["size"] is two["size"]
    assert one["offset"] is not two["offset"]
