"""Paired differences of losses, unit by unit, and the units that have none."""

from torch import Tensor

from layer_importance._moments import Moments
from layer_importance._sharing import Share, gathered
from layer_importance._units import Unit


class Differences:
    """Moments by unit; one with a difference that is not finite has no score."""

    def __init__(self) -> None:
        self.moments: dict[str, Moments] = {}
        self.refused: dict[str, str] = {}

    def add(self, unit: Unit, differences: Tensor) -> None:
        """Adds ``[N]`` differences."""
        self.moments.setdefault(unit.name, Moments()).add(differences.detach())

    def gathered(self, share: Share) -> "Differences":
        """Returns those of all processes."""
        found = Differences()
        found.moments = gathered(share, self.moments)
        for refused in share.exchange(self.refused):
            found.refused |= refused
        return found

    def whole(self) -> dict[str, Moments]:
        """Returns the moments of the units whose differences are all finite."""
        return {n: m for n, m in self.moments.items() if m.count and not m.skipped}

    def missing(self) -> dict[str, str]:
        """Returns why the others have none; a unit that was scored in any batch is no such."""
        reasons = {n: r for n, r in self.refused.items() if n not in self.moments}
        for name, moments in self.moments.items():
            if moments.skipped:
                total = moments.count + moments.skipped
                reasons[name] = f"{moments.skipped} of {total} losses are not finite with it edited"
        return reasons
