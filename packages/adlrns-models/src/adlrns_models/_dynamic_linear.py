"""A linear layer that decides its rank at every call."""

from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models import _observe
from adlrns_models._checks import check_input, check_int, check_kind
from adlrns_models._dynamic import DynamicLayer, DynamicOptions, check_ranks
from adlrns_models._dynamic_budget import Budget, Scheduler
from adlrns_models._dynamic_factors import fresh, taken
from adlrns_models._factorize import Factorization, factorize
from adlrns_models._gate import Gate
from fd_sketch import CovarianceSketch
from lowrank_kernels import lowrank_linear, lowrank_linear_per_sample
from rank_sched import Cost, PerfEstimator


class DynamicLinear(DynamicLayer):
    """A drop-in ``nn.Linear`` whose rank follows its input and a budget.

    ``y = up[:, :r] @ (down[:r] @ x + inner_bias[:r]) + outer_bias``, ``r`` decided by the gate for
    each call or each sample (a slice of the first axis of ``x``; an ``x`` of one axis is one
    sample). The rank lies in ``r_min..r_max``, both at most the smaller of the two sizes.

    Args:
        in_features: n.
        out_features: m.
        r_max: directions of the factors, R.
        r_min: the least rank.
        bias: whether there are an inner and an outer bias.
        gate: ``"spectral"``, parameter-free with a bound on what is lost; ``"learned"``, a scorer
            that chooses among ranks; ``"block"``, blocks of directions that open and close; or a
            :class:`Gate`.
        granularity: ``"call"`` or ``"sample"``.
        scorer_hidden: width of the scorer of the gates that learn.
        num_gate_blocks: blocks of a block gate.
        scheduler: an object with ``init()`` and ``step(state, observation) -> (rank, state)``; the
            rank is at most what it says.
        estimator: predicts costs; None is that of a desktop CPU.
        budget_unit: unit of budgets given without one: ``"energy_mj_per_sample"``,
            ``"latency_s"`` or ``"flops"`` (a share of the dense layer's).
        device: of the parameters.
        dtype: of the parameters.

    Shapes: ``[..., in_features]`` to ``[..., out_features]``; ``down [R, in_features]``,
    ``up [out_features, R]``, ``inner_bias [R]``, ``outer_bias [out_features]``.

    Raises:
        ValueError, TypeError: for a size, rank, gate, granularity or unit that is none.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear
        >>> layer = DynamicLinear(64, 32, r_max=16)
        >>> layer(torch.randn(8, 64)).shape
        torch.Size([8, 32])
        >>> 4 <= layer.last_rank <= 16
        True
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        r_max: int = 64,
        r_min: int = 4,
        *,
        bias: bool = True,
        gate: str | Gate = "spectral",
        granularity: str = "call",
        scorer_hidden: int = 32,
        num_gate_blocks: int = 8,
        scheduler: Scheduler | None = None,
        estimator: PerfEstimator | None = None,
        budget_unit: str = "energy_mj_per_sample",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ):
        check_int("in_features", in_features, 1)
        check_int("out_features", out_features, 1)
        check_ranks(r_max, r_min)
        shape = (out_features, in_features)
        place = {"device": device, "dtype": dtype}
        options = DynamicOptions(
            gate,
            granularity,
            scorer_hidden,
            num_gate_blocks,
            scheduler,
            estimator,
            budget_unit,
        )
        super().__init__(fresh(shape, r_max, bias=bias, place=place), shape, r_min, options)

    @classmethod
    def from_linear(
        cls,
        linear: nn.Linear,
        *,
        factors: Factorization | None = None,
        sketch: CovarianceSketch | None = None,
        r_max: int | None = None,
        r_min: int = 4,
        **options: Any,
    ) -> Self:
        """Returns a layer that at full rank computes what the factors of ``linear`` do.

        Args:
            linear: its weight is factorised, it is not kept.
            factors: a factorisation at hand; ``sketch`` is then unused.
            sketch: of the layer's inputs; None orders directions by plain SVD.
            r_max: directions to keep; None keeps all, and with them the function.
            r_min: the least rank.
            **options: ``gate`` and the keywords after it.

        Raises:
            ValueError, TypeError: as for the class, and for a weight that is not finite.
        """
        check_kind("linear", linear, nn.Linear)
        shape = tuple(linear.weight.shape)
        size = min(shape) if r_max is None else r_max
        check_ranks(size, min(r_min, size) if r_max is None else r_min)
        found = factors or _factorized(linear, sketch, size)
        layer = cls.__new__(cls)
        parts = taken(found, shape, size, bias=linear.bias is not None)
        DynamicLayer.__init__(layer, parts, shape, r_min, DynamicOptions(**options))
        return layer.train(linear.training)

    @property
    def in_features(self) -> int:
        """Features of the input."""
        return self.weight_shape[1]

    @property
    def out_features(self) -> int:
        """Features of the output."""
        return self.weight_shape[0]

    def inner(self, x: Tensor, start: int, stop: int) -> Tensor:
        """Returns ``down[start:stop] @ x + inner_bias[start:stop]``."""
        bias = None if self.inner_bias is None else self.inner_bias[start:stop]
        return F.linear(x, self.down[start:stop], bias)

    def outer(self, z: Tensor) -> Tensor:
        """Returns ``up[:, :r] @ z + outer_bias`` for inner values of ``r`` directions."""
        return F.linear(z, self.up[:, : z.shape[-1]], self.outer_bias)

    def outer_at(self, z: Tensor, rank: Tensor) -> Tensor:
        """Returns ``up[:, :rank] @ z[:rank] + outer_bias``, for one rank or one per sample."""
        c = z.shape[-1]
        z = z.to(self.up.dtype)  # autocast lowers it again
        same = torch.eye(c, dtype=self.up.dtype, device=z.device)
        run = lowrank_linear_per_sample if rank.ndim else lowrank_linear
        return run(z, same, self.up[:, :c], self.outer_bias, rank)

    def at_ranks(self, x: Tensor, ranks: Tensor) -> Tensor:
        """Returns the output of a batch at a 0-dim rank, or at ``[N]``, one per sample."""
        run = lowrank_linear_per_sample if ranks.ndim else lowrank_linear
        return run(x, self.down, self.up, self.outer_bias, ranks, inner_bias=self.inner_bias)

    def run(self, x: Tensor, chosen: Tensor, bias: Tensor | None) -> Tensor:
        """Returns ``up[:, chosen] @ (down[chosen] @ x + inner_bias[chosen]) + bias``."""
        inner = None if self.inner_bias is None else self.inner_bias[chosen]
        return F.linear(F.linear(x, self.down[chosen], inner), self.up[:, chosen], bias)

    def input_energy(self, x: Tensor) -> Tensor:
        """Returns ``[N]`` float64, the squared norm of each sample, or no more than rounding above.

        Infinite where it leaves the range of the input's precision.
        """
        # all in float64 takes five times as long; a long sum in float32 stops growing
        dtype = torch.promote_types(x.dtype, torch.float32)
        norms = torch.linalg.vector_norm(x.detach(), dim=-1, keepdim=True, dtype=dtype)
        # squares of tiny numbers vanish, at most so much each
        hidden = x[:1].numel() * torch.finfo(dtype).tiny
        return norms.double().square().flatten(1).sum(1) + hidden

    def rows(self, x: Tensor, most: int) -> Tensor:
        """Returns at most so many rows ``[k, n]`` of an input, evenly spaced."""
        self._check(x)
        rows = x.reshape(-1, x.shape[-1])
        return rows[:: max(1, -(-len(rows) // most))]

    def cost(self, rank: int | None = None, *, batch: int = 1) -> Cost:
        """Returns the predicted cost of a call on samples of the size last seen; None is dense."""
        return self.estimator.linear(
            batch * self.rows_per_sample,
            self.in_features,
            self.out_features,
            rank,
            bias=self.outer_bias is not None,
            dtype_bytes=self.up.element_size(),
        )

    @property
    def rows_per_sample(self) -> int:
        """Rows of one sample of the size last seen; 1 before the first call."""
        return max(1, self._sample[0])

    def row_count(self, x: Tensor) -> int:
        """Returns how many rows a batch has."""
        return x.shape[:-1].numel()

    def _check(self, x: Tensor) -> None:
        check_input("input", x, self.up)
        if x.ndim == 0 or x.shape[-1] != self.in_features:
            raise ValueError(f"input must be [..., {self.in_features}], got {list(x.shape)}")

    def _is_batch(self, x: Tensor) -> bool:
        return x.ndim > 1

    def _sample_of(self, x: Tensor) -> tuple[int, ...]:
        return (x.shape[1:-1].numel(),)

    def _smallest_sample(self) -> tuple[int, ...]:
        return (1,)


def _factorized(linear: nn.Linear, sketch: CovarianceSketch | None, max_rank: int) -> Factorization:
    bias = None if linear.bias is None else linear.bias.detach()
    return factorize(linear.weight.detach(), bias, sketch, max_rank=max_rank)


class DynamicLowRankLayer(DynamicLinear):
    """A dynamic linear layer that takes a budget with its input and tells its rank.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLowRankLayer
        >>> layer = DynamicLowRankLayer(in_features=512, out_features=256, r_max=64, r_min=4)
        >>> y, rank = layer(torch.randn(32, 512), budget=5.0)  # mJ a sample, predicted
        >>> y.shape, 4 <= rank <= 64
        (torch.Size([32, 256]), True)
    """

    def forward(  # type: ignore[override]
        self, input: Tensor, budget: float | None = None
    ) -> tuple[Tensor, int | Tensor]:
        """Returns the output and the rank it was computed at.

        Args:
            input: ``[..., in_features]``.
            budget: what this call may spend on a sample, in the layer's ``budget_unit``; None is
                the budget in force. A budget below the cost of ``r_min`` gets ``r_min``.
        """
        before = self._budget
        if budget is not None:
            self._spend_at_most(Budget.of(budget, self.budget_unit))
        try:
            if torch.compiler.is_compiling() or not _observe.aside():
                return super().forward(input), self.last_rank
            return self._told(input)
        finally:
            if budget is not None:
                self._spend_at_most(before)

    @torch.compiler.disable
    def _told(self, input: Tensor) -> tuple[Tensor, int | Tensor]:
        """Returns output and rank of a call that is not the layer's last one."""
        y, decision = self._decided(input)
        return y, self._rank_of(decision)
