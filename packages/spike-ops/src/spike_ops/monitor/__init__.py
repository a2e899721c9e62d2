"""Monitors: what neurons do while a network runs, and plots of it."""

from spike_ops.monitor._activity import Activity
from spike_ops.monitor._monitor import Monitor
from spike_ops.monitor._plots import plot_raster, plot_traces
from spike_ops.monitor._trace import Trace

__all__ = ["Monitor", "Activity", "Trace", "plot_raster", "plot_traces"]
