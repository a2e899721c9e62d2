"""Meters behind extras, against modules that behave as theirs are documented to."""

import sys
import time
from importlib.util import find_spec
from types import ModuleType, SimpleNamespace

import pytest

from rank_sched import (
    CodeCarbonMeter,
    EnergyMeter,
    MeterError,
    NvmlMeter,
    ZeusMeter,
    default_meter,
)
from rank_sched.testing import check_meter


class Clock:
    def __init__(self):
        self.now = 50.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def window_of(meter, clock, seconds, then=lambda: None):
    with meter.measure() as window:
        clock.now += seconds
        then()
    return window


class NVMLError(Exception):
    pass


class Nvml(ModuleType):
    """Two boards that draw 100 W and 200 W; the counters are in millijoules."""

    NVMLError = NVMLError

    def __init__(self, clock):
        super().__init__("pynvml")
        self.clock, self.watts, self.inits, self.offset = clock, [100, 200], 0, 0

    def nvmlInit(self):  # noqa: N802
        self.inits += 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return len(self.watts)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        if not 0 <= index < len(self.watts):
            raise NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        return {"GPU-a": 0, "GPU-b": 1}[uuid]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        assert self.inits, "used before nvmlInit"
        return int(self.watts[handle] * self.clock.now * 1000) + self.offset


@pytest.fixture
def nvml(clock, monkeypatch):
    module = Nvml(clock)
    monkeypatch.setitem(sys.modules, "pynvml", module)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return module


@pytest.mark.parametrize(
    "gpus, visible, watts",
    [
        (None, None, 300),
        ([0], None, 100),
        (["GPU-b"], None, 200),
        (None, "1", 200),
        (None, "GPU-a, 1", 300),
        ([0], "1", 100),  # what is asked for goes first
    ],
)
def test_boards_are_added_up_in_joules(nvml, clock, monkeypatch, gpus, visible, watts):
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with NvmlMeter(gpus, clock=clock).measure() as window:
        clock.now += 2.0
    assert window.energy_j == pytest.approx(2.0 * watts)
    assert (window.duration_s, window.meter) == (2.0, "nvml")


def test_kernels_are_waited_for_before_both_readings(nvml, clock):
    waits = []

    def wait():
        waits.append(clock.now)
        clock.now += 1.0  # a kernel that was still running

    with NvmlMeter([0], synchronize=wait, clock=clock).measure() as window:
        clock.now += 3.0
    assert waits == [50.0, 54.0]
    assert (window.duration_s, window.energy_j) == (4.0, pytest.approx(400.0))


def test_a_window_of_less_than_ten_updates_is_refused(nvml, clock):
    with pytest.raises(MeterError, match="at least 1 s, ten ticks of the counter, got 0.9"):
        window_of(NvmlMeter(clock=clock), clock, 0.9)


def test_a_counter_that_falls_is_refused(nvml, clock):
    meter = NvmlMeter(clock=clock)
    with pytest.raises(MeterError, match="counter fell within the window"):
        window_of(meter, clock, 2.0, lambda: setattr(nvml, "offset", -(10**9)))


def test_a_board_without_a_counter_is_refused(nvml, monkeypatch):
    def refuse(handle):
        raise NVMLError("Not Supported")

    monkeypatch.setattr(nvml, "nvmlDeviceGetTotalEnergyConsumption", refuse)
    with pytest.raises(MeterError, match="cannot read an energy counter: Not Supported"):
        NvmlMeter()


def test_no_driver_and_no_gpu_are_refused(nvml, monkeypatch):
    with pytest.raises(MeterError, match="Invalid Argument"):
        NvmlMeter([7])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(MeterError, match="at least one GPU, got none"):
        NvmlMeter()

    def fail():
        raise NVMLError("Driver Not Loaded")

    monkeypatch.setattr(nvml, "nvmlInit", fail)
    with pytest.raises(MeterError, match="Driver Not Loaded"):
        NvmlMeter([0])


def test_the_default_reads_the_gpu_if_the_gpu_works(nvml, tmp_path):
    assert default_meter(gpu=True).name == "nvml"
    assert default_meter(root=tmp_path, gpu=False).name == "estimated"
    nvml.watts = []
    assert default_meter("h100", gpu=True).name == "estimated"


def test_an_estimate_in_place_of_a_counter_says_why(nvml, tmp_path, caplog):
    nvml.watts = []
    with caplog.at_level("INFO"):
        default_meter("h100", gpu=True)
        default_meter(root=tmp_path, gpu=False)
    first, second = caplog.records
    assert (first.levelname, second.levelname) == ("WARNING", "INFO")
    assert "estimated by profile 'h100': NVML must see at least one GPU" in first.getMessage()
    assert "estimated by profile 'desktop-cpu': no RAPL zone" in second.getMessage()


@pytest.mark.parametrize("used, name", [(True, "nvml"), (False, "estimated")])
def test_by_default_torch_knows_whether_the_gpu_works(nvml, monkeypatch, tmp_path, used, name):
    cuda = SimpleNamespace(is_initialized=lambda: used, synchronize=lambda: None)
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    assert default_meter(root=tmp_path).name == name


class ZeusMonitor:
    """GPU 0 at 100 W, package 0 at 30 W with memory at 5 W; windows by name, as documented."""

    found = ([0], [0])

    def __init__(self, gpu_indices=None, cpu_indices=None):
        self.gpu_indices = self.found[0] if gpu_indices is None else gpu_indices
        self.cpu_indices = self.found[1] if cpu_indices is None else cpu_indices
        self.open, self.cancelled = {}, []

    def begin_window(self, key, sync_execution=True, restart=False):
        assert key not in self.open, "window exists"
        self.open[key] = self.clock.now

    def end_window(self, key, sync_execution=True, cancel=False):
        seconds = self.clock.now - self.open.pop(key)
        self.cancelled += [key] if cancel else []
        return SimpleNamespace(
            time=seconds,
            gpu_energy=dict.fromkeys(self.gpu_indices, 100 * seconds),
            cpu_energy=dict.fromkeys(self.cpu_indices, 30 * seconds) or None,
            dram_energy=dict.fromkeys(self.cpu_indices, 5 * seconds) or None,
        )


@pytest.fixture
def zeus(clock, monkeypatch):
    module = ModuleType("zeus.monitor")
    module.ZeusMonitor = type("ZeusMonitor", (ZeusMonitor,), {"clock": clock})
    monkeypatch.setitem(sys.modules, "zeus", ModuleType("zeus"))
    monkeypatch.setitem(sys.modules, "zeus.monitor", module)
    return module


@pytest.mark.parametrize("gpus, cpus, watts", [(None, None, 135), ([0], [], 100), ([], None, 35)])
def test_zeus_counts_gpus_processors_and_memory(zeus, clock, gpus, cpus, watts):
    meter = ZeusMeter(gpus, cpus=cpus)
    with meter.measure() as window:
        clock.now += 1.0
        with meter.measure() as inner:
            clock.now += 3.0
    assert (window.energy_j, window.meter) == (pytest.approx(4 * watts), "zeus")
    assert inner.energy_j == pytest.approx(3 * watts)


def test_zeus_windows_that_are_short_or_end_in_an_error_have_no_figure(zeus, clock):
    meter = ZeusMeter()
    with pytest.raises(MeterError, match="at least 1 s"), meter.measure():
        clock.now += 0.5
    with pytest.raises(KeyError, match="work"), meter.measure() as window:
        raise KeyError("work")
    assert len(meter._monitor.cancelled) == 1
    assert not meter._monitor.open
    with pytest.raises(MeterError, match="no result"):
        _ = window.energy_j


def test_zeus_without_a_counter_is_refused(zeus, monkeypatch):
    monkeypatch.setattr(zeus.ZeusMonitor, "found", ([], []))
    with pytest.raises(MeterError, match="Zeus must find a counter"):
        ZeusMeter()


class Tracker:
    """36 W in kilowatt-hours; a tracker runs once, as documented."""

    fails = False
    live = 0

    def __init__(self, **options):
        assert options["save_to_file"] is False
        assert options["allow_multiple_runs"] is True
        self.begin = None

    def start(self):
        assert self.begin is None, "started twice"
        type(self).live += 1
        self.begin = self.clock.now

    def stop(self):
        type(self).live -= 1
        if not self.fails:
            kwh = 36 * (self.clock.now - self.begin) / 3.6e6
            self.final_emissions_data = SimpleNamespace(energy_consumed=kwh)


@pytest.fixture
def codecarbon(clock, monkeypatch):
    module = ModuleType("codecarbon")
    module.OfflineEmissionsTracker = type("Tracker", (Tracker,), {"clock": clock})
    monkeypatch.setitem(sys.modules, "codecarbon", module)
    return module


def test_codecarbon_is_read_in_joules_and_says_estimated(codecarbon, clock):
    meter = CodeCarbonMeter(clock=clock)
    for seconds in (10.0, 20.0):
        with meter.measure() as window:
            clock.now += seconds
        assert window.energy_j == pytest.approx(36 * seconds)
        assert (window.duration_s, window.meter) == (seconds, "codecarbon (estimated)")


def test_codecarbon_windows_of_less_than_ten_samples_are_refused(codecarbon, clock):
    with pytest.raises(MeterError, match="at least 5 s, ten ticks of the counter, got 4.9"):
        window_of(CodeCarbonMeter(every_s=0.5, clock=clock), clock, 4.9)


def test_a_tracker_is_stopped_whatever_happens(codecarbon, clock):
    with pytest.raises(KeyError, match="work"), CodeCarbonMeter(clock=clock).measure():
        raise KeyError("work")
    assert codecarbon.OfflineEmissionsTracker.live == 0


def test_a_tracker_without_a_figure_is_no_figure(codecarbon, clock, monkeypatch):
    monkeypatch.setattr(codecarbon.OfflineEmissionsTracker, "fails", True)
    with pytest.raises(MeterError, match="CodeCarbon has no figure"):
        window_of(CodeCarbonMeter(clock=clock), clock, 20.0)


def test_a_tracker_that_cannot_start_is_refused(codecarbon, monkeypatch):
    # its constructor swallows errors and leaves a tracker without its fields
    monkeypatch.delattr(Tracker, "start")
    with pytest.raises(MeterError, match="CodeCarbon cannot start"):
        CodeCarbonMeter().measure().__enter__()


def test_samples_closer_than_codecarbon_can_take_are_refused(codecarbon):
    with pytest.raises(ValueError, match=r"every_s must be in 0\.1"):
        CodeCarbonMeter(every_s=0.01)


def test_all_of_them_obey_the_laws(nvml, zeus, codecarbon, clock):
    def work():
        clock.now += 12.0

    for meter in (NvmlMeter(clock=clock), ZeusMeter(), CodeCarbonMeter(clock=clock)):
        assert isinstance(meter, EnergyMeter)
        assert check_meter(meter, work) > 0


@pytest.mark.parametrize(
    "meter, module, extra",
    [
        (NvmlMeter, "pynvml", "nvml"),
        (ZeusMeter, "zeus.monitor", "zeus"),
        (CodeCarbonMeter, "codecarbon", "codecarbon"),
    ],
)
def test_a_missing_extra_is_named(monkeypatch, meter, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MeterError, match=rf"pip install 'rank-sched\[{extra}\]'"):
        meter()


@pytest.mark.skipif(find_spec("pynvml") is None, reason="nvidia-ml-py is not installed")
def test_the_real_binding_reads_a_board_or_says_why_not():
    try:
        meter = NvmlMeter()
    except MeterError as error:
        assert "NVML" in str(error)  # noqa: PT017  # most machines have no board
    else:
        assert meter._read_mj()


@pytest.mark.filterwarnings("ignore")  # those of its own dependencies
@pytest.mark.skipif(find_spec("codecarbon") is None, reason="codecarbon is not installed")
def test_the_real_codecarbon_measures_a_second():
    assert check_meter(CodeCarbonMeter(every_s=0.1), lambda: time.sleep(1.2)) > 0
