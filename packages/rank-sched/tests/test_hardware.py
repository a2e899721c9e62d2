import dataclasses
import math

import pytest

from rank_sched import PROFILES, HardwareProfile, PerfEstimator

SEED = {"gpu_cores": 5120, "memory_bandwidth": 1e12}
FIELDS = [field.name for field in dataclasses.fields(HardwareProfile)][1:]
TDP_W = {"v100": 300, "a100": 400, "h100": 700, "h200": 700, "jetson-agx-orin": 60} | {
    "desktop-cpu": 105
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_known_profile_draws_its_design_power_at_full_load(name):
    profile = PROFILES[name]
    assert profile.name == name
    assert math.isclose(profile.full_load_power_w, TDP_W[name])
    assert 0 < profile.idle_power_w < TDP_W[name] / 2


def test_every_field_but_the_name_says_its_unit():
    assert all(f.endswith(("_per_s", "_s", "_w", "_j", "_bytes")) for f in FIELDS)


@pytest.mark.parametrize("field", FIELDS)
@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, 1e30])
def test_impossible_values_are_refused_by_name(field, value):
    with pytest.raises(ValueError, match=field):
        dataclasses.replace(PROFILES["v100"], **{field: value})


def test_text_is_no_value():
    with pytest.raises(TypeError, match="idle_power_w must be a number, got '50 W'"):
        dataclasses.replace(PROFILES["v100"], idle_power_w="50 W")


def test_an_energy_that_implies_a_power_station_is_refused():
    with pytest.raises(ValueError, match=r"energy_per_flop_j=1e-06 .* got 1\.57.*e\+07 W"):
        dataclasses.replace(PROFILES["v100"], energy_per_flop_j=1e-6)


@pytest.mark.parametrize("name", ["v100", "V100", "desktop_cpu", "Desktop-CPU"])
def test_a_name_finds_its_profile(name):
    assert PerfEstimator(name).hardware is PROFILES[name.lower().replace("_", "-")]


def test_a_profile_is_taken_as_it_is():
    assert PerfEstimator(PROFILES["h100"]).hardware is PROFILES["h100"]


def test_cores_and_bandwidth_make_a_profile():
    hardware = PerfEstimator(SEED).hardware
    assert hardware.peak_flops_per_s == 5120 * 2 * 1.53e9
    assert hardware.bandwidth_bytes_per_s == 1e12
    v100 = PROFILES["v100"]
    assert hardware == dataclasses.replace(
        v100, name="custom", peak_flops_per_s=5120 * 2 * 1.53e9, bandwidth_bytes_per_s=1e12
    )
    # with the default clock the cores of a V100 give the peak of its datasheet
    assert math.isclose(hardware.peak_flops_per_s, v100.peak_flops_per_s, rel_tol=0.01)


def test_a_dictionary_may_use_fields_and_fill_its_gaps_from_a_profile():
    table = {"gpu_type": "A100", "idle_power_w": 45, "name": "mine", "flops_per_mac": 2}
    expected = dataclasses.replace(PROFILES["a100"], name="mine", idle_power_w=45)
    assert PerfEstimator(table).hardware == expected
    assert PerfEstimator({"gpu_cores": 100, "clock_hz": 2e9}).hardware.peak_flops_per_s == 4e11


@pytest.mark.parametrize(
    "table, message",
    [
        ({"energy_per_flop": 1e-6}, "energy_per_flop=1e-06 has no unit, write energy_per_flop_j"),
        ({"idle_power": 50}, "idle_power=50 has no unit, write idle_power_w"),
        ({"memory_bandwidth": 900}, "memory_bandwidth .* got 900; it is in bytes per second"),
        ({"gpu_cores": 0}, r"gpu_cores must be in 1\.\.1e\+06, got 0"),
        ({"gpu_cores": 5120, "clock_hz": 1530}, "clock_hz must be in .* got 1530 Hz"),
        ({"clock_hz": 1.5e9}, "clock_hz must come with gpu_cores"),
        ({"flops_per_mac": 1}, "flops_per_mac must be 2, as everywhere here, got 1"),
        ({"gpu_type": "abacus"}, "gpu_type must be one of v100, .* got 'abacus'"),
        ({"gpu_core": 5}, "hardware must use the keys .* got 'gpu_core'"),
        (SEED | {"peak_flops_per_s": 1e13}, "must give peak_flops_per_s once"),
        ("abacus", "hardware must be one of v100, .* got 'abacus'"),
    ],
)
def test_a_wrong_description_is_refused_with_the_reason(table, message):
    with pytest.raises(ValueError, match=message):
        PerfEstimator(table)


@pytest.mark.parametrize("hardware", [None, 5120, ["v100"]])
def test_anything_else_is_no_hardware(hardware):
    with pytest.raises(TypeError, match="hardware must be a HardwareProfile, the name of one"):
        PerfEstimator(hardware)


def test_numbers_may_be_text_as_yaml_reads_them():
    table = {"gpu_type": "V100", "energy_per_flop_j": "1e-12", "flops_per_mac": "2"}
    text = PerfEstimator(table | {"gpu_cores": "5120", "memory_bandwidth": "1e12"}).hardware
    assert (text.energy_per_flop_j, text.bandwidth_bytes_per_s) == (1e-12, 1e12)
    assert text.peak_flops_per_s == 5120 * 2 * 1.53e9
    with pytest.raises(TypeError, match="idle_power_w must be a number, got '50 W'"):
        PerfEstimator({"idle_power_w": "50 W"})


@pytest.mark.parametrize("tdp, idle", [(5, 10), (10, 10)])
def test_a_device_draws_more_at_work_than_idle(tdp, idle):
    message = f"tdp_w must be above idle_power_w={idle}, got {tdp}"
    with pytest.raises(ValueError, match=message):
        HardwareProfile.this_cpu(tdp_w=tdp, idle_power_w=idle)
    sizes = {"peak_flops_per_s": 1e12, "bandwidth_bytes_per_s": 1e11, "memory_bytes": 1e9}
    with pytest.raises(ValueError, match=message):
        HardwareProfile.from_datasheet(
            "x", **sizes, tdp_w=tdp, idle_power_w=idle, launch_overhead_s=0
        )
    with pytest.raises(TypeError, match="tdp_w must be a number"):
        HardwareProfile.this_cpu(tdp_w="105")
