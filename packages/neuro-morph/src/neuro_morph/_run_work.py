"""What a run's training takes, and what trials of growth take beside it."""

from neuro_morph._counting import count_of, sizes_of_model
from neuro_morph._morpher import Morpher


class RunWork:
    """Counts the work of a run, in forward passes of the example inputs times their FLOPs.

    Args:
        morpher: the run.
    """

    def __init__(self, morpher: Morpher) -> None:
        self.morpher = morpher
        self.trained = self.tried = 0.0
        self._counted: tuple[int, int] | None = None
        self._flops = 0

    @property
    def flops(self) -> int:
        """The FLOPs of a pass of the network as it is."""
        now = len(self.morpher.spec.steps), count_of(self.morpher.model)
        if now != self._counted:
            self._counted = now
            self._flops = sizes_of_model(self.morpher.model, self.morpher.inputs)[1]
        return self._flops

    def step(self) -> None:
        """Counts a training step."""
        self.trained += self.flops

    def total(self, taken: int, steps: int | None) -> float | None:
        """Returns the work of a run of so many steps if nothing more grows; None without them."""
        return None if steps is None else self.trained + max(steps - taken, 0) * self.flops

    def blocked(
        self, wanted: float, share: float | None, taken: int, steps: int | None
    ) -> str | None:
        """Returns why trials that take ``wanted`` are too much, None if they are not.

        Args:
            wanted: the work of the trials.
            share: the part of the run's work that all trials may take; None for no limit.
            taken: training steps so far.
            steps: of the whole run; None if that is not known, and nothing is limited.
        """
        total = self.total(taken, steps)
        if share is None or not total:
            return None
        left = share - self.tried / total
        if wanted / total <= left:
            return None
        return (
            f"trials would take {wanted / total:.0%} of the run's work, "
            f"{max(left, 0.0):.0%} of it are left for them"
        )
