from typing import Any

import pytest
import torch
from torch import Tensor, nn

from layer_importance import Report, analyze, distill, plan, reestimate_norms
from layer_importance._methods import BUILT_IN
from layer_importance.interventions import removal_curve

METHODS = [m.name for m in BUILT_IN if not m.name.startswith("attention")]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(*(Block() for _ in range(3)), nn.Linear(8, 3))


def batches(*sizes: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(sum(sizes), 8, generator=generator)
    y = torch.randint(3, (sum(sizes),), generator=generator)
    return list(zip(x.split(sizes), y.split(sizes), strict=True))


def said(report: Report, which: str) -> bool:
    return any(
        f"no sample that has something to answer, left out: {which}" in n for n in report.notes
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_without_samples_is_left_out_and_counted(net: nn.Module, name: str) -> None:
    full = analyze(net, batches(12, 12), methods=[name])
    found = analyze(net, batches(12, 12, 0), methods=[name])
    for unit, score in full[name].items():
        assert found[name][unit].value == score.value
        assert found[name][unit].samples == score.samples
    assert found.samples == full.samples
    assert said(found, "2") or name == "synflow"  # that reads no data


@pytest.mark.parametrize("sizes, which", [((0, 12, 12), "0"), ((12, 0, 0, 12), "1, 2")])
def test_wherever_it_stands(net: nn.Module, sizes: tuple[int, ...], which: str) -> None:
    full = analyze(net, batches(12, 12), methods=["skip_attribution", "layer_ablation"])
    found = analyze(net, batches(*sizes), methods=["skip_attribution", "layer_ablation"])
    for name, scores in full.methods.items():
        assert dict(found[name]) == dict(scores)
    assert said(found, which)


def test_plans_and_curves_leave_it_out_too(net: nn.Module) -> None:
    with_it, without = (
        plan(net, data, units=2, keep_types=False) for data in (batches(0, 12, 12), batches(12, 12))
    )
    assert with_it.removals == without.removals
    assert with_it.damage == without.damage
    curves = [removal_curve(net, data, ["0"]) for data in (batches(0, 12, 12), batches(12, 12))]
    assert curves[0] == curves[1]


def test_healing_leaves_it_out_too(net: nn.Module) -> None:
    teacher = net
    found = []
    for data in (batches(0, 12, 12), batches(12, 12)):
        torch.manual_seed(1)
        student = nn.Sequential(Block(), nn.BatchNorm1d(8), nn.Linear(8, 3))
        reestimate_norms(student, data)
        found.append(distill(student, teacher, data, steps=3).after)
    assert found[0] == found[1]


@pytest.mark.parametrize("use", [analyze, plan])
def test_data_of_nothing_else_are_refused(net: nn.Module, use: Any) -> None:
    options = {"units": 2} if use is plan else {}
    with pytest.raises(ValueError, match="at least one batch with a sample"):
        use(net, batches(0, 0), **options)
