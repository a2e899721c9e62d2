import pytest
import torch
from torch import Tensor, nn

from layer_importance import Report, analyze


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(self.up(x).relu())


def analysed(blocks: int, methods: list[str] | str, *, labels: bool = True) -> Report:
    torch.manual_seed(0)
    net = nn.Sequential(*(Block() for _ in range(blocks)), nn.Linear(8, 3))
    x, y = torch.randn(32, 8), torch.randint(3, (32,))
    data = list(zip(x.split(8), y.split(8), strict=True)) if labels else list(x.split(8))
    return analyze(net, data, methods=methods)


@pytest.mark.parametrize("blocks", [2, 6, 40])
@pytest.mark.parametrize("labels", [True, False])
def test_a_printed_report_is_a_table_of_at_most_25_lines(blocks: int, labels: bool) -> None:
    lines = str(analysed(blocks, "auto", labels=labels)).splitlines()
    assert len(lines) <= 25
    assert all(len(line) <= 100 for line in lines)
    assert f"{blocks} units" in lines[0]
    assert any("more units" in line for line in lines) == (blocks > 14)


def test_measured_damage_comes_first_and_orders_the_units() -> None:
    report = analysed(6, ["skip_attribution", "layer_ablation", "attention_analysis"])
    head, *rows = str(report).splitlines()[1:8]
    assert head.split()[:4] == ["unit", "parameters", "damage", "(nats)"]
    assert [row.split()[0] for row in rows] == report.ranking("layer_ablation")
    least = report["layer_ablation"][report.ranking("layer_ablation")[0]]
    assert f"{least.value:.3g} ± {least.standard_error:.1g}" in rows[0]
    assert "did not run, see reasons: attention_analysis" in str(report)


def test_a_report_in_an_error_message_is_short() -> None:
    report = analysed(2, ["block_influence"])
    assert repr(report) == "Report(2 units, 32 samples, methods: block_influence)"
