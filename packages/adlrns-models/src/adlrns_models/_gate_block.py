"""A gate that opens and closes blocks of directions."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from adlrns_models import _observe
from adlrns_models._checks import check_fraction, check_int
from adlrns_models._gate import Decision, Gate
from adlrns_models._gate_scorer import Scorer, features, spread

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer


class BlockGate(Gate):
    """Opens some of B blocks of consecutive directions for an input.

    A small network sees cheap statistics of the input and drives every block. *Locality*:
    neighbours inhibit each other, ``p_b = sigmoid(d_b - kappa mean(a_(b-1), a_(b+1)))`` with
    ``a = sigmoid(d)`` and ``d`` the drive. *Homeostasis*: the drive has an offset that, in
    training, rises while a block is open less often than ``target`` and falls while it is open more
    often, so that no block dies and none takes everything. Blocks with ``p_b > 1/2`` are open; as
    many of the likeliest as ``r_min`` takes always are, and no more than a budget's ceiling allows
    (a block that passes it is cut there).

    In training all directions are computed and closed ones multiplied by zero, with the gradient
    of ``p`` passed straight through. In ``eval`` mode only open blocks are computed. In a compiled
    graph all are.

    Args:
        max_rank: R.
        blocks: B, at most R.
        hidden: width of the scorer.
        kappa: strength of the inhibition.
        target: the share of inputs a block should be open for.
        rate: how fast the average of a block's use follows.
        gain: how fast the offset follows that average.
        like: a tensor whose device and precision the gate shares.

    Raises:
        ValueError, TypeError: for a count below 1, a share outside 0..1 or a negative strength.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear
        >>> layer = DynamicLinear(32, 32, r_max=16, gate="block", num_gate_blocks=4)
        >>> y = layer(torch.randn(8, 32))
        >>> layer.gate.open_blocks.shape
        torch.Size([1, 4])
    """

    size: Tensor
    block: Tensor
    inside: Tensor
    usage: Tensor
    offset: Tensor

    def __init__(
        self,
        max_rank: int,
        blocks: int = 8,
        *,
        hidden: int = 32,
        kappa: float = 1.0,
        target: float = 0.5,
        rate: float = 0.05,
        gain: float = 0.1,
        like: Tensor | None = None,
    ):
        super().__init__()
        count = min(check_int("num_gate_blocks", blocks, 1), check_int("max_rank", max_rank, 1))
        like = torch.empty(0) if like is None else like
        self.scorer = Scorer(count, hidden, like)
        if not (kappa >= 0.0 and gain >= 0.0):
            raise ValueError(f"kappa and gain must not be negative, got {kappa} and {gain}")
        self.kappa, self.gain = float(kappa), float(gain)
        self.target, self.rate = check_fraction("target", target), check_fraction("rate", rate)
        edges = torch.tensor([round(i * max_rank / count) for i in range(count + 1)])
        block = torch.arange(count).repeat_interleave(edges.diff())  # [R], of each direction
        inside = torch.arange(max_rank) - edges[:-1][block]  # [R], place in its block
        for name, value in (("size", edges.diff()), ("block", block), ("inside", inside)):
            self.register_buffer(name, value.to(like.device), persistent=False)
        self.register_buffer("usage", torch.full((count,), target, device=like.device))
        # begins with every block open
        self.register_buffer("offset", torch.full((count,), 2.0 * kappa, device=like.device))
        self._open: Tensor | None = None

    @property
    def open_blocks(self) -> Tensor:
        """Which blocks the last call opened, ``[N, B]``, or ``[1, B]`` for the call.

        Raises:
            RuntimeError: before the first call.
        """
        if self._open is None:
            raise RuntimeError("the gate has decided nothing yet: call its layer first")
        return self._open

    def forward(
        self, layer: "DynamicLayer", x: Tensor, ceiling: int | Tensor
    ) -> tuple[Tensor, Decision]:
        """Returns the layer's output of the blocks opened."""
        h = layer.inner(x, 0, layer.r_min)
        seen = features(layer, x, h)
        if layer.scheduler is not None and not isinstance(ceiling, Tensor):
            ceiling = layer.scheduled(layer.complexity(x), ceiling)
        p = self.probabilities(seen, together=layer.granularity == "call")
        mask, opened, left = self._mask(p, layer.r_min, ceiling)  # [N, R], [N, B], [N, B]
        if torch.compiler.is_compiling() or not _observe.transformed():  # its tensors end with it
            self._open = opened
            if layer.training:
                self._balance(opened)
        m, n = layer.sizes
        ranks = (p * left).sum(1).clamp(min=layer.r_min)  # r_min run whatever the probabilities
        expected = ranks.mean() if len(p) else p.sum() + layer.r_min
        ranks = mask.sum(1)
        each = self.scorer.flops * len(x) / max(1, layer.row_count(x))
        looked = (layer.r_min * n + n + layer.r_min + each) / (m * n)
        rank = ranks[0] if layer.granularity == "call" else ranks
        spent: float
        if layer.training or torch.compiler.is_compiling():
            y, spent = self._softly(layer, x, p, mask), layer.max_rank
        else:
            y = self._firmly(layer, x, mask, opened)
            spent = float(ranks.double().mean()) if len(ranks) else 0.0
        share = spent * (m + n) / (m * n) + looked
        return y, Decision(rank, expected, share, layer.row_count(x))

    def probabilities(self, seen: Tensor, *, together: bool) -> Tensor:
        """Returns ``p [N, B]`` for :func:`features`, or ``[1, B]`` for all of them together."""
        scores = self.scorer(seen, together=together)
        drive = scores + self.offset.to(scores)
        active = drive.sigmoid()
        sides = torch.nn.functional.pad(active, (1, 1))
        neighbours = torch.full_like(active[:1], 2.0)
        neighbours[:, 0] -= 1.0
        neighbours[:, -1] -= 1.0
        beside = (sides[:, :-2] + sides[:, 2:]) / neighbours.clamp(min=1.0)
        return (drive - self.kappa * beside).sigmoid()

    def extra_repr(self) -> str:
        """Returns the settings for ``print(gate)``."""
        return f"blocks={len(self.usage)}, kappa={self.kappa:g}, target={self.target:g}"

    def _mask(self, p: Tensor, r_min: int, ceiling: int | Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the directions that are open, ``[N, R]``, and the blocks, ``[N, B]``.

        Last, how many directions of each block the ceiling leaves to it, likelier ones first.
        """
        ceiling = ceiling.to(p.device) if isinstance(ceiling, Tensor) else ceiling
        likely, order = p.detach().sort(dim=1, descending=True, stable=True)
        size = self.size[order]
        before = size.cumsum(1) - size  # directions of likelier blocks
        left = torch.minimum(size, (ceiling - before).clamp(min=0))
        room = torch.where((likely > 0.5) | (before < r_min), left, 0)
        room, left = (torch.zeros_like(each).scatter(1, order, each) for each in (room, left))
        return self.inside < room[:, self.block], room > 0, left

    @torch.no_grad()
    def _balance(self, opened: Tensor) -> None:
        """Moves the offsets towards equal use."""
        if torch.compiler.is_compiling() and not torch.compiler.is_exporting():
            torch.ops.adlrns_models.once(self.usage)
        if len(opened):
            self.usage.lerp_(opened.to(self.usage).mean(0), self.rate)
            self.offset.add_(self.target - self.usage, alpha=self.gain)

    def _softly(self, layer: "DynamicLayer", x: Tensor, p: Tensor, mask: Tensor) -> Tensor:
        """Returns the output of all directions, closed ones multiplied by zero."""
        z = layer.inner(x, 0, layer.max_rank)
        of_each = p[:, self.block]
        return layer.outer(z * spread(mask + of_each - of_each.detach(), layer, z))

    def _firmly(self, layer: "DynamicLayer", x: Tensor, mask: Tensor, opened: Tensor) -> Tensor:
        """Returns the output of open directions, computing no others."""
        if len(mask) == 1:
            return layer.run(x, mask[0].nonzero()[:, 0], layer.outer_bias)
        parts = []
        room = torch.zeros_like(opened, dtype=torch.int64)
        room.index_add_(1, self.block, mask.long())
        starts = (self.size.cumsum(0) - self.size).tolist()
        for b, start in enumerate(starts):
            for count in room[:, b].unique().tolist():
                samples = (room[:, b] == count).nonzero()[:, 0]
                if count:
                    chosen = torch.arange(start, start + count, device=x.device)
                    parts.append((samples, layer.run(x[samples], chosen, None)))
        return _sum(parts, layer, x)


def _sum(parts: list[tuple[Tensor, Tensor]], layer: "DynamicLayer", x: Tensor) -> Tensor:
    if not parts:  # no samples
        return layer.outer(layer.inner(x, 0, 1))
    first = parts[0][1]
    y = first.new_zeros(len(x), *first.shape[1:])
    for samples, part in parts:
        y = y.index_add(0, samples, part)
    return y if layer.outer_bias is None else y + spread(layer.outer_bias[None], layer, y)
