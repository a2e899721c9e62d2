"""Spoken digits and commands as spikes (SHD and SSC): many recordings in one HDF5 file."""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from spike_ops._hdf5 import why_unreadable
from spike_ops._whole import whole
from spike_ops.events._errors import Broken, EventFileError
from spike_ops.events._events import Events

CHANNELS = 700
LONGEST_S = 1e6
READ_ALL = """
import sys, h5py
with h5py.File(sys.argv[1], "r") as file:
    for name in ("labels", "spikes/times", "spikes/units"):
        for row in file[name]:
            pass
"""
# what h5py raises for files that do not hold what is looked for
UNREADABLE = (OSError, KeyError, TypeError, ValueError, RuntimeError)


class SpikeRecordings(Dataset[tuple[Events, int]]):
    """Return the recordings of an SHD or SSC file (`.h5`), read when asked for.

    Recording i is `recordings[i]`: events of a sensor with one row of 700 channels (x the channel,
    all on) and the label. Needs h5py (`pip install 'spike-ops[events]'`), whose own library reads
    the file. Damaged files can crash that library, and the process with it; `check` finds them out.

    Args:
        path: The file.
        check: Read everything once in a process of its own first, so that what crashes there is
            refused here. Leave it out for files that are known to be whole.

    Raises:
        EventFileError: The file is no such file; a recording breaks a rule, when it is asked for.
        ImportError: h5py is not installed.

    Source: B. Cramer et al., "The Heidelberg spiking data sets for the systematic evaluation of
    spiking neural networks", IEEE TNNLS 2022.
    """

    def __init__(self, path: str | Path, *, check: bool = True) -> None:
        self.path = Path(path)
        self._file: Any = None
        _h5py()
        if not self.path.is_file():
            raise FileNotFoundError(f"path must be a file, got {self.path}")
        if check and (reason := why_unreadable(self.path, READ_ALL)):
            raise self._broken(f"the file must be whole, HDF5 of recordings: {reason}")
        held = self._open()
        try:
            labels = np.asarray(held["labels"])
            lengths = {len(labels), len(held["spikes/times"]), len(held["spikes/units"])}
        except UNREADABLE as error:
            raise self._broken(
                f"labels, spikes/times and spikes/units must be there: {error}"
            ) from error
        if len(lengths) > 1 or labels.dtype.kind not in "iu":
            raise self._broken(f"times, units and integer labels must have one length: {lengths}")
        self.labels = labels.astype(np.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Events, int]:
        """Return the events and the label of a recording."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"index must be in 0..{len(self) - 1}, got {index}")
        index %= len(self)
        held = self._open()
        try:
            times, units = held["spikes/times"][index], held["spikes/units"][index]
        except UNREADABLE as error:
            rule = f"recording {index} must be readable: {error}"
            raise self._broken(rule) from error
        return self._events(np.asarray(times), np.asarray(units), index), int(self.labels[index])

    def __getstate__(self) -> dict[str, Any]:
        # a worker opens the file again
        return {**self.__dict__, "_file": None}

    def _events(self, times: np.ndarray[Any, Any], units: np.ndarray[Any, Any], index: int) -> Any:
        floats, integers = times.dtype.kind == "f", units.dtype.kind in "iu"
        if times.shape != units.shape or times.ndim != 1 or not (floats and integers):
            raise self._broken(f"recording {index} must have one unit for each time")
        seconds = times.astype(np.float64)
        if not ((seconds >= 0) & (seconds < LONGEST_S)).all():
            raise self._broken(f"the times of recording {index} must be seconds from 0")
        if not ((units >= 0) & (units < CHANNELS)).all():
            raise self._broken(f"the units of recording {index} must be below {CHANNELS}")
        t, none = np.rint(seconds * 1e6).astype(np.int64), np.zeros(len(units), np.int64)
        return Events.sorted(units.astype(np.int64), none, t, none == 0, width=CHANNELS, height=1)

    def _open(self) -> Any:
        if self._file is None:
            h5py = _h5py()
            try:
                self._file = h5py.File(self.path, "r")
            except UNREADABLE as error:
                raise self._broken(f"the file must be HDF5: {error}") from error
        return self._file

    def _broken(self, rule: str) -> EventFileError:
        return Broken(0, rule).in_file(self.path)


def write_recordings(recordings: Sequence[Events], labels: Sequence[int], path: str | Path) -> None:
    """Write recordings as an SHD file does: times in seconds, channels, labels.

    Times are kept as 64-bit floats, so that they come back exactly. The file is there whole or not
    at all, and what was there before stays until then.

    Args:
        recordings: Events of one row of at most 700 pixels, all on, from t = 0.
        labels: One for each recording, 0 to 65535.
        path: The file; what is there is replaced.

    Raises:
        TypeError: A label is not a whole number.
        ValueError: There is not one label for each recording, a label does not fit into 16 bits, a
            sensor has more than one row, or a time is negative or above eleven days.
        ImportError: h5py is not installed.
    """
    if len(recordings) != len(labels):
        got = f"{len(recordings)} and {len(labels)}"
        raise ValueError(f"recordings and labels must have one length, got {got}")
    for events in recordings:
        if events.height != 1 or events.width > CHANNELS or not events.p.all():
            raise ValueError(f"recordings must have {CHANNELS} channels, all on, got {events}")
        if len(events) and not 0 <= events.t[0] <= events.t[-1] < LONGEST_S * 1e6:
            raise ValueError(f"t must be in 0..{LONGEST_S * 1e6:.0f} - 1, got {events}")
    numbers = _labels(labels)
    h5py = _h5py()
    with whole(Path(path)) as part, h5py.File(part, "w") as file:
        shape = (len(recordings),)
        times = file.create_dataset("spikes/times", shape, h5py.vlen_dtype(np.float64))
        units = file.create_dataset("spikes/units", shape, h5py.vlen_dtype(np.uint16))
        for index, events in enumerate(recordings):
            times[index], units[index] = events.t / 1e6, events.x
        file["labels"] = numbers


def _labels(labels: Sequence[int]) -> np.ndarray[Any, Any]:
    given = np.asarray(labels)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"labels must be whole numbers, got {given.dtype}")
    if given.size and not 0 <= given.min() <= given.max() < 2**16:
        raise ValueError(f"labels must be in 0..65535, got {given.min()}..{given.max()}")
    return given.astype(np.uint16)


def _h5py() -> Any:
    try:
        return importlib.import_module("h5py")
    except ImportError as error:
        raise ImportError("needs h5py, not installed: pip install 'spike-ops[events]'") from error
