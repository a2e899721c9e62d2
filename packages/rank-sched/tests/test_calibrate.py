import dataclasses

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import PROFILES, HardwareProfile, PerfRow

START = PROFILES["desktop-cpu"]


def planted(rng, *, size=30, noise=0.0, bounds="both"):
    """Rows of a random device, half of them compute-bound and half memory-bound."""
    peak, bandwidth = 10.0 ** rng.uniform(10, 14), 10.0 ** rng.uniform(9, 12.5)
    overhead = 10.0 ** rng.uniform(-6, -4)
    seconds = 10.0 ** rng.uniform(-5, -2, size)  # of the longer part
    compute = {"both": np.arange(size) % 2 == 0, "memory": np.zeros(size, bool)}[bounds]
    other = seconds * rng.uniform(0.05, 0.9, size)
    flops = peak * np.where(compute, seconds, other)
    traffic = bandwidth * np.where(compute, other, seconds)
    launches = rng.integers(1, 20, size)
    measured = (seconds + launches * overhead) * np.exp(noise * rng.standard_normal(size))
    return (peak, bandwidth, overhead), np.stack([flops, traffic, launches, measured], axis=1)


def figures(profile):
    return profile.peak_flops_per_s, profile.bandwidth_bytes_per_s, profile.launch_overhead_s


@given(st.integers(0, 10**6))
def test_exact_times_give_the_planted_device_back(seed):
    truth, rows = planted(np.random.default_rng(seed))
    np.testing.assert_allclose(figures(START.calibrated(rows)), truth, rtol=1e-6)


@given(st.integers(0, 10**6))
def test_five_percent_of_noise_moves_peak_and_bandwidth_by_less_than_ten(seed):
    truth, rows = planted(np.random.default_rng(seed), size=60, noise=0.05)
    fitted = figures(START.calibrated(rows))
    np.testing.assert_allclose(fitted[:2], truth[:2], rtol=0.1)
    # overhead matters little in most rows, so it is known less well
    np.testing.assert_allclose(fitted[2], truth[2], rtol=1.0)


@given(st.integers(0, 10**6))
def test_the_fit_predicts_no_worse_than_the_truth_does(seed):
    truth, rows = planted(np.random.default_rng(seed), noise=0.1)

    def error(peak, bandwidth, overhead):
        predicted = np.maximum(rows[:, 0] / peak, rows[:, 1] / bandwidth) + rows[:, 2] * overhead
        return ((predicted / rows[:, 3] - 1) ** 2).sum()

    assert error(*figures(START.calibrated(rows))) <= error(*truth) * (1 + 1e-9)


def test_what_no_row_depends_on_keeps_its_value():
    truth, rows = planted(np.random.default_rng(1), bounds="memory")
    rows[:, 0] = 0
    fitted = START.calibrated(rows)
    np.testing.assert_allclose(figures(fitted)[1:], truth[1:], rtol=1e-6)
    assert fitted.peak_flops_per_s == START.peak_flops_per_s


def test_overhead_stays_where_nothing_is_launched_and_falls_to_zero_where_it_is_none():
    profile = HardwareProfile("x", 1e12, 1e11, 7e-6, 10, 1e-11, 1e-10, 1e9)
    work = [(1e9, 1e6), (4e9, 1e6), (1e6, 1e9), (1e6, 3e9)]
    seconds = [1e-3, 4e-3, 1e-2, 3e-2]
    rows = [(f, q, 0, t) for (f, q), t in zip(work, seconds, strict=True)]
    assert profile.calibrated(rows).launch_overhead_s == 7e-6
    rows = [(f, q, n, t) for (f, q, _, t), n in zip(rows, (1, 2, 3, 4), strict=True)]
    assert profile.calibrated(rows).launch_overhead_s < 1e-9


def test_energies_and_memory_stay_and_the_name_tells():
    _, rows = planted(np.random.default_rng(2))
    fitted = START.calibrated(rows)
    assert fitted.name == "desktop-cpu (calibrated)"
    kept = ("idle_power_w", "energy_per_flop_j", "energy_per_byte_j", "memory_bytes")
    assert all(getattr(fitted, name) == getattr(START, name) for name in kept)
    assert dataclasses.replace(fitted, name=START.name) != START


@pytest.mark.parametrize(
    "rows, message",
    [
        ([(1, 1, 1, 1)] * 2, r"at least 3 rows .* got shape \(2, 4\)"),
        ([(1, 1, 1)] * 5, r"at least 3 rows .* got shape \(5, 3\)"),
        ([(1, 1, 1, 1)] * 2 + [(1, 1, 1, 0)], r"latency_s must be above 0 .* got 0\.0"),
        ([(1, 1, 1, 1)] * 2 + [(1, -1, 1, 1)], "finite and not negative"),
        ([(1, 1, 1, 1)] * 2 + [(1, np.nan, 1, 1)], "finite and not negative"),
        ([(0, 0, 0, 1)] * 3, "must hold some work"),
    ],
)
def test_rows_that_cannot_be_fitted_are_refused(rows, message):
    with pytest.raises(ValueError, match=message):
        START.calibrated(rows)


@pytest.mark.parametrize(
    "rows, odd",
    [
        ([PerfRow("linear", 8, r, 1e-5) for r in (1, 2, 3)], r"PerfRow\(layer='linear', batch=8"),
        ([(1, 1, 1, 1), (1, 1), (1, 1, 1, 1)], r"\(1, 1\)"),
        ("rows", "'r'"),
        ({1: 2}, "dict"),
    ],
)
def test_rows_of_anything_but_four_numbers_are_named(rows, odd):
    with pytest.raises(TypeError, match=f"rows of four numbers .* got {odd}"):
        START.calibrated(rows)
