"""Networks that are sparse while they grow."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import (
    ArchitectureSpec,
    Deepen,
    Divide,
    Duplicate,
    GrowthRefusedError,
    Morpher,
    SparseGrowth,
    Split,
    Widen,
    ZeroFanOut,
)


class Net(nn.Module):
    """A convolutional net with a residual stream that a LayerNorm counts."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.stem, self.norm = nn.Linear(96, 8), nn.LayerNorm(8)
        self.wide, self.back, self.head = nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h: Tensor = self.stem(self.bn(self.conv(x)).relu().flatten(1))
        out: Tensor = self.head(h + self.back(self.wide(self.norm(h)).relu()))
        return out


X = torch.randn(8, 2, 4, 4, generator=torch.Generator().manual_seed(1)).double()


def run(steps: int = 7, **settings: Any) -> tuple[nn.Module, Any, SparseGrowth, Morpher]:
    torch.manual_seed(0)
    model = Net().double()
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    sparse = SparseGrowth(model, 0.3, optimizer=optimizer, steps=60, every=3)
    train(model, optimizer, sparse, steps)
    return (
        model,
        optimizer,
        sparse,
        Morpher(model, optimizer, example_inputs=X, capture="dispatch", **settings),
    )


def train(model: nn.Module, optimizer: Any, sparse: SparseGrowth, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        (model(X) - X.mean()).square().mean().backward()
        if sparse.step():
            optimizer.step()
    optimizer.zero_grad()


def weights(model: nn.Module, sparse: SparseGrowth) -> dict[str, tuple[Tensor, Tensor]]:
    return {
        n: (model.get_submodule(n).get_parameter("weight").detach().clone(), m.clone())
        for n, m in sparse.masks().items()
    }


@pytest.mark.parametrize("dynamics", ["plain", "exact"])
@pytest.mark.parametrize(
    "group, by, init",
    [
        ("conv", 3, ZeroFanOut()),
        ("conv", 3, Split()),
        ("wide", 5, ZeroFanOut()),
        ("wide", 12, Duplicate()),
        ("wide", 4, Divide((0, 1, 2, 3), steps=4)),
        ("stem", 4, ZeroFanOut()),
        ("stem", 8, Duplicate(share=0.5)),
    ],
)
def test_masks_grow_with_their_weights_and_training_goes_on_sparse(
    group: str, by: int, init: Any, dynamics: str
) -> None:
    model, optimizer, sparse, morpher = run(dynamics=dynamics)
    want = model.eval()(X).detach()
    old = {n: m.clone() for n, m in sparse.masks().items()}
    event = morpher.apply(Widen(group, by=by, init=init))
    assert event.relative_change is not None
    sparse.apply_masks()  # changes nothing: what is not there is zero already
    assert (model(X) - want).abs().max() <= 1e-12 * want.abs().max()
    grown = {n: int(m.sum()) for n, m in sparse.masks().items()}
    train(model.train(), optimizer, sparse, 10)
    for name, mask in sparse.masks().items():
        weight = model.get_submodule(name).get_parameter("weight")
        assert not weight[~mask].any()
        assert int(mask.sum()) == grown[name]
        for held in optimizer.state[weight].values():
            assert held.dim() == 0 or not held[~mask].any()
    assert any(m.shape != old[n].shape for n, m in sparse.masks().items())
    assert sparse.updates[-1].step == 15


def test_a_layer_keeps_its_density_where_new_entries_are_free() -> None:
    model, _, sparse, morpher = run()
    before = weights(model, sparse)
    morpher.apply(Widen("wide", by=40))
    for name in ("wide", "back"):
        weight, mask = weights(model, sparse)[name]
        old_weight, old_mask = before[name]
        kept = tuple(slice(size) for size in old_mask.shape)
        assert torch.equal(mask[kept], old_mask)
        assert torch.equal(weight[kept], old_weight)
        added = mask.numel() - old_mask.numel()
        density = float(old_mask.double().mean())
        assert int(mask.sum()) - int(old_mask.sum()) == round(density * added)
        assert not weight[~mask].any()
    assert weights(model, sparse)["wide"][0][12:].any()


def test_copies_have_the_connections_of_what_they_are_copies_of() -> None:
    _, _, sparse, morpher = run()
    mask = sparse.masks()["wide"].clone()
    morpher.apply(Widen("wide", by=2, init=Split(parents=(3, 5))))
    assert torch.equal(sparse.masks()["wide"][12:], mask[[3, 5]])


def test_what_is_refused_or_restored_leaves_masks_as_they_were() -> None:
    _, _, sparse, morpher = run(tolerance=0.0)
    held = {n: m.clone() for n, m in sparse.masks().items()}
    with pytest.raises(GrowthRefusedError):
        morpher.apply(Widen("wide", by=2, init=Split(share=0.37)))
    assert all(torch.equal(m, held[n]) for n, m in sparse.masks().items())
    model, optimizer, sparse, morpher = run()
    held, kept = {n: m.clone() for n, m in sparse.masks().items()}, morpher.snapshot()
    morpher.apply(Widen("wide", by=2))
    train(model, optimizer, sparse, 4)
    kept.restore()
    assert all(torch.equal(m, held[n]) for n, m in sparse.masks().items())


def test_layers_that_are_added_stay_dense_and_the_rest_goes_on() -> None:
    model, optimizer, sparse, morpher = run()
    names = {id(model.get_submodule(n)): n for n in sparse.masks()}
    morpher.apply(Deepen("wide"))
    train(model, optimizer, sparse, 4)
    held = {names.get(id(m)) for m in model.modules() if "weight_mask" in m._buffers}
    assert held == set(sparse.masks())


def test_averages_grow_with_their_masks() -> None:
    torch.manual_seed(0)
    model = Net().double()
    optimizer = torch.optim.SGD(model.parameters(), 0.01)
    sparse = SparseGrowth(model, 0.3, optimizer=optimizer, steps=60)
    average = torch.optim.swa_utils.AveragedModel(model, use_buffers=True)
    train(model, optimizer, sparse, 2)
    morpher = Morpher(model, optimizer, example_inputs=X, averages=[average], capture="dispatch")
    morpher.apply(Widen("wide", by=3))
    average.update_parameters(model)
    mask = average.module.get_submodule("wide").get_buffer("weight_mask")
    assert mask.shape == (15, 8)


@pytest.mark.parametrize("finished", [False, True])
def test_a_spec_replays_into_a_model_with_masks_and_into_one_without(finished: bool) -> None:
    model, _, sparse, morpher = run()
    morpher.apply(Widen("wide", by=3))
    fresh = Net().double()
    if finished:
        sparse.finish()
    else:
        SparseGrowth(fresh, 0.3, optimizer=torch.optim.SGD(fresh.parameters(), 0.1), steps=9)
    ArchitectureSpec.from_json(morpher.spec.to_json()).replay(fresh)
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(X), model.eval()(X))


def test_what_only_has_the_name_of_a_mask_is_left_alone() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))
        model[0].register_buffer("weight_mask", torch.ones(6, dtype=torch.bool))
        model[2].register_buffer("weight_mask", torch.ones(2, 6))
        return model

    model = build()
    morpher = Morpher(model, example_inputs=torch.ones(2, 4), capture="dispatch")
    morpher.apply(Widen("0", by=3))
    assert model.get_submodule("0").get_buffer("weight_mask").shape == (6,)
    assert model.get_submodule("2").get_buffer("weight_mask").shape == (2, 6)
    morpher.spec.replay(build()).load_state_dict(model.state_dict())


def test_shapes_that_something_else_has_changed_are_named_and_the_run_can_be_finished() -> None:
    model, optimizer, sparse, _ = run()
    weight = model.get_submodule("head").get_parameter("weight")
    optimizer.zero_grad()
    model(X).sum().backward()
    weight.data, weight.grad = torch.ones(6, 8).double(), None
    for act in (sparse.step, optimizer.step, sparse.apply_masks):
        with pytest.raises(RuntimeError, match=r"the weight of 'head' is \(6, 8\) now, its mask"):
            act()
    sparse.finish()
    assert not any("mask" in name for name in model.state_dict())
    assert weight.shape == (6, 8)
