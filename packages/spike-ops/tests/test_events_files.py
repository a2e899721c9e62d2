import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from spike_ops.events import (
    EventFileError,
    EventFolder,
    Events,
    SpikeRecordings,
    event_formats,
    read_events,
    read_gestures,
    write_events,
    write_recordings,
)
from spike_ops.events._files import FORMATS, parse, to_events

NAMES = list(FORMATS)
SIZES = {"n-mnist": (34, 34), "aedat2": (128, 128)}


def some_events(seed, *, count=20, size=(34, 34), last=300_000):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, last, count))
    x, y = rng.integers(0, size[0], count), rng.integers(0, size[1], count)
    return Events(x, y, t, rng.random(count) < 0.5, width=size[0], height=size[1])


def saved(folder, name, events):
    path = folder / f"file{event_formats()[name]}"
    write_events(events, path, format=name)
    return path


@pytest.mark.parametrize("name", NAMES)
@given(seed=st.integers(0, 10**6), count=st.integers(0, 60), last=st.sampled_from([1, 99, 10**6]))
def test_what_is_written_is_read_again(name, seed, count, last):
    size = SIZES.get(name, (100, 60))
    events = some_events(seed, count=count, size=size, last=last)
    row = FORMATS[name]
    assert to_events(row.decode(row.encode(events), size), "check") == events


@pytest.mark.parametrize("name", ["aedat2", "aedat3", "dat", "evt2", "evt3"])
def test_the_size_of_the_sensor_is_in_the_file(name, tmp_path):
    events = some_events(0, size=(77, 41))
    assert read_events(saved(tmp_path, name, events)) == events


@pytest.mark.parametrize("name, size", [("n-mnist", (64, 48)), ("n-caltech", (34, 34))])
def test_a_format_without_room_for_the_sensor_says_how_to_read_it(name, size, tmp_path):
    events = some_events(0, size=size)
    with pytest.warns(UserWarning, match=rf"read file.bin with sensor=\({size[0]}, {size[1]}\)"):
        path = saved(tmp_path, name, events)
    assert read_events(path, sensor=size) == events
    if name == "n-mnist":
        with pytest.raises(EventFileError, match=r"sensor=\(width, height\) tells another size"):
            read_events(path)


@pytest.mark.parametrize("sensor", [34, "34", (34,), (34, 0), (34.5, 34), (34, 70_000)])
def test_a_sensor_that_is_no_two_sides_is_refused(sensor, tmp_path):
    path = saved(tmp_path, "n-mnist", some_events(0))
    with pytest.raises(ValueError, match="sensor must"):
        read_events(path, sensor=sensor)
    with pytest.raises(TypeError, match="events must be Events, got list"):
        write_events([], path)


@pytest.mark.parametrize(
    "name, last",
    [("n-mnist", 2**26), ("aedat2", 2**31), ("aedat3", 2**40), ("dat", 2**32), ("evt2", 2**34),
     ("evt3", 2**36)],
)  # fmt: skip
def test_long_recordings_keep_their_times(name, last, tmp_path):
    events = some_events(3, count=7, size=SIZES.get(name, (34, 34)), last=last)
    assert events.duration > last / 4
    assert read_events(saved(tmp_path, name, events), format=name) == events


def test_more_events_than_one_packet_are_read_again(tmp_path):
    events = some_events(1, count=9_001)
    path = saved(tmp_path, "aedat3", events)
    assert read_events(path) == events
    assert path.read_bytes().count(struct.pack("<hhii", 1, 1, 8, 4)) >= 3


def test_bytes_of_a_40_bit_record_are_those_of_the_format(tmp_path):
    path = tmp_path / "one.bin"
    # x = 5, y = 33, on, time 0x012345; an overflow of 2^13; x = 6, y = 0, off, time 2
    path.write_bytes(bytes([5, 33, 0x81, 0x23, 0x45, 0, 240, 0, 0, 0, 6, 0, 0x01, 0x23, 0x46]))
    events = read_events(path)
    assert events.x.tolist() == [5, 6]
    assert events.y.tolist() == [33, 0]
    assert events.t.tolist() == [0x12345, 0x12346 + 8192]
    assert events.p.tolist() == [True, False]


def test_bytes_of_aedat_2_are_those_of_the_format(tmp_path):
    path = tmp_path / "one.aedat"
    special = struct.pack(">II", 0x8000, 1)
    event = struct.pack(">II", (120 << 8) | (100 << 1) | 1, 77)
    path.write_bytes(b"#!AER-DAT2.0\r\n# a comment\r\n" + special + event)
    events = read_events(path)
    assert (events.x[0], events.y[0], events.t[0], events.p[0]) == (27, 7, 77, False)
    assert len(events) == 1


def test_bytes_of_aedat_3_are_those_of_the_format(tmp_path):
    path = tmp_path / "one.aedat"
    other = struct.pack("<hhiiiiii", 0, 1, 4, 0, 0, 1, 1, 1) + bytes(4)
    word = (9 << 17) | (4 << 2) | (1 << 1) | 1
    invalid = word - 1
    body = struct.pack("<IIII", word, 50, invalid, 51)
    packet = struct.pack("<hhiiiiii", 1, 1, 8, 4, 2, 2, 2, 1) + body
    path.write_bytes(b"#!AER-DAT3.1\r\n#Source 1: DVS128\r\n#!END-HEADER\r\n" + other + packet)
    events = read_events(path)
    assert (events.width, events.height, len(events)) == (128, 128, 1)
    assert (events.x[0], events.y[0], events.t[0], events.p[0]) == (9, 4, 2 * 2**31 + 50, True)


def test_bytes_of_dat_are_those_of_the_format(tmp_path):
    path = tmp_path / "one.dat"
    head = b"% Data file containing CD events\n% Version 2\n% Width 304\n% Height 240\n\x0c\x08"
    path.write_bytes(head + struct.pack("<II", 1234, 300 | (200 << 14) | (1 << 28)))
    events = read_events(path)
    assert (events.width, events.height) == (304, 240)
    assert (events.x[0], events.y[0], events.t[0], events.p[0]) == (300, 200, 1234, True)


def test_words_of_evt_2_are_those_of_the_format(tmp_path):
    path = tmp_path / "one.raw"
    lost = 1 << 28
    words = [lost, (8 << 28) | 3, (1 << 28) | (5 << 22) | (640 << 11) | 300, 0xA << 28]
    head = b"% evt 2.0\n% format EVT2;height=720;width=1280\n"
    path.write_bytes(head + struct.pack("<4I", *words))
    events = read_events(path)
    assert (events.width, events.height, len(events)) == (1280, 720, 1)
    assert (events.x[0], events.y[0], events.t[0], events.p[0]) == (640, 300, 3 * 64 + 5, True)


def test_vectors_of_evt_3_are_spread_over_their_pixels(tmp_path):
    path = tmp_path / "one.raw"
    words = [
        0x8001, 0x6002, 0x0000 | 9,  # time 4098, row 9
        0x3800 | 100, 0x4000 | 0b100000000001, 0x5000 | 0b10000001,  # on, from x = 100
        0x2000 | 7,  # off at x = 7
        0x3000 | 50, 0x4000 | 0b10,  # off, from x = 50
    ]  # fmt: skip
    head = b"% evt 3.0\n% geometry 320x320\n% end\n"
    path.write_bytes(head + struct.pack(f"<{len(words)}H", *words))
    events = read_events(path)
    assert events.x.tolist() == [100, 111, 112, 119, 7, 51]
    assert events.p.tolist() == [True] * 4 + [False] * 2
    assert set(events.y.tolist()) == {9}
    assert set(events.t.tolist()) == {4098}


def test_clocks_of_raw_files_go_on_after_their_turn(tmp_path):
    path = tmp_path / "turn.raw"
    words = [0x8FFF, 0x6FFF, 0x0001, 0x2003, 0x8000, 0x6001, 0x2004]
    head = b"% evt 3.0\n% geometry 32x32\n% end\n"
    path.write_bytes(head + struct.pack(f"<{len(words)}H", *words))
    assert read_events(path).t.tolist() == [2**24 - 1, 2**24 + 1]


def test_real_recordings_are_read_and_come_back_byte_by_byte(data_dir, tmp_path):
    files = sorted((data_dir / "nmnist-small").rglob("*.bin"))
    assert len(files) == 600
    for file in files[::60]:
        events = read_events(file)
        assert len(events) == file.stat().st_size / 5
        assert 250_000 < events.duration < 350_000
        assert 0.3 < events.p.mean() < 0.7
        again = tmp_path / file.name
        write_events(events, again)
        assert again.read_bytes() == file.read_bytes()


# the byte that an error of a cut or changed file has to name
@pytest.mark.parametrize(
    "name, damage, offset, rule",
    [
        ("n-mnist", lambda data: data[:-2], 95, "5 bytes"),
        ("n-mnist", lambda data: data[:10] + b"\xff" + data[11:], 10, "x must be below 34"),
        ("n-mnist", lambda data: data[5:10] + data, 5, "time must never decrease"),
        ("aedat2", lambda data: b"\x7fELF" + data, 0, "#!AER-DAT2"),
        ("aedat2", lambda data: data[:-3], None, "8 bytes"),
        ("aedat3", lambda data: data[:-3], None, "a packet must hold 160 bytes"),
        ("aedat3", lambda data: data + b"\0\0\0", None, "28 bytes"),
        ("dat", lambda data: data.replace(b"\x0c\x08", b"\x0c\x09", 1), None, "type 0 or 12"),
        ("dat", lambda data: b"GIF89a" + data, 0, "header of % lines"),
        ("evt2", lambda data: data + b"\0\0\0\x30", None, "word's type"),
        ("evt3", lambda data: data.replace(b"evt 3.0", b"evt 4.0"), 0, "evt 3.0"),
        ("evt3", lambda data: data.replace(b"34x34", b"99999999999x34"), 0, "sides"),
    ],
)
def test_damaged_files_are_refused_by_file_byte_and_rule(name, damage, offset, rule, tmp_path):
    path = saved(tmp_path, name, some_events(0, size=SIZES.get(name, (34, 34))))
    data = damage(path.read_bytes())
    path.write_bytes(data)
    with pytest.raises(EventFileError, match=rule) as caught:
        read_events(path, format=name)
    error = caught.value
    assert error.file == path
    assert str(path) in str(error)
    assert f"byte {error.offset}" in str(error)
    assert 0 <= error.offset <= len(data)
    assert offset in {None, error.offset}


def mutated(data, rng):
    """Bytes changed in one to four of the ways in which files go wrong."""
    data = bytearray(data)
    for _ in range(rng.integers(1, 5)):
        place = int(rng.integers(0, max(len(data), 1)))
        length = int(rng.integers(1, 9))
        match rng.integers(0, 6):
            case 0:
                data[place : place + length] = rng.bytes(length)
            case 1:
                del data[place:]
            case 2:
                del data[place : place + length]
            case 3:
                data[place:place] = rng.bytes(length)
            case 4:
                data[place : place + length] = data[:length]
            case 5:
                data[place : place + 4] = rng.choice([b"\xff" * 4, bytes(4), b"\x80\0\0\0"])
    return bytes(data)


def refused_or_read(data, path, name, order, *, on_disk):
    try:
        if on_disk:
            return None, read_events(path, format=name, order=order)
        return None, parse(data, path, name, None, order)
    except EventFileError as error:
        return error, None


def test_ten_thousand_mutated_files_are_read_or_refused_and_nothing_else(tmp_path):
    rng = np.random.default_rng(7)
    originals = {
        name: (row, row.encode(some_events(2, count=12, size=SIZES.get(name, (34, 34)))))
        for name, row in FORMATS.items()
    }
    outcome = {name: [0, 0] for name in NAMES}
    for number in range(10_000):
        name = NAMES[number % len(NAMES)]
        row, data = originals[name]
        path = tmp_path / f"file{row.suffix}"
        data = mutated(data, rng)
        order = "sort" if number % 3 == 0 else "check"
        if number % 50 == 0:  # a file costs far more than its bytes
            path.write_bytes(data)
        error, events = refused_or_read(data, path, name, order, on_disk=number % 50 == 0)
        outcome[name][error is None] += 1
        if error is not None:
            assert error.file == path
            assert 0 <= error.offset <= len(data)
            assert error.rule
        else:
            # what is left in is whole: the constructor's rules hold, and no byte was made up
            assert len(events) <= 12 * len(data)
            assert events.like(events.x, events.y, events.t, events.p) == events
    for refused, accepted in outcome.values():
        assert refused > 100
        assert accepted > 20


@pytest.mark.parametrize("name", NAMES)
@given(data=st.binary(max_size=60))
def test_any_bytes_behind_a_header_are_read_or_refused(name, data):
    head = FORMATS[name].encode(Events.empty(width=34, height=34))
    error, events = refused_or_read(head + data, Path("x"), name, "sort", on_disk=False)
    assert (error is None) == (events is not None)
    assert error is None or 0 <= error.offset <= len(head) + len(data)


def test_an_error_of_a_worker_still_names_its_file(tmp_path):
    (tmp_path / "poor.bin").write_bytes(b"abc")
    with pytest.raises(EventFileError) as caught:
        read_events(tmp_path / "poor.bin")
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.file, error.offset, error.rule) == (tmp_path / "poor.bin", 0, caught.value.rule)
    # how torch's loader raises it again
    assert str(EventFileError(str(error))) == str(error)


def test_a_format_is_found_by_suffix_and_first_bytes(tmp_path):
    events = some_events(0)
    for name in ("n-mnist", "aedat3", "dat", "evt2", "evt3"):
        assert read_events(saved(tmp_path, name, events)) == events
    (tmp_path / "file.raw").write_bytes(b"% evt 2.1\n")
    with pytest.raises(EventFileError, match="must begin as a .raw file"):
        read_events(tmp_path / "file.raw")
    (tmp_path / "file.txt").write_bytes(b"")
    with pytest.raises(EventFileError, match="suffix must be one of"):
        read_events(tmp_path / "file.txt")
    with pytest.raises(ValueError, match="format must be one of"):
        read_events(tmp_path / "file.raw", format="mp4")
    with pytest.raises(ValueError, match="order must be"):
        read_events(tmp_path / "file.raw", order="no")
    with pytest.raises(IsADirectoryError, match="must be a file, got the folder .*EventFolder"):
        read_events(tmp_path)
    with pytest.raises(ValueError, match=r"path must end in .aedat, .* or format be .*w.npy"):
        write_events(events, tmp_path / "w.npy")


@pytest.mark.parametrize(
    "name, size, last",
    [("n-mnist", (300, 34), 9), ("n-mnist", (34, 34), 2**28), ("aedat2", (129, 1), 9),
     ("aedat2", (9, 9), 2**33), ("aedat3", (40_000, 2), 9), ("dat", (20_000, 2), 9),
     ("dat", (9, 9), 2**34), ("evt2", (3_000, 2), 9), ("evt2", (9, 9), 2**36),
     ("evt3", (3_000, 2), 9), ("evt3", (9, 9), 2**42)],
)  # fmt: skip
def test_what_a_format_cannot_hold_is_not_written(name, size, last, tmp_path):
    path = tmp_path / f"kept{event_formats()[name]}"
    path.write_bytes(b"kept")
    events = Events([size[0] - 1], [0], [last], [1], width=size[0], height=size[1])
    with pytest.raises(ValueError, match="must be in|at most"):
        write_events(events, path, format=name)
    assert path.read_bytes() == b"kept"
    assert list(tmp_path.iterdir()) == [path]


def test_times_that_go_back_are_sorted_where_asked(tmp_path):
    path = tmp_path / "back.bin"
    path.write_bytes(bytes([1, 1, 0, 0, 9, 2, 2, 0, 0, 3]))
    with pytest.raises(EventFileError, match="got 3 after 9"):
        read_events(path)
    assert read_events(path, order="sort").x.tolist() == [2, 1]


def test_a_folder_has_sorted_classes_and_files(tmp_path):
    for label in ("2", "10", "1", "empty"):
        (tmp_path / label).mkdir()
    for place in ("2/b.bin", "2/a.bin", "10/c.bin", "1/d.bin", "2/.hidden.bin", "2/notes.txt"):
        (tmp_path / place).write_bytes(bytes([3, 3, 0, 0, 9]))
    folder = EventFolder(tmp_path)
    assert folder.classes == ["1", "10", "2"]
    names = [f"{file.parent.name}/{file.name}" for file in folder.files]
    assert names == ["1/d.bin", "10/c.bin", "2/a.bin", "2/b.bin"]
    assert [label for _, label in folder] == [0, 1, 2, 2]
    assert EventFolder(tmp_path, transform=len)[0] == (1, 0)


def test_a_damaged_file_of_a_folder_is_named_when_its_turn_comes(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "good.bin").write_bytes(bytes([3, 3, 0, 0, 9]))
    (tmp_path / "a" / "poor.bin").write_bytes(bytes([3, 3, 0, 0]))
    folder = EventFolder(tmp_path)
    assert len(folder[0][0]) == 1
    with pytest.raises(EventFileError, match=r"poor\.bin: byte 0"):
        folder[1]


def test_a_folder_without_recordings_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must have sub-folders"):
        EventFolder(tmp_path)
    with pytest.raises(FileNotFoundError):
        EventFolder(tmp_path / "none")
    (tmp_path / "Train" / "3").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"files of [^;]*$"):
        EventFolder(tmp_path)
    write_events(some_events(0), tmp_path / "Train" / "3" / "a.raw", format="evt3")
    with pytest.raises(ValueError, match=r"must have sub-folders .*; give .*Train, which has"):
        EventFolder(tmp_path)


def test_a_folder_of_real_recordings_has_ten_classes(data_dir):
    folder = EventFolder(data_dir / "nmnist-small" / "Train")
    assert len(folder) == 600
    assert folder.classes == [str(digit) for digit in range(10)]
    events, label = folder[599]
    assert (events.width, label) == (34, 9)


def gesture_files(folder, table):
    events = Events([1, 2, 3], [1, 1, 1], [100, 200, 300], [1, 0, 1], width=128, height=128)
    path = folder / "user01.aedat"
    write_events(events, path, format="aedat3")
    (folder / "user01_labels.csv").write_text(table)
    return path


def test_gestures_are_the_spans_of_their_table(tmp_path):
    table = "class,startTime_usec,endTime_usec\n3,100,250\n11,250,400\n"
    gestures = read_gestures(gesture_files(tmp_path, table))
    assert [(events.x.tolist(), label) for events, label in gestures] == [([1, 2], 2), ([3], 10)]


@pytest.mark.parametrize(
    "table, offset",
    [("class;start\n", 0), ("class,startTime_usec,endTime_usec\n3,100,250\n4,x,5\n", 44),
     ("class,startTime_usec,endTime_usec\n0,100,250\n", 34),
     ("class,startTime_usec,endTime_usec\n1,300,250\n", 34)],
)  # fmt: skip
def test_a_table_of_gestures_that_makes_no_sense_is_refused(table, offset, tmp_path):
    with pytest.raises(EventFileError, match=r"user01_labels\.csv") as caught:
        read_gestures(gesture_files(tmp_path, table))
    assert caught.value.offset == offset


def spoken(seed):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(0, 10**6, 30))
    ones = np.ones(30, bool)
    return Events(rng.integers(0, 700, 30), 0 * t, t, ones, width=700, height=1)


def test_spoken_digits_are_read_again_one_at_a_time(tmp_path):
    pytest.importorskip("h5py", reason="the extra spike-ops[events] is not installed")
    recordings = [spoken(0), Events.empty(width=700, height=1), spoken(1)]
    write_recordings(recordings, [3, 0, 19], tmp_path / "digits.h5")
    held = SpikeRecordings(tmp_path / "digits.h5")
    assert len(held) == 3
    assert [held[index] for index in range(3)] == list(zip(recordings, [3, 0, 19], strict=True))
    assert held[-1] == held[2]
    with pytest.raises(IndexError):
        held[3]


@pytest.mark.parametrize(
    "seed, labels, error, rule",
    [(0, [-1], ValueError, "labels must be in 0..65535, got -1..-1"),
     (0, [70_000], ValueError, "labels must be in 0..65535, got 70000..70000"),
     (0, [1.5], TypeError, "labels must be whole numbers, got float64"),
     (None, [1], ValueError, "t must be in 0..1000000000000 - 1"),
     (10**12, [1], ValueError, "t must be in 0..1000000000000 - 1"),
     (0, [1, 2], ValueError, "must have one length")],
)  # fmt: skip
def test_recordings_that_could_not_be_read_again_leave_the_file_as_it_was(
    seed, labels, error, rule, tmp_path
):
    pytest.importorskip("h5py", reason="the extra spike-ops[events] is not installed")
    path, good = tmp_path / "digits.h5", spoken(0)
    write_recordings([good], [65_535], path)
    held = path.read_bytes()
    late = good.t - 10**6 if seed is None else good.t + seed
    with pytest.raises(error, match=rule):
        write_recordings([good.like(good.x, good.y, late, good.p)], labels, path)
    assert path.read_bytes() == held
    assert SpikeRecordings(path)[0] == (good, 65_535)


def test_recordings_whose_writing_fails_leave_the_file_as_it_was(tmp_path, monkeypatch):
    pytest.importorskip("h5py", reason="the extra spike-ops[events] is not installed")
    from spike_ops.events import _recordings

    path = tmp_path / "digits.h5"
    write_recordings([spoken(0)], [1], path)
    held = path.read_bytes()
    monkeypatch.setattr(_recordings, "_labels", lambda labels: object())
    with pytest.raises(TypeError, match="HDF5 equivalent"):
        write_recordings([spoken(1)], [2], path)
    assert path.read_bytes() == held
    assert [each.name for each in tmp_path.iterdir()] == ["digits.h5"]


def test_files_that_are_not_of_spoken_digits_are_refused(tmp_path):
    h5py = pytest.importorskip("h5py", reason="the extra spike-ops[events] is not installed")
    (tmp_path / "a.h5").write_bytes(b"no HDF5")
    with pytest.raises(EventFileError, match="must be whole, HDF5 of recordings"):
        SpikeRecordings(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["labels"] = [1]
    with pytest.raises(EventFileError, match="spikes/times|must be whole"):
        SpikeRecordings(tmp_path / "b.h5")
    write_recordings([spoken(0)], [1], tmp_path / "c.h5")
    for field, value, rule in (("units", 700, "units"), ("times", np.nan, "times")):
        with h5py.File(tmp_path / "c.h5", "r+") as file:
            row = file[f"spikes/{field}"][0]
            row[3] = value
            file[f"spikes/{field}"][0] = row
        with pytest.raises(EventFileError, match=f"the {rule} of recording 0"):
            SpikeRecordings(tmp_path / "c.h5")[0]


def test_a_file_that_crashes_the_library_of_its_format_is_refused(tmp_path, monkeypatch):
    pytest.importorskip("h5py", reason="the extra spike-ops[events] is not installed")
    from spike_ops.events import _recordings

    write_recordings([spoken(0)], [1], tmp_path / "a.h5")
    whole = SpikeRecordings(tmp_path / "a.h5", check=False)
    assert whole[0] == (spoken(0), 1)
    monkeypatch.setattr(_recordings, "READ_ALL", "import os; os.kill(os.getpid(), 11)")
    with pytest.raises(EventFileError, match="crashes on it \\(signal 11\\)"):
        SpikeRecordings(tmp_path / "a.h5")


def test_a_missing_extra_is_named(monkeypatch, tmp_path):
    import sys

    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"spike-ops\[events\]"):
        SpikeRecordings(Path(tmp_path) / "x.h5")
