import copy
import io
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    Connect,
    Deepen,
    GrownEdge,
    GrowthRefusedError,
    Morpher,
    MorphogenesisEvent,
    Widen,
    score_edges,
)
from neuro_morph._edge import fitted


class Net(nn.Module):
    """Maps of two resolutions, then a head on vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.act = nn.ReLU(inplace=True)
        self.two = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(6, 5, 2, stride=2)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.up(torch.tanh(self.two(self.act(self.one(x)))))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


class Tokens(nn.Module):
    """Tokens from an image, their mixing, fewer tokens, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.cut = nn.Conv2d(3, 6, 4, stride=4)
        self.norm, self.mix = nn.LayerNorm(6), nn.Linear(6, 6)
        self.fewer = nn.Conv1d(6, 4, 2, stride=2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cut(x).flatten(2).transpose(1, 2)
        x = self.fewer(self.mix(self.norm(x)).transpose(1, 2))
        out: Tensor = self.head(x.mean(-1))
        return out


class Outer(nn.Module):
    """A net inside another."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.last = inner, nn.Linear(3, 3).double()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.inner(x) + self.inner(-x))
        return out


def images(n: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 3, 8, 8, dtype=torch.float64, generator=generator)


def chain() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))


def rows() -> Tensor:
    return torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def made(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().double().eval()


def connect(model: nn.Module, inputs: Any, *args: Any, **settings: Any) -> MorphogenesisEvent:
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    return morpher.apply(Connect(*args, **settings))


def edge_of(model: nn.Module) -> GrownEdge:
    return next(m for m in model.modules() if isinstance(m, GrownEdge))


def woken(model: nn.Module) -> nn.Module:
    """Returns the model with random numbers in what was zero."""
    for parameter in edge_of(model).parameters():
        parameter.data = torch.randn(
            parameter.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
        )
    return model


EDGES: list[tuple[Callable[[], nn.Module], Callable[[], Tensor], str, str]] = [
    (chain, rows, "0", "4"),
    (chain, rows, "1", "2"),
    (Net, images, "one", "two"),
    (Net, images, "two", "up"),
    (Net, images, "one", "up"),
    (Net, images, "act", "head"),
    (Net, images, "one", ""),
    (Tokens, images, "cut", "mix"),
    (Tokens, images, "norm", "fewer"),
    (Tokens, images, "cut", "fewer"),
    (Tokens, images, "fewer", "head"),
]
SETTINGS: list[dict[str, Any]] = [{}, {"adapter": "low_rank", "rank": 2}, {"gate": "zero"}]


@pytest.mark.parametrize("settings", SETTINGS, ids=["matrix", "low rank", "gate"])
@pytest.mark.parametrize("make, inputs, source, target", EDGES)
def test_a_new_connection_changes_nothing_and_learns(
    make: Any, inputs: Any, source: str, target: str, settings: dict[str, Any]
) -> None:
    model, x = made(make), inputs()
    before = sum(p.numel() for p in model.parameters())
    event = connect(model, x, source, target, **settings)
    assert event.absolute_change == 0.0
    edge = edge_of(model)
    count = sum(p.numel() for p in edge.parameters())
    assert event.parameters_added == count == sum(p.numel() for p in model.parameters()) - before
    optimizer = torch.optim.SGD(model.parameters(), 1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        reached = [p.grad is not None and bool(p.grad.abs().max() > 0) for p in edge.parameters()]
        assert any(reached)
        optimizer.step()
    assert all(reached)
    assert len({n for n in model.state_dict() if "grown.edge_0." in n}) == len(reached)


def test_what_is_passed_on_is_what_the_source_gave_not_what_was_written_into_it() -> None:
    model, x = made(Net), images()
    plain = copy.deepcopy(model)
    connect(model, x, "one", "act", gate="zero", adapter="identity")
    edge = edge_of(model)
    assert edge.shape.clone
    assert edge.gate is not None
    edge.gate.data.fill_(2.0)
    got: list[Tensor] = []
    model.get_submodule("act").register_forward_hook(lambda m, a, out: got.append(out.clone()))
    model(x)
    first = plain.get_submodule("one")(x)
    assert torch.allclose(got[0], first.relu() + 2 * first)
    other = made(Net)
    connect(other, x, "act", "two", gate="zero")
    assert not edge_of(other).shape.clone


def test_the_passed_on_part_is_the_product_of_matrix_and_features() -> None:
    model, x = made(chain), rows()
    plain = copy.deepcopy(model)
    connect(model, x, "0", "4")
    weight = edge_of(woken(model)).adapter.get_parameter("weight")
    assert torch.allclose(model(x), plain(x) + plain.get_submodule("0")(x) @ weight.t())


def test_positions_are_averaged_where_there_are_fewer_and_repeated_where_there_are_more() -> None:
    x = torch.arange(12.0).reshape(1, 6, 2)
    assert fitted(x, torch.zeros(1, 3, 5)).tolist() == [[[1, 2], [5, 6], [9, 10]]]
    assert fitted(x, torch.zeros(1, 5)).tolist() == [[5, 6]]
    assert fitted(x[:, 0], torch.zeros(1, 2, 2, 5)).shape == (1, 1, 1, 2)
    assert fitted(x[:, :2], torch.zeros(1, 4, 5))[0, :, 0].tolist() == [0, 0, 2, 2]


def test_copies_and_files_have_connections_of_their_own() -> None:
    model, x = made(Net), images()
    connect(model, x, "one", "up")
    want = woken(model)(x)
    twin = copy.deepcopy(model)
    loaded = pickle.loads(pickle.dumps(model))
    for other in (twin, loaded):
        assert torch.equal(other(x), want)
        edge_of(other).adapter.get_parameter("weight").data.zero_()
        assert not torch.allclose(other(x), want)
    assert torch.equal(model(x), want)
    fresh = made(Net)
    connect(fresh, x, "one", "up")
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(fresh(x), want)


def test_threads_do_not_mix_their_samples() -> None:
    model, batches = made(Net), [images(n) * n for n in range(1, 9)]
    connect(model, batches[1], "one", "up")
    woken(model)
    want = [model(x) for x in batches]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(5):
            got = list(pool.map(model, batches))
            assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_compiled_exported_and_nested_nets_have_the_connection_too() -> None:
    model, x = made(Net), images()
    connect(model, x, "one", "up")
    want = woken(model)(x)
    assert torch.equal(torch.compile(model, backend="eager", fullgraph=True)(x), want)
    exported = torch.export.export(model, (x,), strict=False).module()
    assert torch.allclose(exported(x), want)
    outer = Outer(model)
    assert torch.equal(outer(x), outer.last(want + model(-x)))


def test_a_target_that_runs_without_its_source_says_so() -> None:
    model, x = made(Net), images()
    connect(model, x, "one", "up")
    with pytest.raises(RuntimeError, match="its source did not run before its target"):
        model.get_submodule("up")(torch.zeros(1, 6, 2, 2).double())
    model.get_submodule("one")(x)  # what is left over from elsewhere is forgotten
    assert torch.isfinite(model(x)).all()


def test_undo_and_restore_are_bit_for_bit_and_the_optimizer_goes_on() -> None:
    model, x = made(Net), images()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    train(model, optimizer, x, 2)
    morpher = Morpher(model, optimizer, example_inputs=x, capture="dispatch")
    taken, before = morpher.snapshot(), shape_of(model)
    morpher.tolerance = -1.0
    with pytest.raises(GrowthRefusedError, match="the output changes by"):
        morpher.apply(Connect("one", "up"))
    assert shape_of(model) == before
    morpher.tolerance = 1e-12
    morpher.apply(Connect("one", "up"))
    held = optimizer.param_groups[0]["params"]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    train(model, optimizer, x, 3)
    taken.restore()
    assert shape_of(model) == before
    first = train(model, optimizer, x, 3)
    taken.restore()
    assert train(model, optimizer, x, 3) == first


def shape_of(model: nn.Module) -> list[Any]:
    state = {n: t.numpy().tobytes() for n, t in model.state_dict().items()}
    hooks = [
        [len(h) for h in (m._forward_hooks, m._forward_hooks_with_kwargs, m._forward_pre_hooks)]
        for m in model.modules()
    ]
    return [state, hooks, [n for n, _ in model.named_modules()]]


def train(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, steps: int) -> float:
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - x.mean((2, 3))).square().mean()
        loss.backward()
        optimizer.step()
    optimizer.zero_grad()
    return float(loss.detach())


def test_connected_nets_widen_and_deepen_on() -> None:
    model, x = made(Net), images()
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    morpher.apply(Connect("one", "up"))
    morpher.apply(Connect("two", "up", adapter="low_rank", rank=2))
    want = woken(model)(x)
    groups = [g.id for g in morpher.graph if g.growable]
    for group in groups:
        morpher.apply(Widen(group, by=2))
    morpher.apply(Deepen("act", "identity"))
    assert len(groups) >= 3
    assert float((model(x) - want).detach().abs().max()) <= 1e-12
    assert edge_of(model).adapter.get_parameter("weight").shape == (7, 6, 1, 1)


@pytest.mark.parametrize(
    "source, target, message",
    [
        ("two", "one", "'two' ends after 'one': it cannot lead to it"),
        ("", "one", "'' ends after 'one'"),
        ("idle", "head", "'idle' is not called by the model"),
        ("shared", "head", "'shared' is called 2 times in one run"),
        ("rows", "head", "whose first axis is not the 2 samples"),
        ("count", "head", "gives no tensor of floating point numbers"),
    ],
)
def test_illegal_connections_are_refused_by_name(source: str, target: str, message: str) -> None:
    model = Odd().double().eval()
    before = shape_of(model)
    with pytest.raises(GrowthRefusedError, match=message):
        connect(model, images(), source, target)
    assert shape_of(model) == before


class Odd(Net):
    """A net with modules that no connection can begin at."""

    def __init__(self) -> None:
        super().__init__()
        self.idle, self.shared = nn.Linear(2, 2), nn.Tanh()
        self.rows, self.count = Rows(), Count()

    def forward(self, x: Tensor) -> Tensor:
        self.count(x)
        maps = self.shared(self.two(self.act(self.one(self.shared(x)))))
        out: Tensor = self.head(self.up(maps).mean((2, 3)) + self.rows(maps).mean())
        return out


class Rows(nn.Module):
    """Takes maps apart into rows."""

    def forward(self, x: Tensor) -> Tensor:
        return x.movedim(1, -1).flatten(0, 2)


class Count(nn.Module):
    """Counts."""

    def forward(self, x: Tensor) -> Tensor:
        return (x > 0).sum((1, 2))


def test_different_widths_need_more_than_the_identity() -> None:
    model = made(chain)
    with pytest.raises(GrowthRefusedError, match="6 features of '0' to 5 of '2'"):
        connect(model, rows(), "0", "2", adapter="identity", gate="zero")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"adapter": "wire"}, "adapter must be one of 'auto'"),
        ({"gate": "one"}, "gate must be 'zero' or None, got 'one'"),
        ({"rank": 0}, "rank must be at least 1, got 0"),
        ({"adapter": "identity"}, "adapter must not be 'identity' without gate='zero'"),
        ({"target": "0"}, "target must be another module than source"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Connect("0", **{"target": "1", **settings})
    with pytest.raises(ValueError, match="source must be the path of a module"):
        connect(made(chain), rows(), "nothing", "0")


def bottleneck() -> tuple[nn.Sequential, Tensor, Tensor]:
    """Returns a net that squeezes its features and a task that needs them whole."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 1), nn.Tanh(), nn.Linear(1, 6), nn.ReLU(),
        nn.Linear(6, 3),
    ).double()  # fmt: skip
    x = torch.randn(256, 6, dtype=torch.float64)
    with torch.no_grad():
        target = model(x) + model[:2](x) @ torch.randn(10, 3, dtype=torch.float64)
    return model, x, target


def test_the_planted_connection_has_the_largest_gain_and_makes_the_loss_fall() -> None:
    model, x, target = bottleneck()
    scores = score_edges(model, x, lambda out: (out - target).square().mean())
    best = max(scores, key=lambda each: each.gain)
    assert (best.source, best.target) == ("1", "6")
    worst = min(scores, key=lambda each: each.gain)
    losses = [
        _loss_with(model, x, target, edge)
        for edge in (None, (worst.source, worst.target), (best.source, best.target))
    ]
    assert losses[2] < 0.1 * min(losses[:2])


def _loss_with(model: nn.Module, x: Tensor, target: Tensor, edge: tuple[str, str] | None) -> float:
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    if edge is not None:
        Morpher(model, optimizer, example_inputs=x[:4], capture="dispatch").apply(Connect(*edge))
    for _ in range(150):
        optimizer.zero_grad()
        loss = (model(x) - target).square().mean()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


def test_the_gain_is_what_least_squares_can_express_and_the_target_cannot() -> None:
    model, x, target = bottleneck()
    loss = lambda out: (out - target).square().mean()  # noqa: E731
    found = {(s.source, s.target): s for s in score_edges(model, x, loss)}
    with torch.no_grad():
        gradient = -2 * (model(x) - target) / target.shape[1]
        read = torch.cat([model[:6](x), torch.ones(256, 1).double()], 1)
        left = gradient - read @ torch.linalg.pinv(read) @ gradient
        given = model[:2](x)
        fit = given @ torch.linalg.pinv(given) @ left
    assert found["1", "6"].gain == pytest.approx(float(fit.square().sum() / 256), rel=1e-9)
    assert ("5", "6") not in found  # the target reads it already
    ranked = {(s.source, s.target): s for s in score_edges(model, x, loss, rank=1)}
    top = float(torch.linalg.svdvals(fit)[0] ** 2 / 256)
    assert ranked["1", "6"].gain == pytest.approx(top, rel=1e-9)
    assert ranked["1", "6"].parameters == 13


def test_scores_are_found_for_maps_and_leave_the_net_alone() -> None:
    model, x = made(Net), images(4)
    before = shape_of(model)
    scores = score_edges(model, x, lambda out: out.square().mean())
    assert {(s.source, s.target) for s in scores} >= {("one", "up"), ("act", "head")}
    assert all(s.gain >= 0 for s in scores)
    assert shape_of(model) == before
    assert all(p.grad is None for p in model.parameters())
    with pytest.raises(ValueError, match="loss must give a scalar tensor"):
        score_edges(model, x, lambda out: out)
    with pytest.raises(ValueError, match="targets must be the path of a module"):
        score_edges(model, x, lambda out: out.mean(), targets=["nothing"])


def test_two_connections_from_one_module_are_two() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(2, 3)
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    for target in ("2", "4"):
        morpher.apply(Connect("1", target))
    edges = [each for each in model.modules() if isinstance(each, GrownEdge)]
    for edge in edges:
        before = model(x)
        nn.init.ones_(edge.adapter.weight)
        assert not torch.allclose(model(x), before)
    assert len(edges) == 2


def dropped() -> nn.Module:
    tail = [nn.Dropout(0.5), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2)]
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), *tail)


def written() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))


def flattened() -> nn.Module:
    maps = [nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 5, 3, padding=1), nn.Tanh()]
    depthwise = nn.Conv2d(5, 5, 3, padding=1, groups=5)
    return nn.Sequential(*maps, depthwise, nn.Tanh(), nn.Flatten(), nn.Linear(5 * 64, 2))


READS: list[tuple[Callable[[], nn.Module], Callable[[], Tensor], str, str, bool]] = [
    (dropped, rows, "2", "3", True),
    (dropped, rows, "1", "3", True),
    (dropped, rows, "0", "3", False),
    (dropped, rows, "1", "5", False),
    (written, rows, "1", "2", True),
    (written, rows, "0", "2", False),  # what it gives is overwritten before it is read
    (flattened, images, "1", "2", True),
    (flattened, images, "3", "4", False),  # depthwise: it cannot mix channels, a connection can
    (flattened, images, "5", "7", True),
    (flattened, images, "3", "7", False),
]


@pytest.mark.parametrize("make, inputs, source, target, reads", READS)
def test_a_linear_map_beside_a_linear_map_is_noted_and_no_candidate(
    make: Callable[[], nn.Module],
    inputs: Callable[[], Tensor],
    source: str,
    target: str,
    reads: bool,
) -> None:
    model = made(make)
    found = [(e.source, e.target) for e in score_edges(model, inputs(), lambda y: y.exp().mean())]
    assert ((source, target) in found) is not reads
    note = connect(model, inputs(), source, target).note
    assert note == (
        f"{target!r} reads what {source!r} gives already, and is linear itself" if reads else None
    )


def test_a_connection_that_is_there_is_no_candidate_and_noted_when_it_is_made_again() -> None:
    model = made(chain)
    assert connect(model, rows(), "0", "4").note is None
    found = [(e.source, e.target) for e in score_edges(model, rows(), lambda y: y.exp().mean())]
    assert ("0", "4") not in found
    assert ("1", "4") in found
    again = connect(model, rows(), "0", "4", adapter="low_rank", rank=9)
    assert again.note == (
        "a connection from '0' to '4' is there already; "
        "rank is 2, as many features as there are on a side"
    )
