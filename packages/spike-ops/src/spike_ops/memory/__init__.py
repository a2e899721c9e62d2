"""Training with less memory: packed saved tensors, time in parts, gradients within a step."""

from spike_ops.memory._chunks import CheckpointedTime, backward_in_parts
from spike_ops.memory._online import OTTT, SLTT
from spike_ops.memory._packing import mark_spikes, packed_saved_tensors

__all__ = [
    "packed_saved_tensors",
    "mark_spikes",
    "CheckpointedTime",
    "backward_in_parts",
    "SLTT",
    "OTTT",
]
