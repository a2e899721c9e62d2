"""Quality and loss with more and more units gone."""

import csv
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance import Task
from layer_importance.interventions import curve_csv, removal_curve


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(6, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.relu(self.up(x)))


class Squares(Task):
    """Has no quality."""

    name = "squares"

    def loss(self, output: Tensor, labels: Tensor, batch: object) -> Tensor:
        return (output - labels[:, None]).square().sum(1)


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(*[Block() for _ in range(4)], nn.Linear(6, 3)).double()


def _batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(30, 6, generator=generator, dtype=torch.float64)
    return list(zip(x.split(11), (torch.arange(30) % 3).split(11), strict=True))


def test_every_point_is_the_model_without_those_blocks() -> None:
    net, batches, order = _net().train(), _batches(), ["2", "0", "3"]
    before = {name: value.clone() for name, value in net.state_dict().items()}
    points = removal_curve(net, batches, order)
    x, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
    each = sum(p.numel() for p in net[0].parameters())
    for count, point in enumerate(points):
        with torch.no_grad():
            kept = [m for i, m in enumerate(net) if str(i) not in order[:count]]
            logits = nn.Sequential(*kept)(x)
        losses = F.cross_entropy(logits, labels, reduction="none")
        right = (logits.argmax(1) == labels).double()
        assert (point.removed, point.unit) == (count, order[count - 1] if count else "")
        assert point.parameters == (4 - count) * each
        assert point.loss == pytest.approx(float(losses.mean()), rel=1e-12)
        assert point.loss_error == pytest.approx(float(losses.std()) / 30**0.5, rel=1e-10)
        assert point.quality == pytest.approx(float(right.mean()), rel=1e-12)
        assert point.quality_error == pytest.approx(float(right.std()) / 30**0.5, rel=1e-10)
    assert net.training
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_a_task_without_quality_has_its_loss() -> None:
    points = removal_curve(_net(), _batches(), ["1"], task=Squares())
    assert all(math.isnan(point.quality) and point.loss > 0 for point in points)


def test_the_file_has_a_line_a_point() -> None:
    points = removal_curve(_net(), _batches(), ["1", "2"])
    rows = list(csv.DictReader(curve_csv(points).splitlines()))
    assert [row["unit"] for row in rows] == ["", "1", "2"]
    assert [float(row["loss"]) for row in rows] == [point.loss for point in points]


@pytest.mark.parametrize(
    "order, message",
    [
        (["1", "1"], "order must name each unit once, got 1, 1"),
        (["9"], "order must be of removable units, got 9"),
    ],
)
def test_an_order_that_cannot_be_followed_is_refused(order: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        removal_curve(_net(), _batches(), order)


def test_without_labels_there_is_no_curve() -> None:
    with pytest.raises(ValueError, match="batches must hold labels for a curve, got none"):
        removal_curve(_net(), [x for x, _ in _batches()], ["1"])
