"""When, where and how much a policy grows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import inf

from neuro_morph._candidates_layers import check_kinds
from neuro_morph._initial import UnitInit
from neuro_morph._score import DEFAULT_WEIGHTS, check_weights
from neuro_morph._tournament import COSTS
from neuro_morph._triggers import GeneralizationGap, GradientHealth, Plateau, Quorum


@dataclass(frozen=True)
class PolicySettings:
    """When, where and how much a policy grows.

    Args:
        quorum: the triggers that decide when.
        check_every: steps between two questions to them.
        measure_every: steps between two measurements of the units and the held-out loss; 0 for
            none.
        pause: steps after an attempt before the next; it doubles after each that fails.
        growth: the part of its units that a group is given.
        kinds: what may grow: of ``"widen"``, ``"deepen"`` and ``"connect"``, which take turns on
            the short list (see :func:`candidates`).
        short_list: how many candidates enter a tournament.
        together: whether all groups at once enter it as well.
        trial_steps: training steps of each trial.
        trial_share: the part of the run's work that all trials may take; None for no limit. It
            counts where the length of the run is known.
        per: what gains are weighed by (see :class:`Tournament`).
        score_batches: how many of the training batches scores are measured on.
        weights: of the metrics that make the short list.
        init: how new units begin; None for the best that is exact.
        total_steps: how many steps the run will have; the last part of it grows nothing.

    Raises:
        ValueError: if a number is out of range.
    """

    quorum: Quorum = field(
        default_factory=lambda: Quorum([Plateau(), GradientHealth(), GeneralizationGap()])
    )
    check_every: int = 10
    measure_every: int = 500
    pause: int = 200
    growth: float = 1.0
    kinds: Sequence[str] = ("widen",)
    short_list: int = 3
    together: bool = True
    trial_steps: int = 150
    trial_share: float | None = 0.1
    per: str | None = None
    score_batches: int = 8
    weights: Mapping[str, float] = field(default_factory=lambda: dict(DEFAULT_WEIGHTS))
    init: UnitInit | None = None
    total_steps: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.quorum, Quorum):
            raise TypeError(f"quorum must be a Quorum, got {type(self.quorum).__name__}")
        check_weights(self.weights)
        least = {"check_every": 1, "measure_every": 0, "pause": 0, "short_list": 1}
        for name, value in {**least, "trial_steps": 1, "score_batches": 1}.items():
            if getattr(self, name) < value:
                raise ValueError(f"{name} must be at least {value}, got {getattr(self, name)!r}")
        for name in ("growth", "trial_share"):
            if (given := getattr(self, name)) is not None and not 0.0 < given < inf:
                raise ValueError(f"{name} must be a finite number above 0, got {given!r}")
        check_kinds(self.kinds)
        if self.per not in COSTS:
            raise ValueError(f"per must be 'parameters', 'flops' or None, got {self.per!r}")
        if self.total_steps is not None and self.total_steps < 1:
            raise ValueError(f"total_steps must be at least 1, got {self.total_steps!r}")
