"""What is not 0 or 1: where it is refused, where it is warned of, and where it counts."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from spike_ops import SpikeTensor, decoding, encoding
from spike_ops.monitor import plot_raster

DECODERS: dict[str, Callable[[Tensor], Any]] = {
    "rate": encoding.decode_rate,
    "poisson": encoding.decode_poisson,
    "burst": encoding.decode_burst,
    "phase": encoding.decode_phase,
    "weighted phase": encoding.decode_weighted_phase,
    "delta": lambda s: encoding.decode_delta(s, 0.5, start=torch.zeros(1)),
    "raster": plot_raster,
}
SPIKES = (torch.arange(48).reshape(8, 1, 2, 3) % 3 == 0).float()


@pytest.mark.parametrize("row", DECODERS)
def test_decoders_and_plots_of_spikes_refuse_other_values(row: str) -> None:
    if row == "raster":
        pytest.importorskip("matplotlib")
    for wrong in (SPIKES * 0.5, SPIKES * 2, -SPIKES):
        with pytest.raises(ValueError, match="spikes must be 0 or 1, got"):
            DECODERS[row](wrong)
    dense, packed = (DECODERS[row](s) for s in (SPIKES, SpikeTensor.from_dense(SPIKES)))
    assert row == "raster" or torch.equal(dense, packed)


def test_graded_spikes_are_summed_and_the_first_is_first() -> None:
    graded = torch.tensor([0.0, 0.25, 3.0, 0.0]).reshape(4, 1, 1)
    assert decoding.count(graded).item() == 3.25
    assert decoding.rate(graded).item() == 3.25 / 4
    assert decoding.first_spike(graded).item() == 1
    assert decoding.first_spike(0 * graded).item() == 4
    assert decoding.first_spike(graded.bool()).item() == 1


# rates and currents


@pytest.mark.parametrize("rates", [torch.full((3, 4), 100.0), torch.full((2,), 100)])
def test_a_forgotten_length_of_steps_warns(rates: Tensor) -> None:
    with pytest.warns(UserWarning, match=r"rates \* dt is 100 on average: .* take dt=1e-3"):
        spikes = encoding.poisson(rates, 50)
    assert bool((spikes == 1).all())


@pytest.mark.parametrize(
    "rates, dt",
    [(torch.full((3,), 100.0), 1e-3), (torch.tensor([0.0, 20.0]), 1.0), (torch.zeros(0), 1.0)],
)
def test_rates_that_leave_room_warn_of_nothing(rates: Tensor, dt: float) -> None:
    assert encoding.poisson(rates, 5, dt=dt).shape == (5, *rates.shape)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_currents_that_are_not_finite_are_named(wrong: float) -> None:
    with pytest.raises(ValueError, match=r"x must be finite, got -?(nan|inf) at \(1,\)"):
        encoding.direct(torch.tensor([0.5, wrong]), 3)


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, torch.bool])
def test_whole_numbers_become_currents_that_neurons_take(kind: torch.dtype) -> None:
    current = encoding.direct(torch.tensor([0, 1]).to(kind), 3)
    assert current.dtype == torch.get_default_dtype()
    assert current.tolist() == [[0.0, 1.0]] * 3
    assert current.stride(0) == 0
