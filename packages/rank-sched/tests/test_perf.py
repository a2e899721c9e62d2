import math
from itertools import pairwise

import pytest
from hypothesis import given, strategies as st

from rank_sched import PROFILES, Cost, HardwareProfile, PerfEstimator

UNIT = PerfEstimator(HardwareProfile("unit", 1e12, 1e11, 1e-5, 10.0, 1e-11, 1e-10, 1e9))
SIZE = st.integers(1, 64)


def close(cost, flops, traffic, launches, memory):
    assert (cost.flops, cost.traffic_bytes) == (flops, traffic)
    assert (cost.launches, cost.memory_bytes) == (launches, memory)


def test_a_dense_layer_counts_its_product_and_its_bias():
    cost = UNIT.linear(8, 100, 50)
    close(cost, 2 * 8 * 100 * 50 + 8 * 50, 4 * (800 + 5000 + 50 + 400), 1, 4 * 5050)


def test_a_low_rank_layer_counts_two_products_and_what_lies_between():
    cost = UNIT.linear(8, 100, 50, rank=5, bias=False, dtype_bytes=2)
    traffic = 2 * ((800 + 500 + 40) + (40 + 250 + 400))
    close(cost, 2 * 8 * 5 * 150, traffic, 2, 2 * 5 * 150)


def test_rank_zero_only_writes_the_bias():
    close(UNIT.linear(8, 100, 50, rank=0), 400, 4 * (50 + 400), 1, 4 * 50)


def test_a_convolution_counts_by_its_output_positions():
    cost = UNIT.conv2d(2, 6, 4, (3, 5), (10, 12), stride=(2, 1), padding=(1, 2), bias=False)
    high, wide = 5, 12
    macs = 2 * high * wide * 4 * 6 * 15
    close(cost, 2 * macs, 4 * (2 * 6 * 120 + 6 * 4 * 15 + 2 * 4 * high * wide), 1, 4 * 6 * 4 * 15)


def test_a_grouped_low_rank_convolution_has_a_rank_per_group():
    cost = UNIT.conv2d(1, 8, 12, 3, 6, rank=2, groups=4, padding=1, dilation=1)
    down, up = 36 * (2 * 4) * (2 * 9), 36 * 12 * 2
    weights = (2 * 4) * (2 * 9) + 12 * 2
    assert cost.flops == 2 * (down + up) + 36 * 12
    assert cost.memory_bytes == 4 * (weights + 12)
    assert cost.launches == 2


@given(SIZE, SIZE, SIZE, st.booleans())
def test_a_convolution_of_one_pixel_is_a_linear_layer(batch, n, m, bias):
    assert UNIT.conv2d(batch, n, m, 1, 1, bias=bias) == UNIT.linear(batch, n, m, bias=bias)
    rank = min(n, m)
    assert UNIT.conv2d(batch, n, m, 1, 1, rank=rank) == UNIT.linear(batch, n, m, rank)


@given(st.floats(0, 1e15), st.floats(0, 1e13), st.integers(0, 100))
def test_time_and_energy_are_the_roofline(flops, traffic, launches):
    work = {"flops": flops, "traffic_bytes": traffic, "launches": launches}
    seconds = max(flops / 1e12, traffic / 1e11) + launches * 1e-5
    assert math.isclose(UNIT.latency_s(**work), seconds)
    joules = 10 * seconds + 1e-11 * flops + 1e-10 * traffic
    assert math.isclose(UNIT.energy_j(**work), joules)


@given(SIZE, SIZE, SIZE)
def test_a_layer_is_the_sum_of_its_kernels(batch, n, m):
    rank = min(n, m)
    parts = UNIT.linear(batch, n, rank, bias=False) + UNIT.linear(batch, rank, m)
    whole = UNIT.linear(batch, n, m, rank=rank)
    assert (parts.flops, parts.launches, parts.memory_bytes) == (
        whole.flops, whole.launches, whole.memory_bytes
    )  # fmt: skip
    assert math.isclose(parts.latency_s, whole.latency_s)
    assert math.isclose(parts.energy_j, whole.energy_j)


@given(SIZE, SIZE, SIZE, st.sampled_from(sorted(PROFILES)))
def test_cost_never_falls_with_the_rank(batch, n, m, name):
    estimator = PerfEstimator(name)
    costs = [estimator.linear(batch, n, m, rank=r) for r in range(min(n, m) + 1)]
    for less, more in pairwise(costs):
        assert less.flops < more.flops
        assert less.latency_s <= more.latency_s
        assert less.energy_j <= more.energy_j


def test_two_launches_make_a_small_layer_slower():
    assert UNIT.linear(1, 64, 64, rank=8).latency_s > UNIT.linear(1, 64, 64).latency_s
    assert UNIT.linear(64, 4096, 4096, rank=64).latency_s < UNIT.linear(64, 4096, 4096).latency_s


def test_mean_power_is_between_idle_and_full_load():
    for profile in PROFILES.values():
        cost = PerfEstimator(profile).linear(512, 4096, 4096)
        power = cost.energy_j / cost.latency_s
        assert profile.idle_power_w < power <= profile.full_load_power_w


def test_costs_add_up_and_start_from_nothing():
    layers = [UNIT.linear(4, 10, 10, rank=r) for r in range(3)]
    total = sum(layers)
    assert total == sum(layers, Cost()) == layers[0] + layers[1] + layers[2]
    assert total.flops == sum(layer.flops for layer in layers)
    with pytest.raises(TypeError, match="unsupported operand"):
        layers[0] + 1.0
    with pytest.raises(TypeError, match="unsupported operand"):
        sum(layers, 1)


def test_fits_compares_parameters_with_memory():
    assert UNIT.fits(Cost(memory_bytes=1e9))
    assert not UNIT.fits(Cost(memory_bytes=1.01e9))


@pytest.mark.parametrize(
    "call, error, message",
    [
        (lambda: UNIT.linear(0, 4, 4), ValueError, "batch must be at least 1, got 0"),
        (lambda: UNIT.linear(1, 4, 4, rank=5), ValueError, r"rank must be in 0\.\.4, got 5"),
        (lambda: UNIT.linear(1, 4, 4, rank=-1), ValueError, "rank must be at least 0, got -1"),
        (lambda: UNIT.linear(1, 4.0, 4), TypeError, "in_features must be a whole number"),
        (lambda: UNIT.linear(1, 4, 4, dtype_bytes=0), ValueError, "dtype_bytes must be at least 1"),
        (lambda: UNIT.conv2d(1, 3, 4, 3, 8, groups=2), ValueError, "in_channels .* groups=2"),
        (lambda: UNIT.conv2d(1, 3, 4, 9, 8), ValueError, "kernel_size must fit"),
        (lambda: UNIT.conv2d(1, 3, 4, (3, 3, 3), 8), ValueError, "kernel_size must be one number"),
        (lambda: UNIT.conv2d(1, 4, 8, 3, 8, rank=9), ValueError, r"rank must be in 0\.\.8, got 9"),
        (lambda: UNIT.latency_s(flops=-1, traffic_bytes=0), ValueError, "flops must be in"),
        (lambda: UNIT.energy_j(flops=1, traffic_bytes=math.nan), ValueError, "traffic_bytes"),
    ],
)
def test_bad_shapes_are_refused_by_name(call, error, message):
    with pytest.raises(error, match=message):
        call()
