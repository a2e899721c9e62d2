import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from neuro_morph import GrowthGraph, GrowthRefusedError, Morpher, Widen
from neuro_morph._accumulators import Limits
from neuro_morph._nest import NeST
from neuro_morph._proposals import inverse_power, propose_units, residual
from neuro_morph._proposed_units import given_units, gradmax, senn, tiny
from neuro_morph._statistics import collect_statistics
from neuro_morph._trial import trial
from neuro_morph._undo import UndoLog
from neuro_morph._widening import widen
from neuro_morph.testing import architectures, randomized

NETS: dict[str, Any] = {
    "linear": lambda: (nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4)),
    "conv to conv": lambda: (
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        nn.Flatten(),
    ),
    "conv to flattened": lambda: (
        nn.Conv2d(2, 3, 3, bias=False),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(27, 4),
    ),
    "conv to pooled": lambda: (
        nn.Conv2d(2, 3, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 4),
    ),
    "conv1d": lambda: (nn.Conv1d(2, 3, 3, dilation=2), nn.Conv1d(3, 4, 3), nn.Flatten()),
    "tokens": lambda: (nn.Linear(5, 3), nn.Tanh(), nn.Linear(3, 4), nn.Flatten()),
}
SHAPES = {"linear": (5,), "conv1d": (2, 9), "tokens": (6, 5)}


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean()


def measured(name: str, **limits: int) -> tuple[nn.Module, GrowthGraph, Any, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(*NETS[name]()).double()
    x = torch.randn(16, *SHAPES.get(name, (2, 8, 8)), dtype=torch.float64)
    batch = x, torch.randn_like(model(x)).detach()
    graph = GrowthGraph.capture(model, x, capture="dispatch")
    held = collect_statistics(model, graph, [batch], loss_fn, limits=Limits(1000, **limits))
    return model, graph, held, batch


@pytest.mark.parametrize("name", sorted(NETS))
@pytest.mark.parametrize("metric", ["euclidean", "pre", "both"])
def test_the_loss_falls_as_fast_as_the_gains_say(name: str, metric: str) -> None:
    model, graph, held, batch = measured(name)
    proposal = propose_units(held["0"], 2, target="gradient", metric=metric)
    losses = []
    for step in (1e-5, -1e-5):
        grown = copy.deepcopy(model)
        fan_out = [part * step * 1e4 for part in proposal.fan_out]  # where tanh is the identity
        units = given_units(graph["0"], held["0"], proposal.fan_in * 1e-4, fan_out)
        widen(grown, graph, graph["0"], units, "free", UndoLog())
        losses.append(float(loss_fn(grown, batch).detach()))
    slope = (losses[1] - losses[0]) / 2e-5
    assert slope == pytest.approx(float(proposal.gains.sum()), rel=1e-5)


def test_no_other_units_of_that_size_make_a_larger_gradient_than_gradmax() -> None:
    model, _, held, batch = measured("linear")
    columns = propose_units(held["0"], 2, target="gradient", metric="euclidean").fan_out[0][..., 0]
    columns = columns / columns.norm(dim=1, keepdim=True)
    torch.testing.assert_close(columns @ columns.T, torch.eye(2).double())
    x = torch.cat([batch[0], torch.ones(16, 1).double()], 1)
    g = -2 * (model(batch[0]) - batch[1]).detach() / 4

    def size(fan_out: Tensor) -> float:
        return float((x.T @ g @ fan_out.T / 16).norm())

    best = size(columns)
    values = torch.linalg.svdvals(x.T @ g / 16)
    assert best == pytest.approx(float(values[:2].square().sum().sqrt()))
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        q = torch.linalg.qr(torch.randn(4, 2, generator=generator).double())[0]
        assert size(q.T) <= best + 1e-12


def test_the_residual_is_what_the_best_weights_leave() -> None:
    model, _, held, batch = measured("linear")
    h = torch.tanh(model[0](batch[0])).detach()
    rows = torch.cat([h, torch.ones(16, 1).double()], 1)
    g = -(model(batch[0]) - batch[1]).detach() / 2
    left = g - rows @ torch.linalg.lstsq(rows, g).solution
    x = torch.cat([batch[0], torch.ones(16, 1).double()], 1)
    torch.testing.assert_close(residual(held["0"].readers[0])[..., 0], x.T @ left / 16)


def test_the_natural_score_is_the_trace_it_is_defined_by() -> None:
    held = measured("conv to conv")[2]["0"]
    reader = held.readers[0]
    gains = propose_units(held, 19, metric="both").gains
    n = residual(reader)
    s, k = inverse_power(held.x_x, 1.0), inverse_power(reader.g_g, 1.0)
    whole = torch.einsum("fok,fe,epk,op->", n, s, n, k)
    assert float(gains.sum()) == pytest.approx(float(whole))


@pytest.mark.parametrize("name", sorted(NETS))
def test_presets_grow_units_that_change_nothing_and_train(name: str) -> None:
    for preset in (gradmax, tiny, senn):
        model, _, held, batch = measured(name)
        morpher = Morpher(model, example_inputs=batch[0], capture="dispatch")
        event = morpher.apply(Widen("0", by=2, init=preset(held)))
        assert event.relative_change is not None
        assert event.relative_change <= 1e-12
        loss_fn(model, batch).backward()
        made, reads = (model[k] for k, m in enumerate(model) if hasattr(m, "weight"))
        fresh = [made.weight.grad[3:], reads.weight.grad.reshape(4, 5, -1)[:, 3:]]
        assert any(float(g.abs().max()) > 1e-6 for g in fresh if g.numel())


def test_rows_of_zeros_behind_a_relu_are_refused() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    batch = torch.randn(8, 3), torch.randn(8, 2)
    morpher = Morpher(model, example_inputs=batch[0], capture="dispatch")
    held = collect_statistics(model, morpher.graph, [batch], loss_fn)
    with pytest.raises(GrowthRefusedError, match="derivative at 0 is 0"):
        morpher.apply(Widen("0", by=1, init=gradmax(held)))
    morpher.apply(Widen("0", by=1, init=gradmax(held, epsilon=1e-7)))
    loss_fn(model, batch).backward()
    assert float(model[0].weight.grad[4].abs().max()) > 0
    model.zero_grad()
    with pytest.raises(GrowthRefusedError, match="collect statistics anew"):
        morpher.apply(Widen("0", by=1, init=tiny(held)))


def test_units_on_both_sides_lower_the_loss_where_change_is_allowed() -> None:
    for init in ("tiny", "nest"):
        model, _, held, batch = measured("linear")
        before = float(loss_fn(model, batch).detach())
        init = (
            tiny(held, constraint=None, amplitude=0.1)
            if init == "tiny"
            else NeST(held, strength=0.3)
        )
        strict = Morpher(model, example_inputs=batch[0], capture="dispatch")
        with pytest.raises(GrowthRefusedError, match="the output changes"):
            strict.apply(Widen("0", by=2, init=init))
        assert float(loss_fn(model, batch).detach()) == before
        loose = Morpher(model, example_inputs=batch[0], capture="dispatch", tolerance=1.0)
        loose.apply(Widen("0", by=2, init=init))
        assert float(loss_fn(model, batch).detach()) < before


def test_bad_settings_and_groups_without_a_maker_are_refused() -> None:
    held = measured("linear")[2]
    for name in ("target", "metric", "constraint"):
        with pytest.raises(ValueError, match=f"{name} must be one of"):
            propose_units(held["0"], 1, **{name: "nothing"})
    with pytest.raises(ValueError, match=r"by must be in 1\.\.4"):
        propose_units(held["0"], 9)
    with pytest.raises(ValueError, match="share must be in"):
        NeST(held, share=0.0)
    few = measured("linear", features=3)[2]["0"]
    with pytest.raises(GrowthRefusedError, match="each unit is made from 5 numbers, over 3"):
        propose_units(few, 1)


def squares(model: nn.Module, batch: Any) -> Tensor:
    out = model(*batch) if isinstance(batch, tuple) else model(batch)
    return sum((t.square().mean() for t in tree_leaves(out)), torch.zeros(()))


ZOO = ["bert", "densenet", "flatten_net", "gpt2", "mixer", "mobilenet", "shufflenet", "unet"]


@pytest.mark.parametrize("name", [*ZOO, "vit", "wavenet"])
def test_in_real_architectures_units_are_grown_exactly_or_refused_by_name(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = randomized(*architectures()[name]())
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    held = collect_statistics(model, morpher.graph, [inputs], squares)
    for group in held.groups.values():
        edit = Widen(group.id, by=1, init=tiny(held))
        if group.maker is None:
            with pytest.raises(
                GrowthRefusedError, match=r"no units can be proposed|are counted|mean"
            ):
                morpher.apply(edit)
            continue
        with trial(morpher):
            event = morpher.apply(edit)
        assert event.relative_change is not None
        assert event.relative_change <= 1e-12
