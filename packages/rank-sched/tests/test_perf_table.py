"""Measured tables: exact where measured, monotone between, shaped by the roofline outside."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, strategies as st

from rank_sched import (
    PerfEstimator,
    PerfRow,
    PerfTable,
    conv2d_shape,
    linear_shape,
    this_machine,
)
from rank_sched._isotonic import isotonic
from rank_sched._machine import processor_name

SHAPE = linear_shape(256, 128)
BATCHES, RANKS = (1, 8, 64), (4, 8, 16, 32, 64)


def truth(batch, rank):
    return 1e-5 + 1e-9 * batch * rank


def table(batches=BATCHES, ranks=RANKS, *, noise=0.0, energy=False, seed=0):
    rng = np.random.default_rng(seed)
    rows = []
    for batch in batches:
        for rank in ranks:
            seconds = truth(batch, rank) * float(np.exp(noise * rng.standard_normal()))
            rows.append(PerfRow(SHAPE, batch, rank, seconds, 50 * seconds if energy else None))
        rows.append(PerfRow(SHAPE, batch, None, 3e-5 * batch))
    return PerfTable(rows)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_pooling_is_the_projection_on_rising_sequences(values):
    found = isotonic(values)
    assert (np.diff(found) >= 0).all()
    assert math.isclose(found.sum(), sum(values), rel_tol=1e-9, abs_tol=1e-9)
    # the obtuse angle of a projection on a cone: residual against result and any rising sequence
    residual = np.asarray(values) - found
    assert abs(residual @ found) <= 1e-6 * (1 + found @ found)
    for start in range(len(values)):
        assert residual[start:].sum() <= 1e-9 * (1 + sum(values))


@given(
    st.lists(st.floats(0, 9), min_size=4, max_size=4),
    st.lists(st.floats(0, 9), min_size=4, max_size=4),
)
def test_pooling_keeps_the_order_of_sequences(low, added):
    high = np.asarray(low) + np.asarray(added)
    assert (isotonic(low) <= isotonic(high) + 1e-12).all()


def test_what_was_measured_comes_back():
    measured = table()
    for row in measured.rows:
        assert measured.latency_s(SHAPE, row.batch, row.rank) == pytest.approx(row.latency_s)


def test_between_measurements_a_straight_line_is_exact():
    measured = table()
    for batch, rank in [(1, 6), (8, 48), (4, 8), (30, 20), (64, 63)]:
        assert measured.latency_s(SHAPE, batch, rank) == pytest.approx(truth(batch, rank))


@pytest.mark.parametrize("seed", range(5))
def test_predictions_never_fall_with_rank_or_batch_however_noisy(seed):
    estimator = PerfEstimator("desktop-cpu").with_table(table(noise=0.5, seed=seed))
    grid = np.array(
        [
            [estimator.linear(b, 256, 128, rank=r).latency_s for r in range(1, 129, 3)]
            for b in (1, 2, 5, 8, 20, 64, 100, 500)
        ]
    )
    assert (np.diff(grid, axis=0) >= -1e-18).all()
    assert (np.diff(grid, axis=1) >= -1e-18).all()


def test_outside_the_roofline_gives_the_shape():
    plain = PerfEstimator("desktop-cpu")
    estimator = plain.with_table(table())
    for batch, rank, near in [(8, 128, (8, 64)), (512, 16, (64, 16)), (1, 1, (1, 4))]:
        ratio = plain.linear(batch, 256, 128, rank).latency_s
        ratio /= plain.linear(near[0], 256, 128, near[1]).latency_s
        found = estimator.linear(batch, 256, 128, rank).latency_s
        assert found == pytest.approx(truth(*near) * ratio)


def test_the_dense_layer_has_a_curve_of_its_own():
    estimator = PerfEstimator("desktop-cpu").with_table(table())
    assert estimator.linear(8, 256, 128).latency_s == pytest.approx(3e-5 * 8)
    low_rank_only = PerfTable([row for row in table().rows if row.rank is not None])
    plain = PerfEstimator("desktop-cpu")
    assert plain.with_table(low_rank_only).linear(8, 256, 128) == plain.linear(8, 256, 128)


def test_only_the_measured_shape_changes_and_only_in_time_and_energy():
    plain = PerfEstimator("desktop-cpu")
    estimator = plain.with_table(table())
    for other in ({"bias": False}, {"dtype_bytes": 2}):
        assert estimator.linear(8, 256, 128, 16, **other) == plain.linear(8, 256, 128, 16, **other)
    new, old = estimator.linear(8, 256, 128, 16), plain.linear(8, 256, 128, 16)
    assert (new.flops, new.memory_bytes, new.launches) == (
        old.flops,
        old.memory_bytes,
        old.launches,
    )
    assert new.latency_s != old.latency_s
    assert plain.table is None


def test_energy_is_metered_or_the_roofline_at_the_measured_time():
    plain = PerfEstimator("v100")
    metered = plain.with_table(table(energy=True)).linear(8, 256, 128, 12)
    assert metered.energy_j == pytest.approx(50 * metered.latency_s)
    timed, old = plain.with_table(table()).linear(8, 256, 128, 12), plain.linear(8, 256, 128, 12)
    idle = plain.hardware.idle_power_w * (timed.latency_s - old.latency_s)
    assert timed.energy_j == pytest.approx(old.energy_j + idle)


def test_repeated_rows_count_by_their_median():
    rows = [PerfRow(SHAPE, 1, 8, seconds) for seconds in (1e-5, 9e-3, 2e-5)]
    assert PerfTable(rows).latency_s(SHAPE, 1, 8) == pytest.approx(2e-5)


def test_convolutions_are_found_by_their_whole_geometry():
    shape = conv2d_shape(3, 8, (3, 3), 32, padding=1)
    estimator = PerfEstimator("v100").with_table(PerfTable([PerfRow(shape, 2, 4, 0.25)]))
    assert estimator.conv2d(2, 3, 8, 3, (32, 32), rank=4, padding=1).latency_s == 0.25
    assert estimator.conv2d(2, 3, 8, 3, (32, 32), rank=4).latency_s < 0.25


def test_a_table_survives_the_disk(tmp_path):
    path = tmp_path / "table.json"
    path.write_text("old")
    saved = table(energy=True)
    saved.save(path)
    loaded = PerfTable.load(path)
    assert (loaded.rows, loaded.machine) == (saved.rows, this_machine())
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "table.json"
    table().save(path)
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        table(noise=0.1).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_another_machine_is_refused_unless_asked_for(tmp_path):
    path = tmp_path / "table.json"
    foreign = PerfTable(table().rows, machine=this_machine() | {"processor": "Z80"})
    foreign.save(path)
    with pytest.raises(ValueError, match="must come from this machine, .* processor: 'Z80'"):
        PerfTable.load(path)
    assert PerfTable.load(path, any_machine=True).machine["processor"] == "Z80"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c | {"format": "x"}, "must have format="),
        (lambda c: c | {"version": 2}, "must have version=1, got 2"),
        (lambda c: c | {"units": {"latency_s": "ms"}}, "must have units="),
        (lambda c: c | {"rows": 3}, "must have rows, a list of objects"),
        (lambda c: c | {"machine": []}, "must have machine, an object"),
        (lambda c: c | {"rows": []}, "at least one measurement"),
        (lambda c: c | {"rows": [{"layer": "x"}]}, "must hold a table of measurements"),
        (lambda c: c | {"rows": [c["rows"][0] | {"latency_s": -1}]}, "latency_s must be in"),
        (lambda c: c | {"rows": [c["rows"][0] | {"extra": 1}]}, "must hold a table"),
        (lambda c: [c], "must hold an object, got list"),
    ],
)
def test_a_damaged_file_is_named_with_what_is_wrong(tmp_path, change, message):
    path = tmp_path / "table.json"
    table().save(path)
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=message) as caught:
        PerfTable.load(path)
    assert "table.json" in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_a_file_that_is_no_json_is_named(tmp_path, content):
    path = tmp_path / "table.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"table.json must be a JSON file of measurements"):
        PerfTable.load(path)


@pytest.mark.parametrize(
    "rows, error, message",
    [
        ([], ValueError, "at least one measurement, got none"),
        ([(SHAPE, 0, 4, 1.0)], ValueError, "batch must be at least 1, got 0"),
        ([(SHAPE, 1, -4, 1.0)], ValueError, "rank must be at least 0, got -4"),
        ([(SHAPE, 1, 4, math.nan)], ValueError, "latency_s must be a number, got nan"),
        ([(SHAPE, 1, 4, 0.0)], ValueError, "latency_s must be in"),
        ([(SHAPE, 1, 4, 1.0, -1.0)], ValueError, "energy_j must be in"),
        ([(7, 1, 4, 1.0)], TypeError, "layer must be the name of a shape, got 7"),
    ],
)
def test_impossible_measurements_are_refused_by_name(rows, error, message):
    with pytest.raises(error, match=message):
        PerfTable(rows)


def test_an_estimator_takes_tables_alone():
    with pytest.raises(TypeError, match="table must be a PerfTable, got dict"):
        PerfEstimator("v100").with_table({})


def test_a_machine_without_a_processor_name_is_still_named(tmp_path):
    assert processor_name(tmp_path / "nothing")
    listing = tmp_path / "cpuinfo"
    listing.write_text("processor : 0\nmodel name\t: Chip 9000 @ 1 GHz: fast\n")
    assert processor_name(listing) == "Chip 9000 @ 1 GHz: fast"
