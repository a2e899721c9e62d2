from dataclasses import asdict, replace

import pytest
import torch

from spike_ops import Calibration, calibration, plan_product, use_calibration
from spike_ops._calibrate import calibrate


@pytest.fixture(scope="module")
def measured():
    return calibrate(seconds=0.05)


def test_everything_that_is_measured_is_positive(measured):
    told = asdict(measured)
    for rates in told.pop("rates").values():
        assert all(value > 0 for name, value in rates.items() if name != "read")
        assert rates["read"] >= 0
    numbers = [value for value in told.values() if isinstance(value, float)]
    assert len(numbers) == 10
    assert all(value > 0 for value in numbers)


def test_a_calibration_survives_its_file(measured, tmp_path):
    measured.save(tmp_path / "costs.json")
    assert Calibration.load(tmp_path / "costs.json") == measured


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"rates": {"float32": {"add": 1}}}', "\x00"])
def test_other_files_are_refused(text, tmp_path):
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not a calibration of spike-ops"):
        Calibration.load(path)


def test_measuring_is_not_using(measured):
    assert calibration() == Calibration()
    with use_calibration(measured):
        assert calibration() is measured
    assert calibration() == Calibration()


def test_the_decision_is_that_of_the_calibration_in_use():
    free = replace(Calibration(), dense_call=0.0, rates=dict(Calibration().rates))
    rates = free.rates["float32"]
    free.rates["float32"] = replace(rates, mac=0.0, unpack=0.0, read=0.0)
    assert plan_product(256, 256, 256, 10).method == "event"
    with use_calibration(free):
        assert plan_product(256, 256, 256, 10).method == "dense"


@pytest.mark.parametrize("costs", ["costs.json", None, {}, Calibration])
def test_what_is_no_calibration_is_not_used(costs):
    with pytest.raises(TypeError, match="costs must be a Calibration, got"), use_calibration(costs):
        pass
    assert calibration() == Calibration()


@pytest.mark.parametrize(
    "change, error, rule",
    [
        ({"count": 200}, ValueError, "count must be in 0..rows"),
        ({"count": -1}, ValueError, "count must be in 0..rows"),
        ({"width": -1}, ValueError, "sizes from 0"),
        ({"method": "fast"}, ValueError, "method must be one of auto, event, dense, got 'fast'"),
        ({"dtype": torch.int32}, TypeError, "dtype must be one of float32.*got torch.int32"),
    ],
)
def test_products_that_there_cannot_be_have_no_plan(change, error, rule):
    settings = {"rows": 10, "columns": 10, "width": 4, "count": 100}
    assert plan_product(**settings).density == 1
    with pytest.raises(error, match=rule):
        plan_product(**{**settings, **change})


def test_measuring_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    calibrate(seconds=0.001)
    assert torch.equal(torch.rand(2), expected)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan")])
def test_time_must_be_positive(seconds):
    with pytest.raises(ValueError, match="seconds must be positive"):
        calibrate(seconds)
