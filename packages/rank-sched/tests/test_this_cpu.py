import math

import pytest

from rank_sched import HardwareProfile, PerfEstimator


@pytest.fixture(scope="module")
def profile():
    return HardwareProfile.this_cpu(tdp_w=100, idle_power_w=10)


def test_this_processor_is_somewhere_between_a_pocket_calculator_and_a_cluster(profile):
    assert 1e8 < profile.peak_flops_per_s < 1e14
    assert 1e8 < profile.bandwidth_bytes_per_s < 1e13
    assert 1e-9 < profile.launch_overhead_s < 1e-2
    assert 1e8 < profile.memory_bytes < 1e15


def test_the_powers_given_are_those_of_the_profile(profile):
    assert profile.idle_power_w == 10
    assert math.isclose(profile.full_load_power_w, 100)
    assert profile.name.endswith("(measured)")


def test_the_profile_serves_an_estimator(profile):
    estimator = PerfEstimator(profile)
    dense, low = estimator.linear(256, 2048, 2048), estimator.linear(256, 2048, 2048, rank=64)
    assert 0 < low.latency_s < dense.latency_s
