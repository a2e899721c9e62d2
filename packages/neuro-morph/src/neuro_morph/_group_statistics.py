"""What was measured of one group's units: moments of what makes them and of what reads them."""

from dataclasses import dataclass, field

from torch import Tensor

from neuro_morph._unit_layers import UnitLayer

GAINS, GRADIENTS = "gains", "gradients"
PARTS = (GAINS, GRADIENTS)  # of statistics that not every use of them needs


@dataclass
class ReaderStatistics:
    """Moments at one layer that reads the units; ``E`` is a mean over examples.

    With ``h`` what the layer multiplies with its weight (a patch and, with a bias, a 1), ``G`` the
    negative gradient at its output, and ``x`` what the layer that makes the units multiplies with
    its own weight, laid over the reader's positions, sums over positions inside ``E``:

    Attributes:
        layer: the layer.
        h_h: ``E[h h']``, ``[F, F]``; None with ``x_h``, beside which alone it is of use.
        h_g: ``E[h G']``, ``[F, O]``; None with ``x_h``.
        g_g: ``E[G G']``, ``[O, O]``.
        x_g: ``E[x G']`` at every place of a unit, ``[X, O, places]``; None where a unit is not
            made by one layer.
        x_h: ``E[x h']``, ``[X, places, F]``; None with ``x_g``, or where its sides are too large.
    """

    layer: UnitLayer
    h_h: Tensor | None
    h_g: Tensor | None
    g_g: Tensor
    x_g: Tensor | None
    x_h: Tensor | None


@dataclass
class GroupStatistics:
    """What was measured of one group.

    Attributes:
        id: the group.
        size: its units when they were measured.
        unit_cost: parameters that one more unit adds.
        examples: how many examples were seen.
        maker: the layer that makes the units, None if there are several.
        readers: the layers that read them.
        x_x: ``E[x x']``, ``[X, X]``, sums over positions inside; None without ``maker``.
        unit_mean: the mean of each unit over examples and positions, ``[C]``.
        unit_second: the mean of products of units, ``[C, C]``.
        gradient_mean: the mean of the examples' gradients of the maker's rows, ``[C, X]``.
        gradient_second: the mean of their squares.
        taylor: the mean over examples of ``(sum h dL/dh)^2`` of each unit, ``[C]``.
        samples: units of the first examples, mean over positions, ``[n, C]``.
        inputs: what the maker was given for them, the same way, ``[n, I]``.
        targets: their targets, ``[n, T]``; None if there are none.
        why_no_maker: why new units cannot be scored by what they would be made from.
    """

    id: str
    size: int
    unit_cost: int
    examples: int
    maker: UnitLayer | None
    readers: list[ReaderStatistics]
    x_x: Tensor | None
    unit_mean: Tensor
    unit_second: Tensor
    gradient_mean: Tensor | None
    gradient_second: Tensor | None
    taylor: Tensor
    samples: Tensor
    inputs: Tensor | None
    targets: Tensor | None = None
    why_no_maker: str | None = None

    def covariance(self) -> Tensor:
        """Returns the covariance of the units, ``[C, C]``."""
        return self.unit_second - self.unit_mean.outer(self.unit_mean)


@dataclass
class Statistics:
    """What was measured of a model's groups in one pass over batches.

    Attributes:
        groups: by id, those whose units could be seen.
        skipped: the others that can grow, with the reason.
        examples: how many examples were seen.
        loss: their mean loss.
        parts: what was measured beside the units themselves (see :func:`collect_statistics`).
    """

    groups: dict[str, GroupStatistics]
    skipped: dict[str, str] = field(default_factory=dict)
    examples: int = 0
    loss: float = 0.0
    parts: frozenset[str] = frozenset(PARTS)

    def __getitem__(self, group_id: str) -> GroupStatistics:
        if group_id in self.groups:
            return self.groups[group_id]
        why = self.skipped.get(group_id, f"known are {', '.join(self.groups) or 'none'}")
        raise KeyError(f"no statistics of group {group_id!r}: {why}")
