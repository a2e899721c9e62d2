"""Events of cameras and ears: files, edits, and tensors of them."""

from spike_ops.events._collate import EventBatch, collate
from spike_ops.events._edit import crop, denoise, drop, flip, jitter
from spike_ops.events._errors import EventFileError
from spike_ops.events._events import Events, concat
from spike_ops.events._files import event_formats, read_events, write_events
from spike_ops.events._folder import EventFolder
from spike_ops.events._frames import to_frames
from spike_ops.events._gestures import read_gestures
from spike_ops.events._grids import (
    to_local_surfaces,
    to_time_surface,
    to_time_surfaces,
    to_voxel_grid,
)
from spike_ops.events._recordings import SpikeRecordings, write_recordings

__all__ = [
    "Events",
    "concat",
    "crop",
    "flip",
    "drop",
    "jitter",
    "denoise",
    "read_events",
    "write_events",
    "event_formats",
    "EventFileError",
    "EventFolder",
    "read_gestures",
    "SpikeRecordings",
    "write_recordings",
    "to_frames",
    "to_voxel_grid",
    "to_time_surface",
    "to_time_surfaces",
    "to_local_surfaces",
    "EventBatch",
    "collate",
]
