"""Products of spikes: linear, convolutions, attention; which way they go, and why."""

from spike_ops.functional._attention import spike_attention
from spike_ops.functional._conv import conv1d, conv2d, conv3d, explain_conv
from spike_ops.functional._linear_lif import linear_lif
from spike_ops.functional._mm import explain, linear, spike_mm

__all__ = [
    "spike_mm",
    "linear",
    "linear_lif",
    "conv1d",
    "conv2d",
    "conv3d",
    "spike_attention",
    "explain",
    "explain_conv",
]
