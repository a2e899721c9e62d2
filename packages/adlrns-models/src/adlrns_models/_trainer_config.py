"""What a training run is told: every knob, with its meaning and its check."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from typing import Any

from adlrns_models._checks import check_int

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("constant", "cosine", "step", "plateau")
PRECISIONS = ("float32", "bfloat16", "float16")

# the sections of a nested configuration; those without fields here belong to others
_SECTIONS = ("model", "train", "scheduler", "hardware")
_BUDGET, _PUBLISHED = "energy_budget_mj_per_sample", "energy_budget_mJ_per_sample"
_OF_SCHEDULER = {
    "alpha": "alpha",
    "beta": "beta",
    _PUBLISHED: _BUDGET,
    _BUDGET: _BUDGET,
    "budget_batch": "budget_batch",
}
_SCHEDULER_OF_OTHERS = ("type", "r_min", "r_max")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The rules of a training run.

    Numbers may come as strings, as YAML reads ``1e-4``.

    Attributes:
        epochs: passes over the training data, where ``train`` is not told.
        batch_size: rows of a batch of ``train_loader``, checked where a loader tells its own.
        accumulate: batches whose gradients make one step of the optimizer.
        optimizer: ``"adamw"`` or ``"sgd"`` (with momentum 0.9).
        lr: learning rate, the highest one of a schedule.
        weight_decay: decoupled, of weights alone: not of biases and norms, nor of directions of
            nested factors in steps that did not use them.
        schedule: ``"constant"``; ``"cosine"`` to zero over all steps; ``"step"``: times ``gamma``
            every ``step_epochs``; ``"plateau"``: times ``gamma`` after ``step_epochs`` epochs
            without a better validation loss.
        warmup_steps: steps in which the learning rate rises from zero, linearly.
        gamma: see ``schedule``.
        step_epochs: see ``schedule``.
        clip_norm: largest norm of all gradients together; ``None`` leaves them.
        precision: ``"float32"``, or autocast to ``"bfloat16"`` or ``"float16"``, the latter with
            scaled losses.
        energy_penalty_weight: weight of the rank penalty.
        alpha: weight of the FLOPs in the rank penalty.
        beta: weight of the memory in the rank penalty.
        energy_budget_mj_per_sample: budget under which layers choose their ranks in training.
        budget_batch: samples of the calls that the budget is predicted for, which share their
            launches; ``None`` is ``batch_size``, or 1 without one.
        sandwich: how many ranks beside the gated pass each batch is trained at: the smallest
            first, then random ones, all taught by the full rank; 0 is off.
        distill_weight: weight of what the full rank teaches the others.
        patience: epochs without a better validation loss after which training stops.
        min_delta: what counts as better.
        seed: of data order and of everything random in training.
        max_bad_steps: steps in a row with a loss or gradient that is not finite, after which
            training fails. Such steps change nothing.
        checkpoint_every: steps between two checkpoints; one is written after each epoch anyway.
        keep_last: how many checkpoints stay, beside the best.

    Raises:
        ValueError, TypeError: for a value outside its range or of the wrong type.

    Example:
        >>> from adlrns_models import TrainConfig
        >>> TrainConfig.from_dict({"train": {"lr": "1e-4", "epochs": 3}}).lr
        0.0001
    """

    epochs: int = 10
    batch_size: int | None = None
    accumulate: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    weight_decay: float = 0.01
    schedule: str = "cosine"
    warmup_steps: int = 0
    gamma: float = 0.1
    step_epochs: int = 10
    clip_norm: float | None = 1.0
    precision: str = "float32"
    energy_penalty_weight: float = 0.0
    alpha: float = 1.0
    beta: float = 0.1
    energy_budget_mj_per_sample: float | None = None
    budget_batch: int | None = None
    sandwich: int = 0
    distill_weight: float = 1.0
    patience: int | None = None
    min_delta: float = 0.0
    seed: int = 0
    max_bad_steps: int = 10
    checkpoint_every: int | None = None
    keep_last: int = 2

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _typed(field.name, getattr(self, field.name)))
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be one of {allowed}, got {getattr(self, name)!r}")

    @classmethod
    def from_dict(cls, config: Mapping[str, Any]) -> "TrainConfig":
        """Returns the configuration that flat keys, or the sections of a nested one, stand for.

        Sections are ``train`` (these fields), ``scheduler`` (``alpha``, ``beta``,
        ``energy_budget_mJ_per_sample``, with ``mj`` too, and ``budget_batch``; its ``type``,
        ``r_min`` and ``r_max`` are for who builds the model, as is the section ``model``; the
        trainer has layers without an estimator predict for ``hardware``).

        Raises:
            ValueError: naming an unknown key.
        """
        if not isinstance(config, Mapping):
            raise TypeError(f"config must be a TrainConfig or a dict, got {type(config).__name__}")
        if not any(name in _SECTIONS for name in config):
            return cls(**_known("", config))
        _refuse_unknown("", config, _SECTIONS)
        parts = {name: config.get(name) or {} for name in _SECTIONS}
        for name, part in parts.items():
            if not isinstance(part, Mapping):
                raise TypeError(f"{name} must be a dict, got {type(part).__name__}")
        values = _known("train.", parts["train"])
        _refuse_unknown("scheduler.", parts["scheduler"], (*_OF_SCHEDULER, *_SCHEDULER_OF_OTHERS))
        _refuse_both("scheduler.", parts["scheduler"])
        for key, field in _OF_SCHEDULER.items():
            if key in parts["scheduler"]:
                values[field] = parts["scheduler"][key]
        return cls(**values)

    @property
    def calls_of(self) -> int:
        """Samples of the calls that a budget is predicted for."""
        return self.budget_batch or self.batch_size or 1

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values, for a file."""
        return asdict(self)


_CHOICES = {"optimizer": OPTIMIZERS, "schedule": SCHEDULES, "precision": PRECISIONS}
_POSITIVE = (
    *("epochs", "batch_size", "accumulate", "step_epochs", "patience", "max_bad_steps"),
    "budget_batch",
)
_COUNTS = {
    **dict.fromkeys((*_POSITIVE, "checkpoint_every", "keep_last"), 1),
    **dict.fromkeys(("warmup_steps", "sandwich", "seed"), 0),
}
_OPTIONAL = (
    "batch_size",
    "clip_norm",
    "energy_budget_mj_per_sample",
    "budget_batch",
    "patience",
    "checkpoint_every",
)


def _typed(name: str, value: Any) -> Any:
    """Returns a checked field, numbers made of strings."""
    if name in _CHOICES or (value is None and name in _OPTIONAL):
        return value
    number = _number(name, value)
    if name in _COUNTS:
        # an integer as it came: a seed may have more digits than a float
        whole = value if isinstance(value, int) or not number.is_integer() else int(number)
        return check_int(name, whole, _COUNTS[name])
    low_allowed = name not in ("lr", "gamma", "clip_norm")
    if not (0.0 <= number < math.inf) or (number == 0.0 and not low_allowed):
        rule = "not negative" if low_allowed else "positive"
        raise ValueError(f"{name} must be finite and {rule}, got {value}")
    return number


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{name} must be a number, got {value!r}") from error


def _known(where: str, values: Mapping[str, Any]) -> dict[str, Any]:
    _refuse_unknown(where, values, [*(field.name for field in fields(TrainConfig)), _PUBLISHED])
    _refuse_both(where, values)
    return {_BUDGET if name == _PUBLISHED else name: value for name, value in values.items()}


def _refuse_both(where: str, values: Mapping[str, Any]) -> None:
    if _BUDGET in values and _PUBLISHED in values:
        raise ValueError(f"{where}{_BUDGET} must be given once, got {_PUBLISHED} too")


def _refuse_unknown(where: str, values: Mapping[str, Any], allowed: Any) -> None:
    for name in values:
        if name not in allowed:
            near = get_close_matches(str(name), allowed, 1)
            hint = f"did you mean {near[0]}? It " if near else ""
            raise ValueError(
                f"unknown key {where}{name}: {hint}must be one of {', '.join(allowed)}"
            )
