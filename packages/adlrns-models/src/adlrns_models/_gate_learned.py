"""A gate that learns which of a few ranks an input deserves."""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adlrns_models._checks import check_fraction, check_int
from adlrns_models._gate import Decision, Gate, at_rank
from adlrns_models._gate_scorer import Scorer, features, spread

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer


class LearnedGate(Gate):
    """Chooses one of K ranks by a small network that sees cheap statistics of the input.

    In training the choice is drawn by the straight-through Gumbel trick: what multiplies the inner
    values is zeros and ones, with the gradient of ``softmax((scores + Gumbel noise) / t)``. So the
    loss teaches the scorer what a direction is worth, and the penalty, expected over
    ``softmax(scores)``, what it costs. All directions are then computed. In ``eval`` mode the
    choice with the best score is taken and only its directions are computed. A budget cuts
    the choices at its ceiling. The first ``choices[0]`` directions are what is looked at.

    Args:
        choices: rising ranks; the first is the layer's ``r_min``, the last its R.
        hidden: width of the scorer.
        temperature: t; :meth:`anneal` lowers it.
        like: a tensor whose device and precision the scorer shares.

    Raises:
        ValueError, TypeError: unless the choices rise from 1 or more.

    Source: Jang, Gu & Poole, ICLR 2017 (arXiv 1611.01144), for the estimator.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, rank_penalty, record
        >>> layer = DynamicLinear(32, 32, r_max=16, gate="learned")
        >>> with record(layer) as ran:
        ...     y = layer(torch.randn(8, 32))
        >>> (y.square().mean() + rank_penalty(ran)).backward()
        >>> bool(layer.gate.scorer.last.bias.grad.any())
        True
    """

    choices: Tensor
    temperature: Tensor

    def __init__(
        self,
        choices: Sequence[int],
        *,
        hidden: int = 32,
        temperature: float = 5.0,
        like: Tensor | None = None,
    ):
        super().__init__()
        like = torch.empty(0) if like is None else like
        ranks = [check_int("choices", r, 1) for r in choices]
        if not ranks or any(b <= a for a, b in pairwise(ranks)):
            raise ValueError(f"choices must rise, got {ranks}")
        self.scorer = Scorer(len(ranks), hidden, like)
        with torch.no_grad():
            self.scorer.last.bias[-1] = 1.0  # begins near full rank, where gradients reach all
        self.register_buffer("choices", torch.tensor(ranks, device=like.device), persistent=False)
        self.register_buffer("temperature", torch.tensor(0.0, device=like.device))
        self.set_temperature(temperature)

    def set_temperature(self, temperature: float) -> None:
        """Sets t, which lies above 0: the lower, the nearer the gradients to those of a choice."""
        if not temperature > 0.0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        self.temperature.fill_(temperature)

    def anneal(self, progress: float) -> None:
        """Sets t to ``5 * 0.1^progress``: from 5 at the start of training to 0.5 at its end."""
        self.set_temperature(5.0 * 0.1 ** check_fraction("progress", progress))

    def forward(
        self, layer: "DynamicLayer", x: Tensor, ceiling: int | Tensor
    ) -> tuple[Tensor, Decision]:
        """Returns the layer's output at the rank chosen."""
        if not isinstance(ceiling, Tensor) and ceiling <= layer.r_min:
            return at_rank(layer, x, ceiling)
        h = layer.inner(x, 0, layer.r_min)
        scores, choices = self._scores(layer, x, h, ceiling)
        mean = (
            (scores.softmax(1) @ choices.to(scores)).mean() if len(scores) else float(layer.r_min)
        )
        rank: int | Tensor
        spent: float | Tensor
        if layer.training:
            y, rank, spent = self._softly(layer, h, x, scores, choices)
        else:
            y, rank, spent = self._firmly(layer, h, x, choices[scores.argmax(1)])
        return y, Decision(rank, mean, spent + self._looked(layer, x), layer.row_count(x))

    def probabilities(self, layer: "DynamicLayer", x: Tensor) -> Tensor:
        """Returns the probability of each choice, ``[N, K]``, or ``[1, K]`` for the call."""
        h = layer.inner(x, 0, layer.r_min)
        return self._scores(layer, x, h, layer.max_rank)[0].softmax(1)

    def extra_repr(self) -> str:
        """Returns choices and temperature for ``print(gate)``."""
        return f"choices={self.choices.tolist()}, temperature={float(self.temperature):g}"

    def _scores(
        self, layer: "DynamicLayer", x: Tensor, h: Tensor, ceiling: int | Tensor
    ) -> tuple[Tensor, Tensor]:
        """Returns the scores of the choices, and the choices cut at the ceiling."""
        scores = self.scorer(features(layer, x, h), together=layer.granularity == "call")
        if layer.scheduler is not None and not isinstance(ceiling, Tensor):
            ceiling = layer.scheduled(layer.complexity(x), ceiling)
        limit = ceiling.to(x.device) if isinstance(ceiling, Tensor) else ceiling
        choices = self.choices.clamp(max=limit)
        refused = choices.diff(prepend=choices.new_zeros(1)) == 0  # the same again
        return scores.masked_fill(refused, -torch.inf), choices

    def _looked(self, layer: "DynamicLayer", x: Tensor) -> float:
        """Returns what the scorer and its statistics take, as a share of the dense FLOPs."""
        m, n = layer.sizes
        scorer = self.scorer.flops * len(x) / max(1, layer.row_count(x))
        return (n + layer.r_min + scorer) / (m * n)

    def _softly(
        self, layer: "DynamicLayer", h: Tensor, x: Tensor, scores: Tensor, choices: Tensor
    ) -> tuple[Tensor, Tensor, float]:
        """Multiplies all inner values by what a drawn choice leaves of them."""
        (m, n), R = layer.sizes, layer.max_rank
        z = torch.cat([h, layer.inner(x, layer.r_min, R)], layer.dim)
        # F.gumbel_softmax takes its temperature as a number, a constant of a compiled graph
        noise = -torch.empty_like(scores).exponential_().log()
        soft = ((scores + noise) / self.temperature).softmax(1)
        picked = soft.argmax(1)
        drawn = torch.arange(len(choices), device=x.device) == picked[:, None]  # [N, K]
        through = drawn.to(soft) + soft - soft.detach()
        stairs = (torch.arange(R, device=x.device) < choices[:, None]).to(soft)  # [K, R]
        y = layer.outer(z * spread(through @ stairs, layer, z))
        ranks = choices[picked]
        return y, ranks[0] if layer.granularity == "call" else ranks, R * (m + n) / (m * n)

    def _firmly(
        self, layer: "DynamicLayer", h: Tensor, x: Tensor, ranks: Tensor
    ) -> tuple[Tensor, int | Tensor, float | Tensor]:
        """Computes the directions chosen, and no others."""
        (m, n), k = layer.sizes, layer.r_min
        if layer.granularity == "call" and not torch.compiler.is_compiling():
            r = int(ranks)
            z = torch.cat([h, layer.inner(x, k, r)], layer.dim) if r > k else h
            return layer.outer(z), r, r * (m + n) / (m * n)
        rank = ranks[0] if layer.granularity == "call" else ranks
        mean = ranks.double().mean() if len(ranks) else ranks.new_zeros((), dtype=torch.float64)
        return layer.at_ranks(x, rank), rank, (k * n + mean * (m + n)) / (m * n)


def even_choices(r_min: int, max_rank: int, count: int = 8) -> list[int]:
    """Returns at most ``count`` ranks from ``r_min`` to ``max_rank``, evenly apart."""
    step = (max_rank - r_min) / max(1, count - 1)
    return sorted({round(r_min + i * step) for i in range(count)} | {max_rank})
