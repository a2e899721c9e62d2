"""Decoders: what spikes and membranes over time say."""

from spike_ops.decoding._decoders import (
    count,
    first_spike,
    last_membrane,
    max_membrane,
    pool,
    rate,
)

__all__ = ["count", "rate", "first_spike", "max_membrane", "last_membrane", "pool"]
