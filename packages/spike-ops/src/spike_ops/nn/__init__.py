"""Layers of spiking networks; whatever is not here is torch's own, which take spikes as well.

Over time, [T, B, ...], torch's layers for batches (convolutions, pools, norms) stand in `Stepwise`.
"""

from spike_ops.nn._conv import Conv1d, Conv2d, Conv3d
from spike_ops.nn._linear import Linear
from spike_ops.nn._norms import (
    FeatureNorm,
    MembraneBatchNormLIF,
    TemporalEffectiveBatchNorm,
    ThresholdBatchNorm,
    TimeBatchNorm,
)
from spike_ops.nn._seed import BatchNorm2d, LayerNorm
from spike_ops.nn._sparse import SparseSynapse
from spike_ops.nn._stepwise import Stepwise

__all__ = [
    "Linear",
    "SparseSynapse",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "Stepwise",
    "BatchNorm2d",
    "LayerNorm",
    "TimeBatchNorm",
    "ThresholdBatchNorm",
    "TemporalEffectiveBatchNorm",
    "FeatureNorm",
    "MembraneBatchNormLIF",
]
