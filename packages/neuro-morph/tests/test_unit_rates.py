from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import Morpher, Widen, set_unit_rates


def run(optimizer: Any, **settings: Any) -> tuple[Morpher, torch.Tensor]:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4)]
    model, x = nn.Sequential(*layers).double(), torch.randn(5, 2, 4, 4, dtype=torch.float64)
    morpher = Morpher(model, optimizer(model.parameters(), **settings), example_inputs=x)
    morpher.apply(Widen("0", by=2))
    return morpher, x


def moved(morpher: Morpher, x: torch.Tensor) -> list[torch.Tensor]:
    """How far each parameter moves in a step."""
    before = [p.detach().clone() for p in morpher.model.parameters()]
    morpher.model(x).square().sum().backward()
    morpher.optimizers[0].step()
    return [p.detach() - b for p, b in zip(morpher.model.parameters(), before, strict=True)]


OPTIMIZERS: list[tuple[Any, dict[str, float]]] = [
    (torch.optim.SGD, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}),
    (torch.optim.AdamW, {"lr": 0.01}),
]


@pytest.mark.parametrize("rate", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("optimizer, settings", OPTIMIZERS, ids=["SGD", "AdamW"])
def test_new_units_move_by_a_part_and_the_rest_as_it_would(
    optimizer: Any, settings: dict[str, float], rate: float
) -> None:
    wanted = moved(*run(optimizer, **settings))
    morpher, x = run(optimizer, **settings)
    set_unit_rates(morpher, "0", [3, 4], rate)
    found = moved(morpher, x)
    factors = torch.tensor([1.0, 1.0, 1.0, rate, rate], dtype=torch.float64)
    shapes = [(5, 1, 1, 1), (5,), (5,), (5,), None, ()]
    spread = [factors.reshape(s) if s else torch.ones((), dtype=factors.dtype) for s in shapes]
    spread[4] = factors.repeat_interleave(4)  # four places of each channel
    for mine, its, factor in zip(found, wanted, spread, strict=True):
        torch.testing.assert_close(mine, its * factor, rtol=1e-12, atol=1e-15)
    assert float(wanted[0][3:].abs().max()) > 0 or float(wanted[4][:, 12:].abs().max()) > 0


def test_rates_stay_with_their_units_while_the_group_grows_and_end_with_release() -> None:
    morpher, x = run(torch.optim.SGD, lr=0.1)
    set_unit_rates(morpher, "0", [1], 0.0)
    morpher.apply(Widen("0", by=2))
    found = moved(morpher, x)[0]
    assert float(found[1].abs().max()) == 0
    assert float(found[0].abs().max()) > 0
    morpher.optimizers[0].zero_grad()
    morpher.release()
    assert float(moved(morpher, x)[0][1].abs().max()) > 0


@pytest.mark.parametrize(
    "group, units, rate, error",
    [
        ("9", [0], 0.5, "9"),
        ("0", [5], 0.5, r"units must be from 0 to 4, got \[5\]"),
        ("0", [-1], 0.5, r"units must be from 0 to 4, got \[-1\]"),
        ("0", [0], -1.0, "rate must be finite and at least 0, got -1.0"),
        ("0", [0], float("nan"), "rate must be finite and at least 0, got nan"),
    ],
)
def test_what_is_not_there_is_refused_and_nothing_has_changed(
    group: str, units: list[int], rate: float, error: str
) -> None:
    morpher, _ = run(torch.optim.SGD, lr=0.1)
    with pytest.raises((KeyError, ValueError), match=error):
        set_unit_rates(morpher, group, units, rate)
    assert not morpher.slots.slots
