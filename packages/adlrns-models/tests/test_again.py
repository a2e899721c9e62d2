"""Activation checkpointing: what is computed again is decided as it was."""

import copy
from contextlib import ExitStack, contextmanager

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
from adlrns_models._again_memory import LIMIT
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
    # two layers, batches of four: between the smallest rank and the largest, so that gates decide
    low, high = (2e3 * Net("learned").first.cost(r, batch=4).energy_j / 4 for r in (2, 8))
    budget = low + 0.75 * (high - low)
    config = {"epochs": 2, "sandwich": 2, "lr": 0.1}
    config |= {"energy_budget_mj_per_sample": budget, "budget_batch": 4}
    for name, run in (("plain", plainly), ("saving", saving(reentrant))):
        net = Head("learned")
        net.lift, net.run = nn.Parameter(torch.ones(8, dtype=double)), run
        loader = [(x[:4], y[:4]), (x[4:], y[4:])]
        ADLRNSTrainer(net, config, "cpu", tmp_path / name, callbacks=[]).train(loader)
        ends.append(list(net.parameters()))
        moved = net.first.gate.scorer.last.bias - Net("learned").first.gate.scorer.last.bias
        assert bool(moved.any())
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


@contextmanager
def set_to(layer, rank=None, budget=None, seed=None):
    """Runs a layer at a rank by force, under a share of the FLOPs and after a seed."""
    with ExitStack() as stack:
        if budget is not None:
            stack.enter_context(rank_budget(layer, budget, "flops"))
        layer.force_rank(rank)
        stack.callback(layer.force_rank, None)
        if seed is not None:
            torch.manual_seed(seed)
        yield


def slopes(layer, x, run, *settings):
    """Returns the gradients of one backward pass through calls under several settings."""
    layer, total = copy.deepcopy(layer), torch.zeros((), dtype=double)
    for setting in settings:
        with set_to(layer, **setting):
            total = total + run(layer, x).square().sum()
    total.backward()
    return [p.grad for p in layer.parameters() if p.grad is not None]


three_gates = pytest.mark.parametrize("gate", ["spectral", "learned", "block"])
two_settings = pytest.mark.parametrize("setting", [{"rank": 3}, {"budget": 0.75}])


@each_way
@three_gates
@two_settings
def test_calls_of_one_seed_that_decided_otherwise_are_not_taken_for_each_other(
    gate, setting, reentrant
):
    layer, x = Net(gate).first, torch.randn(5, 8, dtype=double, requires_grad=True)
    same = [{**setting, "seed": 7}, {"seed": 7}]
    with pytest.raises(RuntimeError, match="in the same state of torch's generator"):
        slopes(layer, x, saving(reentrant), *same)
    with pytest.raises(RuntimeError, match="in the same state of torch's generator"):
        slopes(layer, x, saving(reentrant), *same, same[1])
    other = [{**setting, "seed": 7}, {"seed": 8}]
    assert_same(slopes(layer, x, saving(reentrant), *other), slopes(layer, x, plainly, *other))


@each_way
def test_calls_of_one_seed_between_which_a_block_gate_moved_are_refused(reentrant):
    layer, x = Net("block").first, torch.randn(5, 8, dtype=double, requires_grad=True)
    with pytest.raises(RuntimeError, match="in the same state of torch's generator"):
        slopes(layer, x, saving(reentrant), {"seed": 7}, {"seed": 7})
    layer.gate.gain = layer.gate.rate = 0.0
    same = [{"seed": 7}] * 3
    assert_same(slopes(layer, x, saving(reentrant), *same), slopes(layer, x, plainly, *same))


@each_way
@each_gate
def test_every_step_may_begin_with_the_same_seed(gate, reentrant):
    x, ends = torch.randn(5, 8, dtype=double, requires_grad=True), []
    for run in (plainly, saving(reentrant)):
        layer = Net(gate).first
        optimizer = torch.optim.SGD(layer.parameters(), lr=0.01)
        for _ in range(3):
            torch.manual_seed(7)
            optimizer.zero_grad()
            run(layer, x).square().sum().backward()
            optimizer.step()
        ends.append([p.detach() for p in layer.parameters()])
    assert_same(*ends)


@each_way
@three_gates
@two_settings
def test_in_eval_mode_two_settings_before_one_backward_pass_are_refused(gate, setting, reentrant):
    layer, x = Net(gate).first.eval(), torch.randn(5, 8, dtype=double, requires_grad=True)
    for settings in ([setting, {}], [{}, setting], [setting, {}, {}]):
        with pytest.raises(RuntimeError, match="cannot decide again what its budget decided"):
            slopes(layer, x, saving(reentrant), *settings)


@each_way
@two_settings
def test_in_eval_mode_settings_may_change_when_no_call_waits_for_its_backward_pass(
    setting, reentrant
):
    layer, x = Net("spectral").first.eval(), torch.randn(5, 8, dtype=double, requires_grad=True)
    found = []
    for run in (plainly, saving(reentrant)):
        layer.zero_grad()
        with torch.inference_mode():
            layer(x)
        layer(x)
        with set_to(layer, **setting):
            run(layer, x).square().sum().backward()
        if not reentrant:  # of whose calls none knows whether it waits
            run(layer, x).square().sum().backward()
        found.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    assert_same(*found)


@each_way
def test_in_eval_mode_inputs_of_two_sizes_have_one_budget(reentrant):
    torch.manual_seed(0)
    layer = DynamicLinear(64, 64, r_max=64, r_min=1, gate=SpectralGate(0.0), dtype=double).eval()
    few, many = torch.randn(4, 64, dtype=double), torch.randn(4, 9, 64, dtype=double)
    layer(many)
    layer.set_budget(1e3 * layer.cost(40).energy_j)
    found, ranks = [], []
    for run in (plainly, saving(reentrant)):
        layer.zero_grad()
        total = torch.zeros((), dtype=double)
        for x in (few, many):
            total = total + run(layer, x.requires_grad_()).square().sum()
            ranks.append(layer.last_rank)
        total.backward()
        found.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    assert ranks[0] > ranks[1]
    assert_same(*found)


# as where another thread draws from the generator between a call and its second run
astray = {"preserve_rng_state": False}


@each_way
@pytest.mark.parametrize("gate, rank", [("spectral", None), ("learned", 3), ("scheduled block", 3)])
def test_what_needs_no_random_numbers_is_run_again_whoever_draws_them(gate, rank, reentrant):
    layer, x = Net(gate).first, torch.randn(5, 8, dtype=double, requires_grad=True)
    layer.force_rank(rank)
    found = []
    for run in (plainly, saving(reentrant, **astray)):
        layer.zero_grad()
        sum(run(layer, x).square().sum() for _ in range(2)).backward()
        found.append([p.grad.clone() for p in layer.parameters() if p.grad is not None])
    assert_same(*found)
    loss = saving(reentrant, **astray)(layer, x).square().sum()
    layer.force_rank(5)
    with pytest.raises(RuntimeError, match="no other thread may draw"):
        loss.backward()


def test_a_new_call_in_a_backward_pass_decides_for_itself_or_is_refused():
    x, seen = torch.randn(5, 8, dtype=double, requires_grad=True), []

    def backward(layer):
        y = layer(x)
        y.register_hook(lambda gradient: seen.append(layer(x.detach())))
        y.square().sum().backward()
        return y

    steady, drawing = Net("spectral").first, Net("learned").first
    torch.testing.assert_close(backward(steady), seen[0])
    with pytest.raises(RuntimeError, match=r"from a hook, needs force_rank\(\) or eval mode"):
        backward(drawing)
    for ready in (drawing.eval(), Net("learned").first):
        ready.force_rank(None if ready is drawing else 3)
        torch.testing.assert_close(backward(ready), seen[-1])


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
