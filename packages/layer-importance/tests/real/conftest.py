"""A net with a planted useless block is trained, and what is found of it judged."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance._discover import discover
from layer_importance._methods.block_influence import BlockInfluence
from layer_importance._methods.layer_ablation import LayerAblation
from layer_importance._methods.skip_attribution import SkipAttribution
from layer_importance._modalities import find_modality
from layer_importance._preserve import preserved
from layer_importance._subject import Subject
from layer_importance._sweep import Sweep
from layer_importance._task import Task

USELESS = "blocks.1"


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Residual(nn.Module):
    """``x + out(relu(inner(norm(x))))``."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.inner = nn.LayerNorm(width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(2 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.out(torch.relu(self.inner(self.norm(x))))


@pytest.fixture(scope="session")
def residual() -> type[nn.Module]:
    return Residual


def make_useless(block: nn.Module) -> None:
    """Its branches add nothing, now and after training."""
    for name, module in block.named_modules():
        if name.rpartition(".")[2] in ("out", "told"):
            for parameter in module.parameters():
                nn.init.zeros_(parameter)
                parameter.requires_grad_(False)


@pytest.fixture(scope="session")
def train() -> Callable[..., None]:
    def run(
        net: nn.Module,
        batches: Sequence[Any],
        task: Task,
        steps: int = 40,
        lr: float = 3e-3,
        useless: Sequence[str] = (USELESS,),
    ) -> None:
        for path in useless:
            make_useless(net.get_submodule(path))
        learns = [p for p in net.parameters() if p.requires_grad]
        optimizer = torch.optim.Adam(learns, lr=lr)
        for step in range(steps):
            batch = batches[step % len(batches)]
            losses = task.loss(task.inputs(batch).of(net), task.labels(batch), batch)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()

    return run


@pytest.fixture(scope="session")
def scores() -> Callable[..., dict[str, Any]]:
    def run(
        net: nn.Module,
        batches: Sequence[Any],
        task: Task,
        modality: Any = "auto",
        units: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        first = batches[0]
        found = discover(net, first, units=units, call=task.inputs(first))
        kind = find_modality(modality, first)
        subject = Subject(net, found, task, batches, modality=kind)
        heard = [BlockInfluence(), SkipAttribution()]
        before = {key: value.clone() for key, value in net.state_dict().items()}
        with preserved(net, gradients=True):
            for method in heard:
                method.begin(subject)
            with Sweep(subject, heard) as sweep:
                for batch in subject.batches():
                    sweep.run(batch)
            damage = LayerAblation().run(subject, lambda what, done: None)
        assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
        return {
            "block_influence": heard[0].scores(),
            "skip_attribution": heard[1].scores(),
            "layer_ablation": damage,
        }

    return run


@pytest.fixture(scope="session")
def verdict(scores: Callable[..., dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """The useless block has nothing at all, and some trained block has clearly more."""

    def run(
        net: nn.Module, batches: Sequence[Any], task: Task, *useless: str, **options: Any
    ) -> dict[str, Any]:
        found = scores(net, batches, task, **options)
        turned, moved, damage = found.values()
        for one in useless or (USELESS,):
            assert abs(turned[one].value) < 1e-6
            assert moved[one].value == moved[one].standard_error == 0
            assert damage[one].value == damage[one].standard_error == 0
            chain = one.rpartition(".")[0]
            peers = [n for n in damage if n != one and n.rpartition(".")[0] == chain]
            assert len(peers) >= 2
            assert all(turned[n].value > 1e-5 and moved[n].value > 0 for n in peers)
            best = max(peers, key=lambda n: damage[n].value)
            assert damage[best].value > 2 * damage[best].standard_error > 0
        return found

    return run


@pytest.fixture(scope="session")
def same() -> Callable[..., None]:
    """Two runs found the same."""

    def check(one: dict[str, Any], other: dict[str, Any], tolerance: float = 1e-4) -> None:
        for method in one:
            assert set(one[method]) == set(other[method])
            largest = max(abs(score.value) for score in one[method].values())
            for name, score in one[method].items():
                assert abs(other[method][name].value - score.value) <= tolerance * largest

    return check
