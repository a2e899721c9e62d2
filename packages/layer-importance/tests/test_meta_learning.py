import pytest
import torch
from scipy import optimize
from torch import nn

from layer_importance import Classification, Task, Unit, Units, analyze
from layer_importance._methods.learned_gates import LearnedGates
from layer_importance._methods.meta_learning import MetaLearning


class _Squares(Task):
    """Half the squared distance, times a curvature."""

    name = "squares"

    def __init__(self, curvature=1.0):
        super().__init__()
        self.curvature = curvature

    def loss(self, output, labels, batch):
        return self.curvature / 2 * (output - labels).square().flatten(1).sum(1)


class _Shift(nn.Module):
    def __init__(self, d=1):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(d))

    def forward(self, x):
        return x + self.w


class _Block(nn.Module):
    def __init__(self, d=4):
        super().__init__()
        self.up, self.down = nn.Linear(d, d), nn.Linear(d, d)

    def forward(self, x):
        return x + self.down(torch.tanh(self.up(x)))


def _unit(path, removal="identity", call=None):
    named = dict.fromkeys(("chain", "tower", "type_name"), "")
    name = path if call is None else f"{path}#{call}"
    return Unit(name=name, path=path, index=0, parameters=0, removal=removal, call=call, **named)


def _gain(net, batches, task, units=None, **kwargs):
    method = MetaLearning(**kwargs)
    return analyze(net, batches, task=task, methods=[method], units=units)["meta_learning"]


def _tasks(count=40, spread=0.8):
    """Tasks that differ in where the optimum is."""
    generator = torch.Generator().manual_seed(0)
    optima = spread * torch.randn(count, generator=generator, dtype=torch.float64)
    zeros = torch.zeros(4, 1, dtype=torch.float64)
    return optima, [(zeros, zeros + c) for c in optima]


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_the_gain_of_one_step_on_a_quadratic_is_its_closed_form(rate):
    optima, tasks = _tasks()
    net, units = nn.Sequential(_Shift()).double(), Units((_unit("0"),))
    h, second = 1.7, float(optima.square().mean())
    exact = _gain(net, tasks, _Squares(h), units, learning_rate=rate, exact=True)["0"]
    want = rate * h**2 * second * (1 - rate * h / 2)
    assert exact.value == pytest.approx(want, rel=1e-11)
    per_task = rate * h**2 * (1 - rate * h / 2) * optima.square()
    assert exact.standard_error == pytest.approx(float(per_task.std()) / 40**0.5, rel=1e-10)
    assert exact.samples == 40
    first = _gain(net, tasks, _Squares(h), units, learning_rate=rate)["0"]
    assert first.value == pytest.approx(rate * h**2 * second, rel=1e-11)
    assert not net[0].w.any()


def test_a_large_step_is_a_loss_and_its_sign_is_kept():
    optima, tasks = _tasks()
    net, units = nn.Sequential(_Shift()).double(), Units((_unit("0"),))
    score = _gain(net, tasks, _Squares(1.0), units, learning_rate=3.0, exact=True)["0"]
    want = 3 * float(optima.square().mean()) * (1 - 1.5)
    assert score.value == pytest.approx(want, rel=1e-11)
    assert score.value < 0


def test_the_first_order_is_what_small_steps_tend_to():
    torch.manual_seed(0)
    net = nn.Sequential(*[_Block() for _ in range(3)]).double()
    batches = [(torch.randn(8, 4).double(), torch.randn(8, 4).double()) for _ in range(3)]
    first = _gain(net, batches, _Squares(), learning_rate=1e-6)
    exact = _gain(net, batches, _Squares(), learning_rate=1e-6, exact=True)
    for name in first:
        assert exact[name].value == pytest.approx(first[name].value, rel=1e-3)


def test_gradients_are_those_of_the_halves():
    torch.manual_seed(0)
    net = nn.Sequential(*[_Block() for _ in range(3)]).double()
    x, y = torch.randn(7, 4).double(), torch.randn(7, 4).double()
    scores = _gain(net, [(x, y)], _Squares(), learning_rate=1.0)

    def gradient(block, rows):
        loss = _Squares().loss(net(x[rows]), y[rows], None).mean()
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, block.parameters())])

    for i, block in enumerate(net):
        support, query = gradient(block, slice(0, None, 2)), gradient(block, slice(1, None, 2))
        weights = torch.cat([p.detach().flatten() for p in block.parameters()])
        assert scores[str(i)].value == pytest.approx(float(support @ query), rel=1e-10)
        cosine = torch.cosine_similarity(support, query, dim=0)
        assert scores.extras["agreement"][str(i)] == pytest.approx(float(cosine), rel=1e-10)
        relative = float(support.norm() / weights.norm())
        assert scores.extras["relative_gradient"][str(i)] == pytest.approx(relative, rel=1e-10)


class _Stages(nn.Module):
    """Three blocks, each with its own part of the answer."""

    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([_Shift(3) for _ in range(3)])

    def forward(self, x):
        return torch.cat([block(x) for block in self.blocks], 1)


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("planted", [0, 1, 2])
def test_the_unit_whose_target_differs_between_tasks_ranks_first(planted, exact):
    torch.manual_seed(0)
    net = _Stages().double()
    units = Units(tuple(_unit(f"blocks.{i}", "zero") for i in range(3)))
    batches = []
    for _ in range(20):
        target = 0.05 * torch.randn(6, 9).double()
        target[:, 3 * planted : 3 * planted + 3] += torch.randn(3).double()
        batches.append((torch.zeros(6, 3).double(), target))
    scores = _gain(net, batches, _Squares(), units, exact=exact)
    ranked = sorted(scores, key=lambda name: -scores[name].value)
    assert ranked[0] == f"blocks.{planted}"
    best, second = (scores[name] for name in ranked[:2])
    assert best.value - second.value > 3 * best.standard_error


def test_a_unit_without_anything_to_learn_gains_exactly_nothing():
    torch.manual_seed(0)
    net = nn.Sequential(_Block(), _Block()).double()
    for parameter in net[1].down.parameters():
        nn.init.zeros_(parameter)
        parameter.requires_grad_(False)
    batch = torch.randn(6, 4).double(), torch.randn(6, 4).double()
    assert _gain(net, [batch], _Squares())["1"].value == 0
    assert _gain(net, [batch], _Squares(), exact=True)["1"].value == 0


def test_who_cannot_learn_has_a_reason():
    torch.manual_seed(0)

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.block, self.frozen = _Block(), _Block().requires_grad_(False)

        def forward(self, x):
            return self.frozen(self.block(self.block(x)))

    net, batch = Twice().double(), (torch.randn(6, 4).double(), torch.randn(6, 4).double())
    units = Units((_unit("block", call=0), _unit("block", call=1), _unit("frozen")))
    for exact in (False, True):
        scores = _gain(net, [batch], _Squares(), units, exact=exact)
        assert set(scores) == {"block#0"}
        assert scores.missing == {
            "block#1": "shares its parameters with block#0",
            "frozen": "has no parameter that requires gradients",
        }
    single = _gain(net, [(batch[0][:1], batch[1][:1])], _Squares(), units)
    assert single.missing["block#0"] == "no batch has two samples"
    report = analyze(
        net.requires_grad_(False), [batch], task=_Squares(), methods=[MetaLearning()], units=units
    )
    assert "all are frozen" in report.reasons["meta_learning"]


def test_the_model_is_bit_identical_afterwards_also_after_an_error():
    torch.manual_seed(0)
    net = nn.Sequential(*[_Block() for _ in range(3)])
    before = {k: v.clone() for k, v in net.state_dict().items()}
    pointers = [p.data_ptr() for p in net.parameters()]
    calls = []

    class Fails(Classification):
        def loss(self, output, labels, batch):
            calls.append(0)
            if len(calls) == 5:
                raise RuntimeError("stop")
            return super().loss(output, labels, batch)

    batch = torch.randn(6, 4), torch.randint(0, 4, (6,))
    with pytest.raises(RuntimeError, match="stop"):
        _gain(net, [batch, batch], Fails(), exact=True)
    _gain(net, [batch], Classification(), exact=True)
    analyze(net, [batch], methods=[LearnedGates(steps=2)])
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert [p.data_ptr() for p in net.parameters()] == pointers
    assert all(p.grad is None for p in net.parameters())


class _Parallel(nn.Module):
    def __init__(self):
        super().__init__()
        self.branches = nn.ModuleList([nn.Linear(3, 3, bias=False) for _ in range(4)])

    def forward(self, x):
        return sum(branch(x) for branch in self.branches)


def test_gates_on_linear_branches_end_at_the_optimum_of_the_bounded_problem():
    torch.manual_seed(0)
    net, x = _Parallel().double(), torch.randn(30, 3).double()
    with torch.no_grad():
        parts = torch.stack([branch(x).flatten() for branch in net.branches], 1)
        target = (parts @ torch.tensor([1.6, 0.5, -0.4, 0.9]).double()).reshape(30, 3)
    units = Units(tuple(_unit(f"branches.{i}", "zero") for i in range(4)))
    method = LearnedGates(steps=300, penalty=0.02)
    gates = analyze(net, [(x, target)], task=_Squares(), methods=[method], units=units)[method.name]
    gram, linear = parts.T @ parts / 30, parts.T @ target.flatten() / 30 - 0.02
    best = optimize.minimize(
        lambda a: a @ gram.numpy() @ a / 2 - a @ linear.numpy(),
        [0.5] * 4,
        jac=lambda a: gram.numpy() @ a - linear.numpy(),
        bounds=[(0, 1)] * 4,
    )
    got = [gates[unit.name].value for unit in units]
    assert got == pytest.approx(best.x.tolist(), abs=0.01)
    assert min(got) == 0
    assert max(got) == 1


def test_a_dead_unit_is_turned_down_first_and_useful_ones_stay_open():
    torch.manual_seed(0)
    net = nn.Sequential(*[_Block() for _ in range(4)]).double()
    for parameter in net[2].down.parameters():
        nn.init.zeros_(parameter)
    x = torch.randn(40, 4).double()
    with torch.no_grad():
        batch = x, net(x)
    method = LearnedGates(steps=60, penalty=1e-4)
    gates = analyze(net, [batch], task=_Squares(), methods=[method])[method.name]
    assert gates["2"].value == 0
    assert all(gates[name].value > 0.5 for name in "013")


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match="learning_rate must be above 0, got 0"):
        MetaLearning(learning_rate=0)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        LearnedGates(steps=0)
    with pytest.raises(ValueError, match="penalty must be at least 0, got -1"):
        LearnedGates(penalty=-1)
    with pytest.raises(ValueError, match="learning_rate must be above 0, got inf"):
        LearnedGates(learning_rate=float("inf"))
