"""Metrics of groups that are too small; importing this fills the table."""

from neuro_morph._metrics import (
    _activation_diversity as _activation_diversity,
    _gains as _gains,
    _gradient_variance as _gradient_variance,
    _information_flow as _information_flow,
    _north as _north,
    _performance_sensitivity as _performance_sensitivity,
    _stable_rank_per_width as _stable_rank_per_width,
)
from neuro_morph._metrics._metric import METRICS as METRICS, Metric as Metric
