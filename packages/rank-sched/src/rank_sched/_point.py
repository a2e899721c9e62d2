"""What an allocation decides."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class OperatingPoint:
    """One rank per layer, with the loss and the cost predicted for them.

    Attributes:
        ranks: The rank of each layer, by name, in the order the layers were given.
        loss: Sum of the layers' losses at these ranks.
        cost: Sum of the layers' costs at these ranks, in the unit of the costs given.
    """

    ranks: Mapping[str, int]
    loss: float
    cost: float


@dataclass(frozen=True)
class MultiPoint:
    """One rank per layer, with the loss and several costs predicted for them.

    Attributes:
        ranks: The rank of each layer, by name, in the order the layers were given.
        loss: Sum of the layers' losses at these ranks.
        costs: Sums of the layers' costs at these ranks, by the name of the cost.
    """

    ranks: Mapping[str, int]
    loss: float
    costs: Mapping[str, float]
