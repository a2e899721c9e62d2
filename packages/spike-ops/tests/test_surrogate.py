"""Surrogates: the derivative is that of the primitive, and what is said of it is true."""

import copy
import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from spike_ops import SpikeTensor
from spike_ops.neuron import LIF
from spike_ops.surrogate import (
    ATan,
    FastSigmoid,
    Gaussian,
    LeakyRectangular,
    LeakySpike,
    MultiGaussian,
    PiecewiseExponential,
    PiecewiseQuadratic,
    Rectangular,
    Sigmoid,
    SoftSign,
    SparseFastSigmoid,
    StraightThrough,
    SuperSpike,
    Surrogate,
    Triangle,
)

# the surrogate, its area and the greatest derivative
ROWS: list[tuple[Surrogate, float, float]] = [
    (Sigmoid(alpha=3.0), 1.0, 0.75),
    (ATan(alpha=2.0), 1.0, 1.0),
    (FastSigmoid(k=5.0), 2 / 5, 1.0),
    (SoftSign(alpha=3.0), 1.0, 1.5),
    (Gaussian(width=0.4), 1.0, 1 / (0.4 * math.sqrt(2 * math.pi))),
    (MultiGaussian(width=0.5, height=0.15), 0.85, math.nan),
    (PiecewiseExponential(alpha=2.0), 1.0, 1.0),
    (Rectangular(width=0.8), 1.0, 1.25),
    (Triangle(width=0.7, gamma=0.3), 0.3 * 0.7, 0.3),
    (PiecewiseQuadratic(alpha=2.0), 1.0, 2.0),
    (LeakyRectangular(width=0.6, height=1.0, leak=0.0), 1.2, 1.0),
    (LeakyRectangular(width=0.6, height=1.0, leak=0.1), math.inf, 1.0),
    (SparseFastSigmoid(k=4.0, window=0.5), 2 * 0.5 / 3, 1.0),
    (StraightThrough(), math.inf, 1.0),
    (LeakySpike(0.2), math.inf, 1.0),
]
surrogates = pytest.mark.parametrize("surrogate", [row[0] for row in ROWS], ids=str)


NOT_NEGATIVE = {(LeakyRectangular, "leak"), (MultiGaussian, "height"), (LeakySpike, "slope")}


def points() -> Tensor:
    # no point within the step of a corner of any of them
    return torch.arange(-40, 41, dtype=torch.float64) * 0.0831 + 0.00137


@surrogates
def test_the_derivative_is_that_of_the_primitive_by_finite_differences(surrogate: Any) -> None:
    u, step = points(), 1e-6
    slope = (surrogate.primitive(u + step) - surrogate.primitive(u - step)) / (2 * step)
    torch.testing.assert_close(surrogate.derivative(u), slope, rtol=1e-6, atol=1e-8)


@surrogates
def test_the_primitive_differentiates_to_the_derivative(surrogate: Any) -> None:
    u = points().requires_grad_()
    (slope,) = torch.autograd.grad(surrogate.primitive(u).sum(), u)
    torch.testing.assert_close(slope, surrogate.derivative(u.detach()), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("surrogate, area, peak", ROWS, ids=str)
def test_area_and_peak_are_what_the_formula_says(surrogate: Any, area: float, peak: float) -> None:
    u = torch.linspace(-60, 60, 2_400_001, dtype=torch.float64)
    if math.isfinite(area):
        total = torch.trapezoid(surrogate.derivative(u), u).item()
        # the slowest tail left out is that of 1 / u²
        assert total == pytest.approx(area, abs=0.02)
    if not math.isnan(peak):
        assert surrogate.peak == pytest.approx(peak)
        assert surrogate.derivative(u).max().item() == pytest.approx(peak, rel=1e-3)
    assert surrogate.signed == bool((surrogate.derivative(u) < 0).any())


@surrogates
def test_the_support_is_where_the_derivative_is_not_zero(surrogate: Any) -> None:
    u = torch.linspace(-5, 5, 100_001, dtype=torch.float64)
    slope = surrogate.derivative(u)
    if surrogate.support is None:
        assert (slope != 0).all()
    else:
        assert not slope[u.abs() > surrogate.support].any()
        assert slope[u.abs() < surrogate.support * 0.999].all()


@surrogates
def test_spikes_are_the_step_and_their_gradient_the_derivative(surrogate: Any) -> None:
    u = points().requires_grad_()
    g = torch.linspace(1, 2, len(u), dtype=torch.float64)
    spikes = surrogate(u)
    assert torch.equal(spikes.detach(), (u >= 0).double())
    (found,) = torch.autograd.grad(spikes, u, g)
    assert torch.equal(found, g * surrogate.derivative(u.detach()))


@surrogates
def test_a_kernel_has_the_derivative_too(surrogate: Any) -> None:
    x = (points() + 0.5).reshape(1, 1, -1)
    found = []
    for backend in ("reference", "compiled"):
        given = x.clone().requires_grad_()
        LIF(1.0, threshold=0.5, surrogate=surrogate, backend=backend)(given).sum().backward()
        assert given.grad is not None
        found.append(given.grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


@surrogates
def test_settings_outside_their_range_are_named(surrogate: Any) -> None:
    kind, given = type(surrogate), dataclasses.asdict(surrogate)
    settings = [name for name, value in given.items() if not isinstance(value, bool)]
    for name in settings:
        for value in (-1.0, math.inf, -math.inf, math.nan):
            with pytest.raises(ValueError, match=rf"{name} must be .* got {value}"):
                kind(**{**given, name: value})
        if (kind, name) in NOT_NEGATIVE:
            kind(**{**given, name: 0.0})
        else:
            with pytest.raises(ValueError, match=f"{name} must be positive and finite, got 0"):
                dataclasses.replace(surrogate, **{name: 0.0})
    assert settings or kind is StraightThrough


def test_zero_fires_unless_strict() -> None:
    zero = torch.zeros(1)
    assert ATan()(zero).item() == 1
    assert ATan()(zero, strict=True).item() == 0


def test_asked_for_bits_it_returns_bits_with_the_same_gradient() -> None:
    u = points().requires_grad_()
    spikes = Sigmoid(spike_out=True)(u)
    assert isinstance(spikes, SpikeTensor)
    (found,) = torch.autograd.grad(spikes.to_dense().sum(), u)
    assert torch.equal(found, Sigmoid().derivative(u.detach()))


def test_surrogates_are_values() -> None:
    assert Sigmoid(3.0) == Sigmoid(3.0) != Sigmoid(4.0)
    assert len({ATan(), ATan(), copy.deepcopy(ATan())}) == 1
    assert SuperSpike is FastSigmoid


def test_a_derivative_of_two_signs_is_not_rounded_to_a_byte() -> None:
    with pytest.raises(ValueError, match="one sign"):
        LIF(saving="8bit", surrogate=MultiGaussian())
