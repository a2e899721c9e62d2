"""Edits that are deliberately wrong: each is caught by the check and undone bit for bit."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from neuro_morph import Duplicate, GrowthRefusedError, Morpher, Performed, Site, Split, Widen
from neuro_morph._edit import Variant
from neuro_morph._edits import TensorEdit
from neuro_morph._undo import UndoLog
from neuro_morph._widening import tensors_of
from neuro_morph.testing import architectures, randomized

Mutation = Callable[[Tensor, TensorEdit], Tensor]


def at(edit: TensorEdit, *, new: bool) -> tuple[int, Tensor]:
    axis = edit.axes[0]
    repeated = torch.zeros(len(axis.take), dtype=torch.bool)
    seen: set[int] = set()
    for k, old in enumerate(axis.take.tolist()):
        repeated[k] = old < 0 or old in seen
        seen.add(old)
    return axis.dim, (repeated if new else ~repeated).nonzero().flatten()


def scaled(tensor: Tensor, edit: TensorEdit, *, by: float, new: bool) -> Tensor:
    dim, places = at(edit, new=new)
    wrong = tensor.clone()
    wrong.index_copy_(dim, places, tensor.index_select(dim, places) * by)
    return wrong


def swapped(tensor: Tensor, edit: TensorEdit) -> Tensor:
    dim, places = at(edit, new=False)
    order = torch.arange(tensor.shape[dim])
    order[places[:2]] = places[:2].flip(0)
    return tensor.index_select(dim, order)


def rolled(tensor: Tensor, edit: TensorEdit) -> Tensor:
    return tensor.roll(1, edit.axes[0].dim)


def filled(tensor: Tensor, edit: TensorEdit) -> Tensor:
    dim, places = at(edit, new=True)
    part = tensor.index_select(dim, places)
    return tensor.clone().index_copy_(dim, places, part + torch.ones_like(part))


def broken(tensor: Tensor, edit: TensorEdit) -> Tensor:
    wrong = tensor.clone()
    wrong.view(-1)[0] = float("nan")
    return wrong


MUTATIONS: dict[str, Mutation] = {
    "old entries scaled": partial(scaled, by=1.1, new=False),
    "old entries forgotten": partial(scaled, by=0.0, new=False),
    "copies scaled": partial(scaled, by=1.3, new=True),
    "copies negated": partial(scaled, by=-1.0, new=True),
    "rows swapped": swapped,
    "everything moved by one": rolled,
    "new entries not as they should be": filled,
    "not a number": broken,
}


@dataclass(frozen=True)
class Wrong:
    """A widening after which one tensor, or an epsilon, is not what it should be."""

    widen: Widen
    which: int
    mutation: str
    op: str = "wrong"

    @property
    def target(self) -> str:
        return self.widen.target

    def detail(self) -> dict[str, Any]:
        return {}

    def variants(self, site: Site) -> Iterator[Variant]:
        for variant in self.widen.variants(site):
            yield partial(self._spoil, site, variant)

    def _spoil(self, site: Site, variant: Variant, log: UndoLog) -> Performed:
        performed = variant(log)
        edit = performed.tensors[self.which % len(performed.tensors)]
        tensor = tensors_of(site.model)[edit.name]
        log.set_data(tensor, MUTATIONS[self.mutation](tensor.detach(), edit))
        return performed


def everything(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [v for held in optimizer.state.values() for v in held.values()]
    return [t.clone() for t in [*model.state_dict().values(), *moments]]


@pytest.mark.parametrize("name", ["resnet", "densenet", "efficientnet", "llama", "unet"])
def test_forty_wrong_edits_of_a_network_are_all_caught_and_undone(name: str) -> None:
    torch.manual_seed(0)
    model, inputs = randomized(*architectures()[name]())
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    model(inputs).square().mean().backward()
    optimizer.step()
    optimizer.zero_grad()
    morpher = Morpher(model, optimizer, example_inputs=inputs, capture="dispatch")
    graph, before = morpher.graph, everything(model, optimizer)
    widths = [g for g in graph if "copy" in graph.ways(g)]
    caught = 0
    for k in range(40):
        group = widths[k % len(widths)]
        whole = "equal" in graph.ways(group) and k % 3 == 0
        init = Duplicate() if whole else Split()
        widen = Widen(group.id, by=group.size if whole else 2, init=init)
        mutation = list(MUTATIONS)[(k + k // 8) % len(MUTATIONS)]
        with pytest.raises(GrowthRefusedError, match="the output changes by"):
            morpher.apply(Wrong(widen, which=k, mutation=mutation))
        after = everything(model, optimizer)
        assert len(after) == len(before)
        assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))
        caught += 1
    assert caught == 40


def test_a_norm_whose_epsilon_is_not_scaled_is_caught() -> None:
    model, inputs = randomized(*architectures()["vit"]())
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")

    class Unscaled(Wrong):
        def _spoil(self, site: Site, variant: Variant, log: UndoLog) -> Performed:
            performed = variant(log)
            log.set_attribute(site.model.get_submodule("norm"), "eps", 1e-5)
            return performed

    with pytest.raises(GrowthRefusedError, match="the output changes by"):
        morpher.apply(Unscaled(Widen("patches.0", by=1), which=0, mutation=""))
    assert model.norm.eps == 1e-5
    assert model.norm.weight.shape == (12,)


class Scaled(torch.nn.Module):
    """A network whose outputs are of another size, or stand in an object."""

    def __init__(self, net: torch.nn.Module, scale: float, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.net, self.scale, self.wrap = net, scale, wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.scale * self.net(x))


class Held:
    def __init__(self, logits: Tensor) -> None:
        self.logits = logits


class OnlyInTraining(torch.nn.Module):
    """A layer that is wrong in training only."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(-1, keepdim=True) if self.training else x


def mlp_of(*between: torch.nn.Module) -> torch.nn.Module:
    layers = torch.nn.Linear(4, 8), *between, torch.nn.Tanh(), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers)


HARD: dict[str, Callable[[], tuple[torch.nn.Module, Any]]] = {
    "small outputs": lambda: (Scaled(mlp_of(), 1e-9, lambda x: x), torch.randn(4, 4)),
    "large outputs": lambda: (Scaled(mlp_of(), 1e9, lambda x: x), torch.randn(4, 4)),
    "outputs in an object": lambda: (Scaled(mlp_of(), 1.0, Held), torch.randn(4, 4)),
    "inputs of zeros": lambda: (mlp_of(), torch.zeros(2, 4)),
    "one input": lambda: (mlp_of(), torch.ones(1, 4)),
    "equal tokens": lambda: (architectures()["llama"]()[0], torch.zeros(1, 6, dtype=torch.long)),
    "one token": lambda: (architectures()["llama"]()[0], torch.zeros(1, 1, dtype=torch.long)),
}


@pytest.mark.parametrize("size", [1e-3, 0.3])
@pytest.mark.parametrize("name", HARD)
def test_wrong_edits_are_caught_where_little_shows_them(name: str, size: float) -> None:
    torch.manual_seed(0)
    model, inputs = randomized(*HARD[name]())
    morpher = Morpher(model, example_inputs=inputs, capture="dispatch")
    graph, before = morpher.graph, model.state_dict()
    held = {key: value.clone() for key, value in before.items()}
    MUTATIONS["slightly scaled"] = partial(scaled, by=1 + size, new=False)
    widths = [g for g in graph if "copy" in graph.ways(g)]
    try:
        for group in widths:
            for which in range(len(group.members)):
                wrong = Wrong(Widen(group.id, by=2, init=Split()), which, "slightly scaled")
                with pytest.raises(GrowthRefusedError, match="the output changes by|scores"):
                    morpher.apply(wrong)
                assert all(torch.equal(v, held[k]) for k, v in model.state_dict().items())
    finally:
        del MUTATIONS["slightly scaled"]
    assert widths


def test_an_edit_that_is_wrong_in_training_alone_is_caught() -> None:
    model, inputs = randomized(mlp_of(OnlyInTraining()), torch.randn(4, 4))
    morpher = Morpher(model.train(), example_inputs=inputs, capture="dispatch")
    with pytest.raises(GrowthRefusedError, match="in training"):
        morpher.apply(Widen("0", by=2, init=Split()))
    assert model[0].weight.shape == (8, 4)
    assert model.training
