"""What a run is made with beside its rules: device, listeners, and the hardware costs are for."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from adlrns_models._callbacks import Callback
from adlrns_models._dynamic_scope import iter_dynamic_layers
from adlrns_models._trainer_config import TrainConfig
from adlrns_models._trainer_ranks import has_dynamic
from rank_sched import PerfEstimator

logger = logging.getLogger(__name__)


def check_device(device: torch.device | str) -> torch.device:
    """Returns a device that is here.

    Raises:
        ValueError: for one that torch does not know, or that is missing.
    """
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"device must be one that is here, got {device!r}: {said}") from None
    return found


def check_callbacks(callbacks: Sequence[Callback]) -> list[Callback]:
    """Returns the listeners.

    Raises:
        TypeError: for one that is none, such as a function or a class.
    """
    for number, callback in enumerate(callbacks):
        if not isinstance(callback, Callback):
            raise TypeError(f"callbacks[{number}] must be a Callback, got {callback!r}")
    return list(callbacks)


def tell_idle_keys(model: nn.Module, config: TrainConfig) -> None:
    """Logs the energy keys that a model without dynamic layers has no use for: a baseline may."""
    keys = ("energy_penalty_weight", "energy_budget_mj_per_sample")
    idle = [key for key in keys if getattr(config, key)]
    if idle and not has_dynamic(model):
        logger.warning("no effect on a model without dynamic layers: %s", ", ".join(idle))


def equip(model: nn.Module, config: Mapping[str, Any]) -> None:
    """Has dynamic layers predict for the ``hardware`` of a nested configuration.

    Layers that were given an estimator keep it. A policy that ``scheduler.type`` asks for is for
    who builds the model: where no layer has one, a log says so.

    Raises:
        ValueError, TypeError: for hardware that is none.
    """
    layers = list(iter_dynamic_layers(model))
    if table := dict(config.get("hardware") or {}):
        estimator = PerfEstimator(_with_unit(table))
        for layer in layers:
            layer._estimator = layer._estimator or estimator
    policy = (config.get("scheduler") or {}).get("type")
    if policy is not None and layers and all(layer.scheduler is None for layer in layers):
        logger.warning(
            "scheduler.type %r has no effect: no layer of the model has a scheduler; build it "
            "with scheduler=rank_sched.RankScheduler(%r, r_min, r_max)",
            policy,
            policy,
        )


def _with_unit(table: dict[str, Any]) -> dict[str, Any]:
    """Reads ``energy_per_flop``, as published configurations have it, as microjoules."""
    if "energy_per_flop" in table and "energy_per_flop_j" not in table:
        joules = 1e-6 * float(table.pop("energy_per_flop"))
        logger.warning("hardware.energy_per_flop has no unit, read as microjoules: %g J", joules)
        table["energy_per_flop_j"] = joules
    return table
