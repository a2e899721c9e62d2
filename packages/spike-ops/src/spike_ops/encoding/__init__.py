"""Encoders: values in, spikes over time out; and their inverses."""

from spike_ops.encoding._change import decode_delta, delta
from spike_ops.encoding._phase import (
    decode_phase,
    decode_weighted_phase,
    phase,
    weighted_phase,
)
from spike_ops.encoding._population import decode_population, population
from spike_ops.encoding._rate import (
    burst,
    decode_burst,
    decode_poisson,
    decode_rate,
    direct,
    poisson,
    rate,
)
from spike_ops.encoding._time import decode_latency, decode_ttfs, latency, ttfs

__all__ = [
    "rate",
    "decode_rate",
    "poisson",
    "decode_poisson",
    "direct",
    "burst",
    "decode_burst",
    "latency",
    "decode_latency",
    "ttfs",
    "decode_ttfs",
    "phase",
    "decode_phase",
    "weighted_phase",
    "decode_weighted_phase",
    "delta",
    "decode_delta",
    "population",
    "decode_population",
]
