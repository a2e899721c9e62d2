from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from spike_ops import SpikeTensor
from spike_ops.events import (
    EventFolder,
    Events,
    collate,
    concat,
    crop,
    denoise,
    drop,
    flip,
    jitter,
    to_frames,
    to_local_surfaces,
    to_time_surface,
    to_time_surfaces,
    to_voxel_grid,
)


def made(seed, count=200, size=(9, 7), last=1_000):
    rng = np.random.default_rng(seed)
    x, y = rng.integers(0, size[0], count), rng.integers(0, size[1], count)
    t = np.sort(rng.integers(0, last, count))
    return Events(x, y, t, rng.random(count) < 0.5, width=size[0], height=size[1])


SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize(
    "change, error, rule",
    [
        ({"x": [0, 9]}, ValueError, r"x must be in 0..8, got 9 at 1"),
        ({"y": [-1, 0]}, ValueError, r"y must be in 0..6, got -1 at 0"),
        ({"p": [0, 2]}, ValueError, r"p must be in 0..1, got 2 at 1"),
        ({"t": [5, 4]}, ValueError, r"t must never decrease, got 4 after 5 at 1"),
        ({"t": np.array([5, 4], np.uint64)}, ValueError, r"t must never decrease"),
        ({"t": np.array([5, 2**63], np.uint64)}, ValueError, r"t must fit into 63 bits"),
        ({"t": [2**62, -(2**62) - 1]}, ValueError, r"t must never decrease"),
        ({"t": [5, 2**63 - 1]}, ValueError, r"t must be below 2\^63 - 1"),
        ({"t": [1, 2, 3]}, ValueError, r"must have one length"),
        ({"x": [0.0, 1.0]}, TypeError, r"x must hold integers, got float64"),
        ({"t": [0.0, 0.5]}, TypeError, r"t must hold integers \(microseconds\), got float64"),
        ({"width": 9.5}, ValueError, r"width must be a whole number, got 9.5"),
        ({"height": "7"}, TypeError, r"height must be a whole number, got '7'"),
        ({"x": [[0, 1]]}, ValueError, r"x must have one axis"),
        ({"width": 0}, ValueError, r"width must be in 1..65536, got 0"),
        ({"height": 70_000}, ValueError, r"height must be in 1..65536, got 70000"),
    ],
)
def test_columns_that_are_no_events_are_refused(change, error, rule):
    columns = {"x": [0, 1], "y": [0, 1], "t": [4, 5], "p": [0, 1], "width": 9, "height": 7}
    for made_by in (Events, Events.sorted):
        made_by(**columns)
        if "decrease" not in rule or made_by is Events:
            with pytest.raises(error, match=rule):
                made_by(**{**columns, **change})


def test_columns_are_read_only_copies():
    x = np.array([0, 1])
    events = Events(x, [0, 0], [4, 5], [0, 1], width=9, height=7)
    x[0] = 5
    assert events.x.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        events.t[0] = 9
    with pytest.raises(TypeError, match="a slice or a mask"):
        events[1]


@given(seed=SEEDS, cuts=st.lists(st.integers(-5, 1_005), max_size=6))
def test_slices_of_time_joined_are_the_recording(seed, cuts):
    events = made(seed)
    edges = [-10, *sorted(cuts), 1_010]
    parts = [events.between(a, b) for a, b in pairwise(edges)]
    assert concat(parts) == events
    assert concat([events[:70], events[70:]]) == events
    assert len(events.between(600, 500)) == 0


def test_joined_recordings_are_merged_by_time():
    joined = concat([made(0), made(1)])
    assert len(joined) == 400
    assert (np.diff(joined.t) >= 0).all()
    with pytest.raises(ValueError, match="one sensor size"):
        concat([made(0), made(0, size=(10, 7))])
    with pytest.raises(ValueError, match="one sensor size"):
        concat([])


@given(seed=SEEDS, axis=st.sampled_from("xypt"))
def test_mirroring_twice_is_nothing_but_the_order_of_equal_times(seed, axis):
    events = made(seed)
    assert flip(events, axis) != events
    assert flip(flip(events, axis), axis) == events


def test_mirrors_move_counts_where_they_say():
    events = made(0)
    frame = to_frames(events, 1)[0]
    assert torch.equal(to_frames(flip(events, "x"), 1)[0], frame.flip(2))
    assert torch.equal(to_frames(flip(events, "y"), 1)[0], frame.flip(1))
    assert torch.equal(to_frames(flip(events, "p"), 1)[0], frame.flip(0))
    ends = Events([0, 0], [0, 0], [0, 999], [0, 1], width=9, height=7)
    whole = concat([events, ends])
    mirrored = to_frames(flip(whole, "t"), 4)
    assert torch.equal(mirrored, to_frames(whole, 4).flip(0).flip(1))
    with pytest.raises(ValueError, match="axis must be"):
        flip(events, "z")


def test_a_crop_is_that_part_of_the_frame():
    events = made(0)
    part = crop(events, left=2, top=1, width=4, height=5)
    assert torch.equal(to_frames(part, 1)[0], to_frames(events, 1)[0][:, 1:6, 2:6])
    with pytest.raises(ValueError, match="crop must lie in 9x7, got 4x5 at \\(6, 1\\)"):
        crop(events, left=6, top=1, width=4, height=5)


def test_dropping_keeps_the_expected_share_and_its_seed():
    events = made(0, count=20_000)
    kept = drop(events, 0.3, np.random.default_rng(1))
    # four standard deviations of a binomial
    assert abs(len(kept) - 14_000) < 4 * np.sqrt(20_000 * 0.21)
    assert drop(events, 0.3, np.random.default_rng(1)) == kept
    assert drop(events, 0.0, np.random.default_rng(1)) == events
    assert len(drop(events, 1.0, np.random.default_rng(1))) == 0
    with pytest.raises(ValueError, match="fraction must be in 0..1"):
        drop(events, 1.5, np.random.default_rng(1))


def test_jitter_moves_by_its_deviation_and_stays_inside():
    size = 101
    count = 20_000
    middle = np.full(count, 50)
    events = Events(middle, middle, middle * 1_000, middle > 0, width=size, height=size)
    moved = jitter(events, np.random.default_rng(0), time=100.0, space=3.0)
    assert len(moved) == count
    # the deviation of a rounded Gaussian, four standard errors wide
    for column, deviation in ((moved.x, 3.0), (moved.y, 3.0), (moved.t, 100.0)):
        assert abs(column.std() / np.hypot(deviation, np.sqrt(1 / 12)) - 1) < 4 / np.sqrt(2 * count)
    assert jitter(events, np.random.default_rng(0)) == events
    early = jitter(made(0), np.random.default_rng(0), time=500.0, space=5.0)
    assert early.t.min() >= 0
    assert 0 < len(early) < 200
    with pytest.raises(ValueError, match="must not be negative"):
        jitter(events, np.random.default_rng(0), time=-1.0)


def test_noise_without_a_deviation_is_refused():
    for settings in ({"time": float("nan")}, {"space": float("inf")}, {"time": 1e30}):
        with pytest.raises(ValueError, match="time and space must be finite"):
            jitter(made(0), np.random.default_rng(0), **settings)
    with pytest.raises(ValueError, match="window must be a whole number of microseconds"):
        denoise(made(0), 0.005)


@given(seed=SEEDS, window=st.sampled_from([0, 3, 20, 300, 5_000]))
def test_denoised_events_are_those_with_a_recent_neighbour(seed, window):
    events = made(seed, count=60)
    kept = []
    for i in range(len(events)):
        for j in range(i):
            dx, dy = int(events.x[i]) - int(events.x[j]), int(events.y[i]) - int(events.y[j])
            near = max(abs(dx), abs(dy)) == 1
            if near and events.t[i] - events.t[j] <= window:
                kept.append(i)
                break
    assert denoise(events, window) == events[np.array(kept, int)]


@given(seed=SEEDS, bins=st.integers(1, 40), by=st.sampled_from(["time", "count"]))
def test_frames_conserve_events_polarities_and_pixels(seed, bins, by):
    events = made(seed)
    frames = to_frames(events, bins, by=by)
    assert frames.shape == (bins, 2, 7, 9)
    assert frames.sum() == len(events)
    assert frames[:, 1].sum() == events.p.sum()
    expected = torch.zeros(2, 7, 9)
    for x, y, p in zip(events.x, events.y, events.p, strict=True):
        expected[int(p), y, x] += 1
    assert torch.equal(frames.sum(0), expected)


@given(seed=SEEDS, bins=st.integers(1, 30))
def test_frames_by_count_differ_by_one_event_at_most(seed, bins):
    each = to_frames(made(seed), bins, by="count").sum((1, 2, 3))
    assert each.max() - each.min() <= 1


@given(seed=SEEDS, duration=st.integers(1, 400), share=st.floats(0, 0.99))
def test_frames_of_a_duration_count_what_lies_in_each_window(seed, duration, share):
    events, overlap = made(seed, count=50), int(share * duration)
    frames = to_frames(events, duration=duration, overlap=overlap)
    step, begin = duration - overlap, int(events.t[0])
    for index, frame in enumerate(frames):
        window = events.between(begin + index * step, begin + index * step + duration)
        assert frame.sum() == len(window)
    assert begin + (len(frames) - 1) * step + duration > events.t[-1]
    assert len(frames) == 1 or begin + (len(frames) - 2) * step + duration <= events.t[-1]


def test_a_span_that_is_told_leaves_out_what_lies_outside():
    events = Events([0, 1, 2], [0, 0, 0], [10, 20, 30], [1, 1, 1], width=3, height=1)
    frames = to_frames(events, 2, start=15, stop=35)
    assert frames[:, 1, 0].tolist() == [[0, 1, 0], [0, 0, 1]]
    assert to_frames(events, 2, start=0, stop=30, by="count").sum() == 2
    assert to_frames(events, duration=10, start=0, stop=30).sum((1, 2, 3)).tolist() == [0, 1, 1]
    assert to_frames(Events.empty(width=3, height=1), 4).sum() == 0


@pytest.mark.parametrize(
    "settings, rule",
    [
        ({}, "one of bins and duration"),
        ({"bins": 2, "duration": 5}, "one of bins and duration"),
        ({"bins": 0}, "bins must be at least 1"),
        ({"bins": 2, "by": "luck"}, "by must be time or count"),
        ({"bins": 2, "overlap": 3}, "overlap needs frames of a duration"),
        ({"duration": 5, "overlap": 5}, "overlap must be in"),
        ({"duration": 0}, "overlap must be in"),
        ({"bins": 10**9}, "at most 2\\^31 elements"),
        ({"duration": 1, "stop": 10**12}, "at most 2\\^31 elements"),
        ({"bins": 2, "start": 50, "stop": 50}, "stop must be after start"),
        ({"bins": 2, "start": -(2**62), "stop": 2**62 + 1}, "must fit into 63 bits"),
        ({"bins": 2, "stop": 2**63}, "must fit into 63 bits"),
        ({"bins": 2.5}, "bins must be a whole number, got 2.5"),
        ({"bins": 2, "stop": 0.3}, "stop must be a whole number of microseconds, got 0.3"),
        ({"bins": 2, "start": float("nan")}, "start must be a whole number of microseconds"),
        ({"duration": 0.001}, "duration must be a whole number of microseconds, got 0.001"),
        ({"duration": 5, "overlap": 0.5}, "overlap must be a whole number of microseconds"),
    ],
)
def test_settings_of_frames_that_make_no_sense_are_refused(settings, rule):
    with pytest.raises(ValueError, match=rule):
        to_frames(made(0), **settings)


@pytest.mark.parametrize("duration", [1, 2])
def test_frames_far_beyond_the_events_are_refused_by_the_unit(duration):
    few = made(0, count=500, last=300_000)
    with pytest.raises(
        ValueError, match=rf"microseconds of a frame, got {duration}: \d+ frames of"
    ):
        to_frames(few, duration=duration)


# 300 ms with 6,000 events, on a clock that began a second before
LONG = made(0, count=6_000, last=300_000)
LONG = LONG.like(LONG.x, LONG.y, LONG.t + 1_000_000, LONG.p)


@pytest.mark.parametrize(
    "made_of",
    [
        lambda events: to_frames(events, 10, start=0, stop=300),
        lambda events: to_frames(events, 10, start=0, stop=300_000),
        lambda events: to_frames(events, 30, start=1_000_000, stop=1_000_300),
        lambda events: to_voxel_grid(events, 10, start=0, stop=300_000),
        lambda events: to_time_surfaces(events, 50_000.0, 10, start=0, stop=300_000),
        lambda events: to_frames(events, duration=5),
        lambda events: to_time_surface(events, 0.05),
        lambda events: to_local_surfaces(events[:3], 0.05, 1),
        lambda events: to_time_surface(events, 1.5),
        lambda events: to_time_surface(events, 50.0, at=1_500_000),
        lambda events: to_time_surfaces(events, 1.5, 3),
        lambda events: denoise(events, 10),
    ],
)
def test_a_slip_of_units_warns_by_what_a_window_holds(made_of):
    with pytest.warns(UserWarning, match="microseconds"):
        made_of(LONG)


@pytest.mark.parametrize(
    "made_of",
    [
        lambda events: to_frames(events, 10, start=1_000_000, stop=1_300_000),
        lambda events: to_frames(events, 10.0, start=1e6, stop=1.3e6),
        lambda events: to_frames(events, 4, start=1_000_000, stop=1_001_000),
        lambda events: to_frames(events, 10_000),
        lambda events: to_frames(events, duration=1_000, overlap=500),
        lambda events: to_frames(events[:0], 10, start=0, stop=300_000),
        lambda events: to_voxel_grid(events, 5, stop=1_200_000),
        lambda events: to_time_surface(events, 50_000.0),
        lambda events: to_time_surface(events, 500.0),
        lambda events: to_time_surface(events, 2_000.0, at=2_000_000),
        lambda events: to_time_surface(events, 50.0, at=0),
        lambda events: denoise(events, 1_000),
        lambda events: denoise(events[:900], 10),
    ],
)
def test_windows_that_hold_events_do_not_warn(made_of):
    made_of(LONG)  # warnings are errors


@pytest.mark.parametrize(
    "made_of, rule",
    [
        (lambda x: to_frames(x, 2), "events must be Events, got ndarray"),
        (lambda x: to_voxel_grid(x, 2), "events must be Events, got ndarray"),
        (lambda x: to_time_surface(x, 2.0), "events must be Events, got ndarray"),
        (lambda x: to_time_surfaces(x, 2.0, 2), "events must be Events, got ndarray"),
        (lambda x: to_local_surfaces(x, 2.0, 1), "events must be Events, got ndarray"),
        (lambda x: to_frames(made(0), "2"), "bins must be a whole number, got '2'"),
        (lambda x: to_time_surface(made(0), "2"), "tau must be a number, got '2'"),
        (lambda x: concat(made(0)), "parts must be several recordings"),
        (lambda x: drop(made(0), 0.5, 0), "must be a numpy.random.Generator, got int"),
        (lambda x: jitter(made(0), 0), "must be a numpy.random.Generator, got int"),
    ],
)
def test_what_is_of_another_kind_is_named(made_of, rule):
    with pytest.raises(TypeError, match=rule):
        made_of(np.zeros((4, 3)))


@given(seed=SEEDS, bins=st.integers(1, 12))
def test_a_voxel_grid_spreads_each_event_by_two_weights_that_sum_to_one(seed, bins):
    events = made(seed, count=40)
    grid = to_voxel_grid(events, bins)
    expected = torch.zeros(bins, 7, 9, dtype=torch.float64)
    span = max(int(events.t[-1] - events.t[0]), 1)
    for x, y, t, p in zip(events.x, events.y, events.t, events.p, strict=True):
        scaled = (bins - 1) * float(t - events.t[0]) / span
        weights = [max(0.0, 1 - abs(b - scaled)) for b in range(bins)]
        assert sum(weights) == pytest.approx(1)
        expected[:, y, x] += (2 * float(p) - 1) * torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(grid, expected.float(), atol=2e-6, rtol=1e-6)
    signed = 2 * int(events.p.sum()) - len(events)
    assert grid.sum().item() == pytest.approx(signed, abs=1e-4)


@pytest.mark.parametrize("begin, last", [(0, 2**62), (-(2**62), 2**62 - 4), (2**62, 2**63 - 4)])
def test_times_of_any_size_are_ordered_and_divided_exactly(begin, last):
    steps = [0, (last - begin) // 4, (last - begin) // 2, last - begin]
    times = [begin + step for step in steps]
    events = Events([0, 1, 2, 3], [0] * 4, times, [1, 1, 0, 1], width=4, height=1)
    assert events.duration == last - begin
    assert events.between(begin - 2**70, last + 2**70) == events
    assert events.between(times[1], times[3]) == events[1:3]
    assert events.since_start().t.tolist() == steps
    expected = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 0], [0] * 4, [0, 0, 0, 1]]
    torch.testing.assert_close(
        to_voxel_grid(events, 5)[:, 0], torch.tensor(expected, dtype=torch.float32)
    )
    assert to_frames(events, 4).sum((1, 2)).int().tolist() == [
        [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1],
    ]  # fmt: skip
    assert to_frames(events, duration=2**70).sum() == 4
    close = Events(
        [0, 1, 2, 3], [0] * 4, [begin, begin + 5, last, last], [1] * 4, width=4, height=1
    )
    assert denoise(close, window=5).x.tolist() == [1, 3]


@given(seed=SEEDS, at=st.integers(-10, 1_200))
def test_a_time_surface_tells_how_long_ago_the_last_event_was(seed, at):
    events, tau = made(seed, count=40), 100.0
    expected = torch.zeros(2, 7, 9)
    for x, y, t, p in zip(events.x, events.y, events.t, events.p, strict=True):
        if t <= at:
            expected[int(p), y, x] = float(np.exp((t - at) / tau))
    torch.testing.assert_close(to_time_surface(events, tau, at=at), expected)


def test_surfaces_of_spans_are_those_of_their_last_microseconds():
    events = made(0)
    surfaces = to_time_surfaces(events, 50.0, 5, start=0, stop=1_000)
    each = [to_time_surface(events, 50.0, at=200 * step + 199) for step in range(5)]
    torch.testing.assert_close(surfaces, torch.stack(each))


def test_local_surfaces_are_windows_of_the_surface_at_each_event():
    events, tau, radius = made(0, count=60, last=10**5), 2e4, 2
    patches = to_local_surfaces(events, tau, radius)
    for index in range(len(events)):
        upto = events[: index + 1]
        surface = to_time_surface(upto, tau)[int(events.p[index])]
        padded = torch.nn.functional.pad(surface, [radius] * 4)
        x, y = int(events.x[index]), int(events.y[index])
        torch.testing.assert_close(patches[index], padded[y : y + 5, x : x + 5])
    assert (patches[:, radius, radius] == 1).all()


@pytest.mark.parametrize("tau", [0.0, -1.0, float("nan"), float("inf")])
def test_time_constants_that_are_not_positive_are_refused(tau):
    for surface in (to_time_surface, lambda e, t: to_time_surfaces(e, t, 3),
                    lambda e, t: to_local_surfaces(e, t, 1)):  # fmt: skip
        with pytest.raises(ValueError, match="tau must be positive"):
            surface(made(0), tau)


def test_a_batch_is_packed_and_padded_by_silence():
    samples = [(to_frames(made(0), 5), 3), (to_frames(made(1), 8), 1)]
    batch = collate(samples)
    assert isinstance(batch.spikes, SpikeTensor)
    assert batch.spikes.shape == (8, 2, 2, 7, 9)
    dense = batch.spikes.to_dense()
    assert torch.equal(dense[:5, 0], (samples[0][0] > 0).float())
    assert dense[5:, 0].sum() == 0
    assert torch.equal(dense[:, 1], (samples[1][0] > 0).float())
    assert batch.labels.tolist() == [3, 1]
    assert batch.lengths.tolist() == [5, 8]


def test_a_batch_takes_packed_spikes_and_arrays():
    frames = SpikeTensor.from_dense(torch.eye(3)[:, None])
    for held in (frames, torch.eye(3)[:, None], np.eye(3)[:, None]):
        for label in (2, torch.tensor(2), torch.tensor([2]), np.int64(2)):
            batch = collate([(held, label)])
            assert torch.equal(batch.spikes.to_dense()[:, 0], torch.eye(3)[:, None])
            assert batch.labels.tolist() == [2]


@pytest.mark.parametrize(
    "samples, rule",
    [
        ([], "one shape after time, got \\[\\]"),
        ([(torch.ones(2, 3), 0), (torch.ones(2, 4), 0)], "one shape after time"),
        ([(torch.tensor([[-1.0]]), 0)], "frames must be counts, got -1 in sample 0"),
        ([(torch.tensor([[float("nan")]]), 0)], "frames must be counts"),
        ([(torch.tensor(1.0), 0)], r"frames must be \[T, ...\]"),
        ([(torch.ones(1, 1).cfloat(), 0)], "frames must be counts, got torch.complex64"),
        ([(torch.ones(1, 1), 1.5)], "labels must be a whole number, got 1.5"),
        ([(torch.ones(1, 1), "a")], "labels must be a whole number, got 'a'"),
        ([torch.ones(2, 3)], r"pairs \(frames, label\), got Tensor"),
        ([(made(0), 1)], "got Events; to_frames makes them"),
    ],
)
def test_what_is_no_batch_of_counts_is_refused(samples, rule):
    with pytest.raises((ValueError, TypeError), match=rule):
        collate(samples)


def test_a_loader_of_real_recordings_gives_packed_batches(data_dir):
    folder = EventFolder(
        data_dir / "nmnist-small" / "Train",
        transform=lambda events: to_frames(events, 10, start=0, stop=316_000),
    )
    loader = torch.utils.data.DataLoader(folder, batch_size=16, collate_fn=collate)
    batch = next(iter(loader))
    assert batch.spikes.shape == (10, 16, 2, 34, 34)
    assert 0.02 < batch.spikes.count / batch.spikes.numel() < 0.5
    assert batch.labels.tolist() == [0] * 16
