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
