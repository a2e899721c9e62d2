"""A gate without parameters: the least rank that keeps an input's output within a bound."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adlrns_models._checks import check_fraction
from adlrns_models._gate import (
    Decision,
    Gate,
    at_rank,
    complexity,
    plain_decision,
    smallest_rank,
)
from adlrns_models._gate_bounds import FactorBounds, kept_bounds
from adlrns_models._gate_energy import energies, finite_sum, gram_of, rows_of, truncation_errors
from adlrns_models._precision import epsilon_of

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer


class SpectralGate(Gate):
    """Picks the least rank ``r`` with ``|y_c - y_r| <= eps |y_c - outer_bias|``.

    ``y_c`` is the output at the ceiling that the budget sets, full rank without one; norms are over
    the rows of a sample, or of all samples of a call where the layer decides once a call (samples
    with nan or infinity then have no say). The inequality is not a guess: the inner values ``z``
    say what truncation loses, ``|y_c - y_r|^2 = sum_{i > r} z_i^2`` for orthonormal columns of
    ``up`` and a quadratic form in their Gram matrix for any others. It holds up to rounding,
    whatever training did to the factors.

    In training all of ``z`` is computed, and only the second product is cut to the rank. In
    ``eval`` mode the gate stops after the first ``r_min`` directions where these and the norm of
    the input prove that the rest stays below the bound; inputs for which they do not take the first
    product whole. The coarser the numbers of a product, the less it proves: under autocast, in half
    precision, or where ``torch.backends.fp32_precision`` shortens single precision.

    What the proof needs of the factors is kept while they stay. Optimizers and changes in place are
    noticed, changes through ``.data`` are not: set the layer's budget again after such.

    Args:
        eps: the share of the output's norm that may be lost, 0..1. The default loses at most one
            hundredth of a layer's output energy.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, SpectralGate
        >>> layer = DynamicLinear(32, 32, r_max=16, r_min=1, gate=SpectralGate(0.3))
        >>> x = torch.randn(5, 32)
        >>> full = layer.at_rank(x)
        >>> lost = (full - layer(x)).norm() / (full - layer.outer_bias).norm()
        >>> bool(lost <= 0.3)
        True
    """

    is_steady = True

    def __init__(self, eps: float = 0.1):
        super().__init__()
        self.eps = check_fraction("eps", eps)
        self._kept: FactorBounds | None = None

    def forward(
        self, layer: "DynamicLayer", x: Tensor, ceiling: int | Tensor
    ) -> tuple[Tensor, Decision]:
        """Returns the layer's output at the least rank within the bound."""
        if isinstance(ceiling, Tensor):
            return self._in_a_graph(layer, x, ceiling)
        if ceiling <= layer.r_min:
            return at_rank(layer, x, ceiling)
        bounds = kept_bounds(self._kept, layer, ceiling)
        if bounds.key:  # others are for this call alone
            self._kept = bounds
        if layer.training or layer.scheduler is not None:
            z = layer.inner(x, 0, ceiling)
            return self._cut(layer, x, z, self._ranks(layer, z, bounds))
        return self._in_two_steps(layer, x, bounds)

    def forget(self) -> None:
        """Drops the bounds that are kept: the next call computes them anew."""
        self._kept = None

    def extra_repr(self) -> str:
        """Returns the bound for ``print(gate)``."""
        return f"eps={self.eps}"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_kept": None}

    def _ranks(self, layer: "DynamicLayer", z: Tensor, bounds: FactorBounds) -> Tensor:
        """Returns the rank of each sample, or of the call as a 0-dim tensor."""
        rows, call = rows_of(layer, z), layer.granularity == "call"
        if bounds.is_orthonormal:
            tails, slack = energies(rows), (1 - bounds.distance) / (1 + bounds.distance)
        else:
            tails, slack = truncation_errors(rows, bounds.gram), 1.0
        together = finite_sum(tails) if call else tails
        ranks = smallest_rank(together, layer.r_min, slack * self.eps**2)
        if layer.scheduler is not None:
            ranks = ranks.clamp(max=layer.scheduled(complexity(together), bounds.ceiling))
        return ranks[0] if call else ranks

    def _cut(
        self, layer: "DynamicLayer", x: Tensor, z: Tensor, ranks: Tensor
    ) -> tuple[Tensor, Decision]:
        """Returns the second product of inner values at their ranks."""
        (m, n), c, rows = layer.sizes, z.shape[layer.dim], layer.row_count(x)
        if layer.granularity == "call":
            r = int(ranks)
            y = layer.outer(z.narrow(layer.dim, 0, r))
            return y, Decision(r, float(r), (c * n + r * m) / (m * n), rows)
        mean = float(ranks.double().mean()) if len(ranks) else float(layer.r_min)
        share = (c * n + mean * (c + m)) / (m * n)
        return layer.outer_at(z, ranks), Decision(ranks, mean, share, rows)

    def _in_two_steps(
        self, layer: "DynamicLayer", x: Tensor, bounds: FactorBounds
    ) -> tuple[Tensor, Decision]:
        """Stops after ``r_min`` directions where they prove that the rest is below the bound."""
        h = layer.inner(x, 0, layer.r_min)
        call = layer.granularity == "call"
        enough = bounds.prove(
            rows_of(layer, h),
            layer.input_energy(x),
            self.eps,
            precision=epsilon_of(layer, h),
            together=call,
        )
        if bool(enough.all()):
            y, decision = self._stop(layer, x, h)
        elif call or not bool(enough.any()):
            y, decision = self._go_on(layer, x, h, bounds)
        else:
            y, decision = self._divide(layer, x, h, enough, bounds)
        m, n = layer.sizes  # the input's norm, and what the first directions say of the others
        looked = (n + bounds.ceiling * layer.r_min) / (m * n)
        return y, decision._replace(share=decision.share + looked)

    def _stop(self, layer: "DynamicLayer", x: Tensor, h: Tensor) -> tuple[Tensor, Decision]:
        return layer.outer(h), plain_decision(layer, x, layer.r_min)

    def _go_on(
        self, layer: "DynamicLayer", x: Tensor, h: Tensor, bounds: FactorBounds
    ) -> tuple[Tensor, Decision]:
        z = torch.cat([h, layer.inner(x, layer.r_min, bounds.ceiling)], layer.dim)
        return self._cut(layer, x, z, self._ranks(layer, z, bounds))

    def _divide(
        self, layer: "DynamicLayer", x: Tensor, h: Tensor, enough: Tensor, bounds: FactorBounds
    ) -> tuple[Tensor, Decision]:
        """Stops for some samples and goes on for the others."""
        early, first = self._stop(layer, x[enough], h[enough])
        late, second = self._go_on(layer, x[~enough], h[~enough], bounds)
        assert isinstance(first.rank, Tensor)
        assert isinstance(second.rank, Tensor)
        y, ranks = merge(enough, early, late), merge(enough, first.rank, second.rank)
        part = first.rows / (first.rows + second.rows)
        return y, Decision(
            ranks,
            part * first.expected + (1 - part) * second.expected,
            part * first.share + (1 - part) * second.share,
            layer.row_count(x),
        )

    def _in_a_graph(
        self, layer: "DynamicLayer", x: Tensor, ceiling: Tensor
    ) -> tuple[Tensor, Decision]:
        """Decides with tensors alone, so that one graph serves every rank and ceiling."""
        (m, n), R, call = layer.sizes, layer.max_rank, layer.granularity == "call"
        z = layer.inner(x, 0, R)
        ceiling = ceiling.to(x.device)
        rows = rows_of(layer, z)
        rows = torch.where(torch.arange(R, device=x.device) < ceiling, rows, 0.0)
        tails = truncation_errors(rows, gram_of(layer.up))
        ranks = smallest_rank(finite_sum(tails) if call else tails, layer.r_min, self.eps**2)
        ranks = torch.minimum(ranks, ceiling)
        mean = ranks.double().mean()
        share = (R * n + mean * (R + m)) / (m * n)
        rank = ranks[0] if call else ranks
        return layer.outer_at(z, rank), Decision(rank, mean, share, layer.row_count(x))


def merge(where: Tensor, yes: Tensor, no: Tensor) -> Tensor:
    """Returns the samples of ``yes`` and ``no`` in the order that ``where`` tells."""
    both = no.new_empty(len(where), *no.shape[1:])
    both[where], both[~where] = yes, no
    return both
