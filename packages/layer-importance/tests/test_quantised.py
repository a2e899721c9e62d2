import warnings

import pytest
import torch
from torch import Tensor, nn

from layer_importance import analyze, carry_out, discover, plan
from layer_importance._methods import BUILT_IN

GRADIENTS = {"gradients", "parameter_gradients", "per_sample", "sampled", "exact"}


class Block(nn.Module):
    def __init__(self, normed: bool) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8) if normed else nn.Identity()
        self.up, self.down = nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.down(self.up(self.norm(x)).relu())
        return out


# torch says that its own quantised layers will go, and that autograd knows nothing of them
@pytest.fixture(autouse=True)
def _quiet() -> None:
    warnings.simplefilter("ignore")


def quantised(*, normed: bool = True) -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(*(Block(normed) for _ in range(4)), nn.Linear(8, 3)).eval()
    found: nn.Module = torch.ao.quantization.quantize_dynamic(net, {nn.Linear}, dtype=torch.qint8)
    return found


def batches() -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(36, 8, generator=generator)
    return list(zip(x.split(12), torch.arange(36).remainder(3).split(12), strict=True))


@pytest.mark.parametrize("normed", [True, False])
def test_blocks_of_quantised_layers_are_units(normed: bool) -> None:
    assert discover(quantised(normed=normed), batches()[0][0]).names == ["0", "1", "2", "3"]


def test_methods_that_need_no_gradient_run_and_the_others_say_why() -> None:
    methods = [m.name for m in BUILT_IN]
    report = analyze(quantised(), batches(), methods=methods)
    ran = {m.name for m in BUILT_IN if not m.needs & GRADIENTS} - {"synflow", "attention_maps"}
    assert set(report.methods) == ran
    assert "quantised layers" in report.reasons["synflow"]
    for kind in BUILT_IN:
        if kind.needs & GRADIENTS and kind.name != "attention_analysis":
            assert "needs" in report.reasons[kind.name]
    assert report["layer_ablation"].scores.keys() == {"0", "1", "2", "3"}


def test_what_can_be_had_is_chosen() -> None:
    report = analyze(quantised(), batches(), methods="auto")
    assert {"block_influence", "layer_ablation"} <= set(report.methods)
    assert "skip_attribution" not in report.methods


def test_a_plan_can_be_made_and_what_no_file_can_hold_is_refused_by_name() -> None:
    found = plan(quantised(), batches(), units=3, keep_types=False)
    assert len(found.removals) == 1
    with pytest.raises(ValueError, match="state must be tensors"):
        carry_out(quantised(), found, example=batches()[0])
