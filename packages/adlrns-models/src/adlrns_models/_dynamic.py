"""What dynamic layers have in common: nested factors and a gate that decides how many run."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from adlrns_models import _again, _observe, _record
from adlrns_models._again_memory import Basis, Memory
from adlrns_models._checks import check_int
from adlrns_models._dynamic_budget import (
    Budget,
    Ceiling,
    Scheduler,
    check_scheduler,
    check_unit,
    scheduled,
)
from adlrns_models._dynamic_factors import Factors
from adlrns_models._dynamic_kind import DynamicKind
from adlrns_models._gate import Decision, Gate, at_rank, complexity, make_gate
from adlrns_models._gate_energy import gram_of, rows_of, truncation_errors
from rank_sched import PerfEstimator

GRANULARITIES = ("call", "sample")


class DynamicOptions(NamedTuple):
    """How a dynamic layer decides; the keywords of every such layer.

    Attributes:
        gate: ``"spectral"``, ``"learned"``, ``"block"`` or a :class:`Gate`.
        granularity: ``"call"``, one rank for all that a call is given, or ``"sample"``.
        scorer_hidden: width of the scorer of gates that learn.
        num_gate_blocks: blocks that a block gate opens and closes.
        scheduler: has the last word on the rank, within the budget; None leaves it to the gate.
        estimator: predicts costs; None is a desktop CPU's.
        budget_unit: of budgets given without a unit.
    """

    gate: str | Gate = "spectral"
    granularity: str = "call"
    scorer_hidden: int = 32
    num_gate_blocks: int = 8
    scheduler: Scheduler | None = None
    estimator: PerfEstimator | None = None
    budget_unit: str = "energy_mj_per_sample"


class DynamicLayer(DynamicKind):
    """A layer of nested factors that decides its rank at every call.

    ``y = up[:, :r] @ (down[:r] @ x + inner_bias[:r]) + outer_bias``; the gate reads ``r`` from the
    input, at most what the budget affords, at least ``r_min``. Subclasses say how the two products
    are run and what a sample costs.
    """

    _cap: Tensor

    def __init__(
        self, factors: Factors, weight_shape: tuple[int, ...], r_min: int, options: DynamicOptions
    ):
        super().__init__(factors, weight_shape)
        self.r_min = min(r_min, self.max_rank)
        if options.granularity not in GRANULARITIES:
            raise ValueError(
                f"granularity must be one of {GRANULARITIES}, got {options.granularity!r}"
            )
        self.granularity = options.granularity
        self.budget_unit = check_unit("budget_unit", options.budget_unit)
        self.scheduler = check_scheduler(options.scheduler)
        self._scheduler_state, self._steps = None, 0
        self._scheduled_rank: int | None = None
        self._estimator = options.estimator
        self.gate = make_gate(options, self.max_rank, self.r_min, factors.down)
        self._last: Decision | None = None
        self._memory = Memory()
        # once it has been: graphs are compiled anew then, and checkpointing would run another one
        self._recorded = False
        self._repeats: Basis | None = None
        self._sample: tuple[int, ...] = self._smallest_sample()
        self._forced: int | None = None
        self._budget: Budget | None = None
        # compiled graphs read the buffer, eager code the number
        self._ceiling = Ceiling(self.max_rank, self._sample)
        cap = torch.tensor(self.max_rank, device=self.up.device)
        self.register_buffer("_cap", cap, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        """Returns the layer's output at the rank that input and budget call for."""
        if self.scheduler is not None and torch.compiler.is_compiling():
            return self._outside_of_graphs(input)
        return self._decided(input)[0]

    @torch.compiler.disable  # a scheduler is Python with a state
    def _outside_of_graphs(self, input: Tensor) -> Tensor:
        return self._decided(input)[0]

    def _decided(self, input: Tensor) -> tuple[Tensor, Decision]:
        """Returns the output and what was decided for it."""
        self._check(input)
        x = input if self._is_batch(input) else input[None]
        if torch.compiler.is_compiling():
            y, decision = self._at(x, self._forced, self._limit(x))
        else:
            y, decision = _again.decided(self, x)
        self._keep(x, decision)
        return y if x is input else y[0], decision

    def _at(self, x: Tensor, forced: int | None, limit: int | Tensor) -> tuple[Tensor, Decision]:
        return self._asked(x, limit) if forced is None else at_rank(self, x, forced)

    def _asked(self, x: Tensor, limit: int | Tensor) -> tuple[Tensor, Decision]:
        """Returns what the gate gives."""
        if torch.compiler.is_compiling() or not _observe.vmapped():
            return self.gate(self, x, limit)
        try:
            return self.gate(self, x, limit)
        except RuntimeError as error:
            raise RuntimeError(
                f"{type(self).__name__}: its {type(self.gate).__name__} could not decide under "
                "vmap, for the reason above; force_rank() decides for it"
            ) from error

    def _keep(self, x: Tensor, decision: Decision) -> None:
        if torch.compiler.is_compiling() or not _observe.aside():
            self._last = decision.without_graph()
        _record.note(self, x, decision)

    def at_rank(self, x: Tensor, rank: int | None = None) -> Tensor:
        """Returns the output at a rank of your choice, full rank for None; no gate is asked."""
        r = self.max_rank if rank is None else check_int("rank", rank, 1, self.max_rank)
        self._check(x)
        batch = x if self._is_batch(x) else x[None]
        y = self.outer(self.inner(batch, 0, r))
        return y if batch is x else y[0]

    def complexity(self, x: Tensor) -> Tensor:
        """Returns ``s(x)`` in 0..1 for each sample, or one number for a single one.

        The mean over ranks ``1..R-1`` of the share of the output's energy that truncation loses,
        ``|y_R - y_r|^2 / |y_R - outer_bias|^2``.
        """
        self._check(x)
        batch = x if self._is_batch(x) else x[None]
        rows = rows_of(self, self.inner(batch, 0, self.max_rank))
        s = complexity(truncation_errors(rows, gram_of(self.up)))
        return s if batch is x else s[0]

    # what is decided

    @property
    def last_rank(self) -> int | Tensor:
        """The rank of the last call; one per sample where the layer decides for each.

        Raises:
            RuntimeError: before the first call.
        """
        return self._rank_of(self.decision)

    def _rank_of(self, decision: Decision) -> int | Tensor:
        rank = decision.rank
        return int(rank) if isinstance(rank, Tensor) and self.granularity == "call" else rank

    @property
    def decision(self) -> Decision:
        """What the gate decided at the last call, with what it took; without a gradient.

        Raises:
            RuntimeError: before the first call.
        """
        if self._last is None:
            raise RuntimeError("the layer has decided nothing yet: call it first")
        return self._last

    def _limit(self, x: Tensor) -> int | Tensor:
        if torch.compiler.is_compiling():
            return self._cap
        sample = self._sample_of(x)
        if sample != self._ceiling.sample:
            self._sample = sample
            self._set_ceiling()
        return self._ceiling.rank

    def _set_ceiling(self) -> None:
        rank = self.max_rank if self._budget is None else self._budget.affords(self)
        self._ceiling = Ceiling(rank, self._sample)
        # what inference mode made may not be written outside of it
        closed = self._cap.is_inference() and not torch.is_inference_mode_enabled()
        if closed or self._cap.device != self.up.device:
            self._cap = torch.empty_like(self._cap, device=self.up.device)
        with torch._C._DisableFuncTorch():  # a transform refuses, but it has no part in this
            self._cap.fill_(rank)

    def set_budget(self, amount: float | None, *, unit: str | None = None, batch: int = 1) -> None:
        """Lets the layer spend at most ``amount`` for a sample from now on; None lifts the limit.

        The rank is then the largest whose predicted cost fits, at most what the gate asks for. A
        budget below the cost of ``r_min`` is not met: the layer runs at ``r_min``. What the gate
        keeps of the factors is computed anew.

        Args:
            amount: in ``unit``.
            unit: ``"energy_mj_per_sample"``, ``"latency_s"`` or ``"flops"`` (a share of the dense
                layer's); None is the layer's ``budget_unit``.
            batch: samples of the calls that costs are predicted for. They share a call's launches
                and the reading of its weights; alone, a sample pays for both.

        Raises:
            ValueError, TypeError: for an unknown unit, an amount that is negative or no number, or
                a batch below 1.
        """
        budget = None
        if amount is not None:
            budget = Budget.of(amount, unit or self.budget_unit, batch, name="amount")
        self.gate.forget()
        self._spend_at_most(budget)

    def _spend_at_most(self, budget: Budget | None) -> None:
        self._budget = budget
        self._set_ceiling()

    def force_rank(self, rank: int | None) -> None:
        """Runs every call at ``rank``, whatever input and budget say; None asks the gate again.

        Raises:
            ValueError, TypeError: unless ``rank`` is None or an integer in ``1..R``.
        """
        self._forced = None if rank is None else check_int("rank", rank, 1, self.max_rank)

    def scheduled(self, complexity: Tensor, ceiling: int) -> int:
        """Returns the rank the scheduler allows for inputs of this complexity, within bounds."""
        return scheduled(self, complexity, ceiling)

    @property
    def estimator(self) -> PerfEstimator:
        """What predicts the layer's costs."""
        if self._estimator is None:
            self._estimator = PerfEstimator("desktop-cpu")
        return self._estimator

    # state

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "DynamicLayer":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self._last = None
        self._set_ceiling()  # costs depend on the size of a number
        return self

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._set_ceiling()  # the parameters may be others now

    def __getstate__(self) -> dict[str, Any]:
        # a copy has decided nothing yet
        fresh = {"_last": None, "_memory": Memory(), "_recorded": False}
        return {**self.__dict__, **fresh}

    def extra_repr(self) -> str:
        """Returns sizes and ranks for ``print(layer)``."""
        m, n = self.sizes
        return f"{n} -> {m}, r_min={self.r_min}, r_max={self.max_rank}, {self.granularity}"


def check_ranks(r_max: int, r_min: int) -> None:
    """Raises unless ``1 <= r_min <= r_max``."""
    check_int("r_max", r_max, 1)
    check_int("r_min", r_min, 1, r_max)
