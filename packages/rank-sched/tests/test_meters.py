import pytest

from rank_sched import (
    PROFILES,
    EnergyMeter,
    EstimatedMeter,
    MeterError,
    RaplMeter,
    default_meter,
)
from rank_sched.testing import check_meter

RANGE_UJ = 262_143_328_850  # of a real package


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Machine:
    """A powercap folder as Linux shows it, with a clock."""

    def __init__(self, root):
        self.root, self.clock = root, Clock()
        for zone, name in {
            "intel-rapl:0": "package-0",
            "intel-rapl:0:0": "core",
            "intel-rapl:0:1": "dram",
            "intel-rapl:1": "package-1",
            "intel-rapl:2": "psys",
            "intel-rapl-mmio:0": "package-0",
        }.items():
            folder = root / zone
            folder.mkdir()
            (folder / "name").write_text(f"{name}\n")
            (folder / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
            self.set(zone, 10)
        (root / "intel-rapl").mkdir()

    def set(self, zone, energy_uj):
        (self.root / zone / "energy_uj").write_text(f"{energy_uj}\n")

    def meter(self, **kwargs):
        return RaplMeter(self.root, clock=self.clock, **kwargs)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_packages_and_memory_are_added_and_nothing_is_counted_twice(machine):
    with machine.meter().measure() as window:
        machine.clock.now += 2.0
        for zone, energy in [("0", 1000), ("1", 300), ("0:1", 70), ("0:0", 900), ("2", 5000)]:
            machine.set(f"intel-rapl:{zone}", 10 + energy)
        machine.set("intel-rapl-mmio:0", 1010)
    assert window.energy_j == pytest.approx(1370e-6)
    assert window.duration_s == 2.0
    assert window.meter == "rapl"


def test_a_counter_that_starts_anew_goes_on(machine):
    machine.set("intel-rapl:0", RANGE_UJ - 100)
    with machine.meter().measure() as window:
        machine.clock.now += 1.0
        machine.set("intel-rapl:0", 50)
    assert window.energy_j == pytest.approx(150e-6)


def test_a_window_of_less_than_ten_ticks_is_refused(machine):
    meter = machine.meter()

    def measure(seconds):
        with meter.measure() as window:
            machine.clock.now += seconds
        return window

    with pytest.raises(MeterError, match=r"at least 0\.01 s, ten ticks .* got 0\.009 s"):
        measure(0.009)
    assert measure(0.0101).energy_j == 0


@pytest.mark.parametrize("max_power_w, longest_s", [(500, 524.0), (100, 2621.0)])
def test_a_window_in_which_a_counter_could_start_anew_twice_is_refused(
    machine, max_power_w, longest_s
):
    meter = machine.meter(max_power_w=max_power_w)
    with meter.measure():
        machine.clock.now += longest_s
    message = r"at most \d+\.\d+ s, or the counter may start anew twice"
    with pytest.raises(MeterError, match=message), meter.measure():
        machine.clock.now += longest_s + 1


@pytest.mark.parametrize("kind", ["rapl", "estimated"])
def test_an_error_inside_the_window_is_not_hidden_and_gives_no_figure(machine, kind):
    meter = machine.meter() if kind == "rapl" else EstimatedMeter("v100")
    with pytest.raises(KeyError, match="mine"), meter.measure() as window:
        raise KeyError("mine")
    with pytest.raises(MeterError, match="no result"):
        _ = window.energy_j


@pytest.mark.parametrize("kind", ["rapl", "estimated"])
def test_an_open_window_has_no_figures(machine, kind):
    meter = machine.meter() if kind == "rapl" else EstimatedMeter("v100", clock=machine.clock)
    with meter.measure() as window:
        assert repr(window) == f"<EnergyWindow of {kind}, open>"
        with pytest.raises(MeterError, match="still open"):
            _ = window.energy_j
        machine.clock.now += 0.0125
    assert window.duration_s == pytest.approx(0.0125)
    assert "0.0125 s" in repr(window)


def test_windows_nest(machine):
    meter = machine.meter()
    with meter.measure() as outer:
        machine.clock.now += 1.0
        machine.set("intel-rapl:0", 110)
        with meter.measure() as inner:
            machine.clock.now += 2.0
            machine.set("intel-rapl:0", 510)
    assert outer.energy_j == pytest.approx(500e-6)
    assert inner.energy_j == pytest.approx(400e-6)


@pytest.mark.parametrize("utilization, power_w", [(1.0, 300.0), (0.0, 50.0), (0.5, 175.0)])
def test_an_estimate_is_power_times_time(utilization, power_w):
    clock = Clock()
    meter = EstimatedMeter("v100", utilization=utilization, clock=clock)
    with meter.measure() as window:
        clock.now += 3.0
    assert window.energy_j == pytest.approx(3 * power_w)
    assert window.meter == "estimated"


def test_an_estimate_accepts_what_an_estimator_accepts():
    assert EstimatedMeter(PROFILES["h100"]).profile is PROFILES["h100"]
    assert EstimatedMeter({"gpu_cores": 5120}).profile.name == "custom"
    with pytest.raises(ValueError, match=r"utilization must be in 0\.\.1, got 2"):
        EstimatedMeter("v100", utilization=2)


def test_the_default_is_the_counter_where_it_can_be_read(machine, tmp_path_factory):
    assert default_meter(root=machine.root).name == "rapl"
    estimate = default_meter("h100", root=tmp_path_factory.mktemp("empty"))
    assert (estimate.name, estimate.profile) == ("estimated", PROFILES["h100"])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda root: (root / "intel-rapl:0/energy_uj").unlink(), "must hold a counter"),
        (lambda root: (root / "intel-rapl:1/energy_uj").write_text("x"), "must hold a counter"),
        (lambda root: (root / "intel-rapl:0/max_energy_range_uj").unlink(), "must hold a counter"),
    ],
)
def test_an_unreadable_counter_is_refused_and_the_default_falls_back(machine, damage, message):
    damage(machine.root)
    with pytest.raises(MeterError, match=message):
        machine.meter()
    assert default_meter(root=machine.root).name == "estimated"


def test_a_counter_without_permission_says_how_to_get_it(machine, monkeypatch):
    # root may read everything, so the refusal itself is planted
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    meter_module = RaplMeter.__init__.__globals__["_read_int"].__globals__
    plain = meter_module["Path"].read_text
    monkeypatch.setattr(
        meter_module["Path"],
        "read_text",
        lambda path: refuse(path) if path.name == "energy_uj" else plain(path),
    )
    with pytest.raises(MeterError, match="only root may read it: grant read access"):
        machine.meter()
    assert default_meter(root=machine.root).name == "estimated"


def test_no_folder_at_all_is_refused(tmp_path):
    with pytest.raises(MeterError, match="no RAPL zone in .*nowhere"):
        RaplMeter(tmp_path / "nowhere")


def test_all_meters_obey_the_laws(machine):
    def work():
        machine.clock.now += 0.05
        machine.set("intel-rapl:0", 9000)

    assert check_meter(machine.meter(), work) == pytest.approx(8990e-6)
    assert check_meter(EstimatedMeter("v100", clock=machine.clock), work) == pytest.approx(15)
    assert isinstance(default_meter(), EnergyMeter)
