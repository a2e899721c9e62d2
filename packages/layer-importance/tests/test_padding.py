"""Padded tokens count nowhere: whatever stands there, and however much of it."""

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from layer_importance import Method, MethodScores, SweepMethod, analyze
from layer_importance._corruptions import resample
from layer_importance._methods import BUILT_IN
from layer_importance._methods.attribution_patching import AttributionPatching
from layer_importance._methods.causal_analysis import CausalAnalysis
from layer_importance._methods.conductance import Conductance
from layer_importance._methods.layer_ablation import LayerAblation
from layer_importance._methods.shapley import Shapley
from layer_importance._methods.uncertainty_quantification import UncertaintyQuantification

N = 24
Batch = dict[str, Any]


class Attending(nn.Module):
    """Tokens that look at real ones alone; the mean of the real ones at the end."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(30, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)
            for _ in range(3)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        x, real = self.embed(input_ids), attention_mask.bool()
        for block in self.blocks:
            x = block(x, src_key_padding_mask=~real)
        return self.head((x * real[..., None]).sum(1) / real.sum(1, keepdim=True))


class Filter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Conv1d(4, 6, 1), nn.Conv1d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.relu(self.up(x)))


class Listening(nn.Module):
    """Features before places: `[N, C, T]`, and lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(1, 4, 1), nn.Linear(4, 3)
        self.blocks = nn.ModuleList(Filter() for _ in range(3))

    def forward(self, input_values: Tensor, lengths: Tensor) -> Tensor:
        x = self.stem(input_values)
        for block in self.blocks:
            x = block(x)
        real = torch.arange(x.shape[-1]) < lengths[:, None]
        return self.head((x * real[:, None]).sum(2) / lengths[:, None])


def _text(garbage: int, longer: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 30, (N, 7), generator=generator)
    lengths = torch.randint(2, 8, (N, 1), generator=generator)
    ids, mask = F.pad(ids, (0, longer)), torch.arange(7 + longer) < lengths
    labels = torch.arange(N) % 3
    ids = ids.masked_fill(~mask, garbage)
    return {"input_ids": ids, "attention_mask": mask.long(), "labels": labels}


def _sound(garbage: int, longer: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(N, 1, 90, generator=generator, dtype=torch.float64)
    lengths = torch.randint(50, 91, (N,), generator=generator)
    x, mask = F.pad(x, (0, longer)), torch.arange(90 + longer) < lengths[:, None]
    x = x.masked_fill(~mask[:, None], float(garbage))
    return {"input_values": x, "lengths": lengths, "labels": torch.arange(N) % 3}


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[int, int], Batch], str]] = {
    "tokens before features": (Attending, _text, "text"),
    "features before places": (Listening, _sound, "audio"),
}
SWEPT: list[Callable[[], Method]] = [m for m in BUILT_IN if issubclass(m, SweepMethod)]
ALONE: list[Callable[[], Method]] = [
    m for m in BUILT_IN if not issubclass(m, SweepMethod | Shapley | UncertaintyQuantification)
]
ALONE += [
    lambda: UncertaintyQuantification(draws=2),
    lambda: Shapley(permutations=2),
    lambda: Conductance(baseline="resample"),
    *(lambda mode=mode: LayerAblation(mode=mode) for mode in ("mean", "resample")),
]

# noise is drawn for padding, too, though it counts nowhere: with more of it come other draws
SAME_DRAWS: dict[Any, Callable[[], Method]] = {
    method: partial(method, corruption=resample) for method in (CausalAnalysis, AttributionPatching)
}


@cache
def _scores(case: str, method: Callable[[], Method], garbage: int, longer: int) -> MethodScores:
    make, batch, modality = CASES[case]
    torch.manual_seed(0)
    model = make().double().eval()
    chosen, units = method(), [f"blocks.{i}" for i in range(3)]
    report = analyze(
        model, [batch(garbage, longer)], methods=[chosen], units=units, modality=modality
    )
    if chosen.name not in report.methods:
        pytest.skip(report.reasons[chosen.name])
    return report[chosen.name]


@pytest.mark.parametrize("longer", [0, 5])
@pytest.mark.parametrize("method", [*SWEPT, *ALONE])
@pytest.mark.parametrize("case", CASES)
def test_what_stands_in_padding_changes_no_score(
    case: str, method: Callable[[], Method], longer: int
) -> None:
    if longer and method in (CausalAnalysis, AttributionPatching):
        method = SAME_DRAWS[method]
    clean, spoiled = _scores(case, method, 0, 0), _scores(case, method, 29, longer)
    assert list(clean)
    for unit, score in clean.items():
        other = spoiled[unit]
        assert other.value == pytest.approx(score.value, rel=1e-8, abs=1e-11)
        error = pytest.approx(score.standard_error, rel=1e-6, abs=1e-11, nan_ok=True)
        assert other.standard_error == error
        assert other.samples == score.samples
    for column, values in clean.extras.items():
        right: Any = spoiled.extras[column]
        assert values == pytest.approx(right, rel=1e-8, abs=1e-10, nan_ok=True), column
