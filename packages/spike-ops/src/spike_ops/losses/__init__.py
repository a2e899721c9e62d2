"""Losses over spikes and membranes, and regularisers of firing rates."""

from spike_ops.losses._classes import ce_count, ce_max_membrane, ce_rate, mse_count, tet
from spike_ops.losses._rates import rate_above, rate_below, rate_l1, rate_l2
from spike_ops.losses._times import spike_time_mse, van_rossum, van_rossum_distance

__all__ = [
    "ce_rate",
    "ce_count",
    "mse_count",
    "ce_max_membrane",
    "tet",
    "spike_time_mse",
    "van_rossum",
    "van_rossum_distance",
    "rate_l1",
    "rate_l2",
    "rate_above",
    "rate_below",
]
