"""How often :class:`DNMFramework` may change a network."""

from collections.abc import Sequence

from neuro_morph._dnm_config import DNMConfig
from neuro_morph._event import MorphogenesisEvent


class Pace:
    """Counts the changes of every epoch, and says what stands against more.

    Args:
        config: the settings.
    """

    def __init__(self, config: DNMConfig) -> None:
        self.config = config
        self._by_epoch: dict[int, int] = {}

    def made(self, epoch: int) -> None:
        """Counts a change."""
        self._by_epoch[epoch] = self._by_epoch.get(epoch, 0) + 1

    def room(self, epoch: int, events: Sequence[MorphogenesisEvent]) -> int:
        """Returns how many more changes an epoch may bring."""
        here = self.config.max_morphogenesis_per_epoch - self._by_epoch.get(epoch, 0)
        return min(self.config.max_architecture_changes - kept(events), here)

    def why_not(
        self, epoch: int, events: Sequence[MorphogenesisEvent], *, resumes: int
    ) -> str | None:
        """Returns why growth is out of the question in an epoch, None if it is not.

        Args:
            epoch: the epoch.
            events: what has happened.
            resumes: the epoch before which nothing is tried again.
        """
        every, most = self.config.morphogenesis_interval, self.config.max_architecture_changes
        if epoch % every:
            return f"growth is asked about every {every} epochs"
        if kept(events) >= most:
            return f"{most} changes have been made, all that max_architecture_changes allows"
        if epoch < resumes:
            return f"growth did not help: it is tried again from epoch {resumes} on"
        return None


def kept(events: Sequence[MorphogenesisEvent]) -> int:
    """Returns how many changes were made and not rolled back."""
    kinds = [event.decision for event in events]
    return kinds.count("committed") - kinds.count("rolled back")
