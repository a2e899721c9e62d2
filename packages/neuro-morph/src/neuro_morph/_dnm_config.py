"""The settings of :class:`DNMFramework`, checked."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from math import isfinite
from typing import Any

STRATEGIES = ("gradient_based", "activation_based", "hybrid")
BOTTLENECK_METRICS = (
    "gradient_variance",
    "activation_diversity",
    "information_flow",
    "performance_sensitivity",
)
_LEAST = {
    "morphogenesis_interval": 1,
    "max_morphogenesis_per_epoch": 1,
    "progressive_activation_epochs": 0,
    "max_architecture_changes": 0,
}
_SIZES = ("performance_improvement_threshold", "division_noise_scale", "performance_drop_threshold")


@dataclass(frozen=True)
class DNMConfig:
    """When, where and how :class:`DNMFramework` grows a network.

    Args:
        morphogenesis_interval: epochs between two questions whether to grow.
        max_morphogenesis_per_epoch: changes that one epoch may bring.
        performance_improvement_threshold: growth is asked for when the held-out metric has
            improved less than this over the interval.
        neuron_division_strategy: which units divide: those with the largest gradients
            (``"gradient_based"``), those that vary most (``"activation_based"``), or both
            (``"hybrid"``).
        division_noise_scale: noise of new units, over the root mean square of their parents' rows.
        progressive_activation_epochs: epochs over which new units come in; 0 for at once.
        bottleneck_detection_metrics: what the groups that are too small are found by.
        rollback_enabled: whether a change after which the performance falls is undone.
        performance_drop_threshold: how far it has to fall for that.
        max_architecture_changes: changes that one run may keep.

    Raises:
        TypeError: for a value of the wrong type, by its name.
        ValueError: for a value out of range, by its name.
    """

    morphogenesis_interval: int = 3
    max_morphogenesis_per_epoch: int = 1
    performance_improvement_threshold: float = 0.01
    neuron_division_strategy: str = "hybrid"
    division_noise_scale: float = 0.1
    progressive_activation_epochs: int = 5
    bottleneck_detection_metrics: tuple[str, ...] = BOTTLENECK_METRICS
    rollback_enabled: bool = True
    performance_drop_threshold: float = 0.05
    max_architecture_changes: int = 10

    def __post_init__(self) -> None:
        for name, least in _LEAST.items():
            _check_count(name, getattr(self, name), least)
        for name in _SIZES:
            _check_size(name, getattr(self, name))
        if not isinstance(self.rollback_enabled, bool):
            raise TypeError(
                f"rollback_enabled must be True or False, got {self.rollback_enabled!r}"
            )
        if self.neuron_division_strategy not in STRATEGIES:
            raise ValueError(
                f"neuron_division_strategy must be one of {', '.join(STRATEGIES)}; got "
                f"{self.neuron_division_strategy!r}"
            )
        metrics = _check_metrics(self.bottleneck_detection_metrics)
        object.__setattr__(self, "bottleneck_detection_metrics", metrics)

    @classmethod
    def of(cls, given: "Mapping[str, Any] | DNMConfig | None") -> "DNMConfig":
        """Returns settings from a mapping; what is not in it has its default.

        Raises:
            TypeError: if ``given`` is no mapping, or a value is of the wrong type.
            ValueError: for a key that is not known, or a value out of range.
        """
        if isinstance(given, cls):
            return given
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"config must be a mapping, got {type(given).__name__}")
        known = [field.name for field in fields(cls)]
        for key in given or ():
            if key not in known:
                raise ValueError(f"config must have keys among {', '.join(known)}; got {key!r}")
        return cls(**(given or {}))


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value!r}")


def _check_size(name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, got {value!r}")
    if not isfinite(value) or value < 0:
        raise ValueError(f"{name} must be finite and at least 0, got {value!r}")


def _check_metrics(given: Any) -> tuple[str, ...]:
    if isinstance(given, str) or not isinstance(given, list | tuple):
        raise TypeError(f"bottleneck_detection_metrics must be a list of names, got {given!r}")
    wrong = [name for name in given if name not in BOTTLENECK_METRICS]
    if wrong or not given:
        raise ValueError(
            f"bottleneck_detection_metrics must be among {', '.join(BOTTLENECK_METRICS)}, at least "
            f"one of them; got {wrong[0] if wrong else given!r}"
        )
    return tuple(dict.fromkeys(given))
