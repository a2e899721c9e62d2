"""Models of bfloat16 and float16: what their own rounding hides is seen in float32."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import Duplicate, GrowthRefusedError, Morpher, Split, Widen, ZeroFanOut
from neuro_morph._checking import outputs_of
from neuro_morph._finer import FINER
from neuro_morph._inputs import ExampleInputs
from neuro_morph.testing import architectures, randomized

DTYPES = [torch.bfloat16, torch.float16]


class Wide(nn.Module):
    """Hidden units that are scaled by their number or not, seen through a dtype or not."""

    def __init__(self, *, counted: bool, through: torch.dtype | None = None) -> None:
        super().__init__()
        self.a, self.c = nn.Linear(16, 256), nn.Linear(256, 3)
        self.counted, self.through = counted, through

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x).tanh()
        if self.through is not None:
            h = h.to(self.through).to(x.dtype)
        return self.c(h / h.shape[-1] ** 0.5 if self.counted else h)


def morpher_of(model: nn.Module, dtype: torch.dtype, **settings: Any) -> Morpher:
    x = torch.randn(16, 16, generator=torch.Generator().manual_seed(1)).to(dtype)
    return Morpher(model.to(dtype), example_inputs=x, capture="dispatch", **settings)


def seeded(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    return Wide(**settings)


@pytest.mark.parametrize("by", [1, 4])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_change_smaller_than_rounding_is_refused(dtype: torch.dtype, by: int) -> None:
    morpher = morpher_of(seeded(counted=True), dtype)
    with pytest.raises(GrowthRefusedError, match="on other inputs, in float32"):
        morpher.apply(Widen("a", by=by))
    assert {p.dtype for p in morpher.model.parameters()} == {dtype}
    assert morpher.model.a.weight.shape == (256, 16)


@pytest.mark.parametrize("init", [ZeroFanOut(), Split(), Duplicate(), Duplicate(share=0.3)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_what_is_exact_up_to_its_parameters_rounding_grows(dtype: torch.dtype, init: Any) -> None:
    morpher = morpher_of(seeded(counted=False), dtype)
    event = morpher.apply(Widen("a", by=256, init=init))
    assert event.relative_change is not None
    assert event.relative_change <= (1e-2 if init != ZeroFanOut() else 5e-3)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["resnet", "vit", "llama"])
def test_networks_of_half_precision_grow_by_each_exact_way(name: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = randomized(*architectures()[name](), dtype=dtype)
    morpher = Morpher(model, example_inputs=x, capture="dispatch")
    grown = 0
    for group in [g.id for g in morpher.graph if g.growable][:4]:
        ways = morpher.graph.ways(morpher.graph[group])
        if "free" in ways:
            morpher.apply(Widen(group, by=2))
            grown += 1
        if "equal" in ways:
            by = morpher.graph[group].size
            morpher.apply(Widen(group, by=by, init=Duplicate()))
            grown += 1
    assert grown >= 4


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_model_that_makes_coarse_numbers_itself_is_checked_as_it_is(dtype: torch.dtype) -> None:
    morpher = morpher_of(seeded(counted=False, through=dtype), dtype)
    assert not any(key.endswith(FINER) for key in morpher.probe())
    assert morpher.apply(Widen("a", by=4)).decision == "committed"


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float32, torch.float64])
def test_only_coarse_models_are_run_in_float32(dtype: torch.dtype) -> None:
    model, x = nn.Linear(4, 3).to(dtype), torch.randn(2, 4).to(dtype)
    found = outputs_of(model, ExampleInputs.of(x))
    finer = {value.dtype for key, value in found.items() if key.endswith(FINER)}
    assert finer == ({torch.float32} if dtype in DTYPES else set())
    assert model.weight.dtype == dtype
