"""How a layer adapts its rank: every knob, with its meaning and its check."""

from dataclasses import asdict, dataclass
from typing import Any

from adlrns_models._checks import check_bool, check_fraction, check_int
from rank_sched import RankController

BACKENDS = ("auto", "cpu", "gpu")

# the rank is left alone while its loss lies between this part of eps and eps itself
DEAD_ZONE = 0.8


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """The rules by which a layer watches its inputs and moves its rank.

    Attributes:
        eps: largest allowed share of the output's energy that truncation may lose, ``0..1``.
        r_min: smallest rank.
        r_max: largest rank; also the number of directions allocated.
        adapt_every: forward passes between two looks at the rank.
        grow_step: largest growth at one look.
        shrink_step: largest shrinkage at one look.
        sketch_size: rows of the sketch of the inputs.
        include_conv: whether ``nn.Conv2d`` layers are wrapped too.
        freeze_during_eval: neither watch nor adapt in ``eval()`` mode.
        adapt_cooldown: forward passes after a change in which the rank stays.
        sample_stride: of the rows (or convolution patches) offered, only every so-manieth counts.
        max_rows_fd: largest number of rows taken from one forward pass.
        svd_backend: where decompositions run: ``"cpu"``, ``"gpu"``, or ``"auto"`` for the layer's
            own device, and the CPU if that fails.

    Raises:
        ValueError, TypeError: for a value outside its range or of the wrong type.

    Example:
        >>> from adlrns_models import AdaptConfig
        >>> AdaptConfig(eps=0.02).r_max
        128
    """

    eps: float = 0.08
    r_min: int = 4
    r_max: int = 128
    adapt_every: int = 50
    grow_step: int = 16
    shrink_step: int = 32
    sketch_size: int = 256
    include_conv: bool = True
    freeze_during_eval: bool = True
    adapt_cooldown: int = 10
    sample_stride: int = 1
    max_rows_fd: int = 2048
    svd_backend: str = "auto"

    def __post_init__(self) -> None:
        check_fraction("eps", self.eps)
        check_int("r_min", self.r_min, 0)
        check_int("r_max", self.r_max, max(1, self.r_min))
        for name in ("adapt_every", "grow_step", "shrink_step", "sketch_size", "sample_stride"):
            check_int(name, getattr(self, name), 1)
        check_int("max_rows_fd", self.max_rows_fd, 1)
        check_int("adapt_cooldown", self.adapt_cooldown, 0)
        check_bool("include_conv", self.include_conv)
        check_bool("freeze_during_eval", self.freeze_during_eval)
        if self.svd_backend not in BACKENDS:
            raise ValueError(f"svd_backend must be one of {BACKENDS}, got {self.svd_backend!r}")

    def controller(self, max_rank: int) -> RankController:
        """Returns the rules for a layer that has ``max_rank`` directions."""
        return RankController(
            min(self.r_min, max_rank),
            max_rank,
            grow_step=self.grow_step,
            shrink_step=self.shrink_step,
            cooldown=self.adapt_cooldown,
        )

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as plain values, for a file."""
        return asdict(self)
