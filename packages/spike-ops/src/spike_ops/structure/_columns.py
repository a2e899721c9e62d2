"""Cortical columns: dense within, sparse between, and the layers of the cortex."""

from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops.structure._base import Structure, check_share, check_sizes, drawing


@dataclass(frozen=True)
class Columns(Structure):
    """Return columns of neurons: connections likely within a column, rare between columns.

    Neurons before and behind the weight are cut into `columns` runs of equal length, as far as
    their number can be divided.

    Args:
        columns: How many columns.
        p_within: Probability of a connection within a column.
        p_between: Probability of one between two columns.
        self_connections: Allow neuron i to connect to neuron i.
        seed: Seed.

    Raises:
        ValueError: A probability is none, or there are fewer neurons than columns.

    Source: V. Mountcastle, "The columnar organization of the neocortex", Brain 1997.

    Example:
        >>> Columns(2, p_within=1.0, p_between=0.0).mask(4, 2).int()
        tensor([[1, 0],
                [1, 0],
                [0, 1],
                [0, 1]], dtype=torch.int32)
    """

    columns: int = 4
    p_within: float = 0.5
    p_between: float = 0.02
    self_connections: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if self.columns < 1:
            raise ValueError(f"columns must be at least 1, got {self.columns}")
        check_share("p_within", self.p_within)
        check_share("p_between", self.p_between)

    def mask(self, out_features: int, in_features: int) -> Tensor:
        """Return the mask [out, in]."""
        check_sizes(out_features, in_features)
        if min(out_features, in_features) < self.columns:
            got = f"{out_features} and {in_features}"
            raise ValueError(f"sizes must be at least the {self.columns} columns, got {got}")
        rows, columns = self.column_of(out_features), self.column_of(in_features)
        same = rows[:, None] == columns
        drawn = torch.rand(same.shape, generator=drawing(self.seed))
        mask = torch.where(same, drawn < self.p_within, drawn < self.p_between)
        return mask if self.self_connections else mask.fill_diagonal_(False)

    def column_of(self, size: int) -> Tensor:
        """Return the column of every neuron: [size] of int64."""
        return torch.arange(size) * self.columns // size


@dataclass(frozen=True)
class LayeredColumn(Structure):
    """Return populations that connect by a table of probabilities: a column's layers.

    Args:
        sizes: Neurons of each population, in their order.
        probabilities: Row by row, for each population that receives, the probability of a
            connection from each population.
        excitatory: Whether each population excites; None says nothing of signs.
        names: Names of the populations.
        self_connections: Allow neuron i to connect to neuron i.
        seed: Seed.

    Raises:
        ValueError: The table does not fit, a value is no probability, or a size asked for is not
            the sum of the populations.

    Example:
        >>> LayeredColumn((1, 2), ((0.0, 1.0), (1.0, 0.0))).mask(3, 3).int()
        tensor([[0, 1, 1],
                [1, 0, 0],
                [1, 0, 0]], dtype=torch.int32)
    """

    sizes: tuple[int, ...]
    probabilities: tuple[tuple[float, ...], ...]
    excitatory: tuple[bool, ...] | None = None
    names: tuple[str, ...] | None = None
    self_connections: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        count = len(self.sizes)
        table = self.probabilities
        if not count or len(table) != count or any(len(row) != count for row in table):
            raise ValueError(f"probabilities must be {count} rows of {count} for {self.sizes}")
        for value in (value for row in table for value in row):
            check_share("every probability", value)
        if min(self.sizes) < 1:
            raise ValueError(f"sizes must be at least 1, got {self.sizes}")
        for name in ("excitatory", "names"):
            given = getattr(self, name)
            if given is not None and len(given) != count:
                raise ValueError(f"{name} must have {count} entries, got {len(given)}")

    def mask(self, out_features: int, in_features: int) -> Tensor:
        """Return the mask [N, N], N the sum of the sizes."""
        self._check(out_features, in_features)
        place = self.population_of()
        chance = torch.tensor(self.probabilities, dtype=torch.float64)[place][:, place]
        drawn = torch.rand(chance.shape, generator=drawing(self.seed), dtype=torch.float64)
        mask = drawn < chance
        return mask if self.self_connections else mask.fill_diagonal_(False)

    def signs(self, in_features: int) -> Tensor | None:
        """Return +1 for neurons of populations that excite and -1 for the others: [N]."""
        self._check(in_features, in_features)
        if self.excitatory is None:
            return None
        return torch.tensor([1.0 if each else -1.0 for each in self.excitatory])[
            self.population_of()
        ]

    def population_of(self) -> Tensor:
        """Return the population of every neuron: [N] of int64."""
        return torch.arange(len(self.sizes)).repeat_interleave(torch.tensor(self.sizes))

    def _check(self, out_features: int, in_features: int) -> None:
        check_sizes(out_features, in_features, square="LayeredColumn")
        if out_features != sum(self.sizes):
            raise ValueError(f"sizes sum to {sum(self.sizes)} neurons, got {out_features}")


POTJANS_NAMES = ("L2/3e", "L2/3i", "L4e", "L4i", "L5e", "L5i", "L6e", "L6i")
POTJANS_SIZES = (20683, 5834, 21915, 5479, 4850, 1065, 14395, 2948)
POTJANS_TABLE = (
    (0.1009, 0.1689, 0.0437, 0.0818, 0.0323, 0.0, 0.0076, 0.0),
    (0.1346, 0.1371, 0.0316, 0.0515, 0.0755, 0.0, 0.0042, 0.0),
    (0.0077, 0.0059, 0.0497, 0.1350, 0.0067, 0.0003, 0.0453, 0.0),
    (0.0691, 0.0029, 0.0794, 0.1597, 0.0033, 0.0, 0.1057, 0.0),
    (0.1004, 0.0622, 0.0505, 0.0057, 0.0831, 0.3726, 0.0204, 0.0),
    (0.0548, 0.0269, 0.0257, 0.0022, 0.0600, 0.3158, 0.0086, 0.0),
    (0.0156, 0.0066, 0.0211, 0.0166, 0.0572, 0.0197, 0.0396, 0.2252),
    (0.0364, 0.0010, 0.0034, 0.0005, 0.0277, 0.0080, 0.0658, 0.1443),
)


def potjans_diesmann(scale: float = 0.01, *, seed: int = 0) -> LayeredColumn:
    """Return the cortical microcircuit below 1 mm² of surface: four layers, E and I in each.

    Probabilities are those of the paper (that a pair has at least one synapse); `scale` makes the
    populations smaller, each at least one neuron, and leaves the probabilities.

    Args:
        scale: Share of the 77,169 neurons.
        seed: Seed.

    Raises:
        ValueError: `scale` is not in (0, 1].

    Source: T. Potjans, M. Diesmann, "The Cell-Type Specific Cortical Microcircuit", Cerebral
    Cortex 2014, table 5.

    Example:
        >>> potjans_diesmann(0.01).sizes
        (207, 58, 219, 55, 48, 11, 144, 29)
    """
    if not 0 < scale <= 1:
        raise ValueError(f"scale must be in (0, 1], got {scale}")
    return LayeredColumn(
        tuple(max(1, round(scale * size)) for size in POTJANS_SIZES),
        POTJANS_TABLE,
        excitatory=(True, False) * 4,
        names=POTJANS_NAMES,
        seed=seed,
    )
