"""What all energy meters have in common."""

from contextlib import AbstractContextManager
from typing import Protocol, runtime_checkable

from rank_sched._errors import MeterError


class EnergyWindow:
    """Energy and duration of one measured window; they can be read once it has closed.

    Attributes:
        meter: Name of the meter, to be shown beside every figure.
    """

    def __init__(self, meter: str) -> None:
        self.meter = meter
        self._result: tuple[float, float] | None = None

    @property
    def energy_j(self) -> float:
        """Joules used in the window. Raises `MeterError` while it is open."""
        return self._read()[0]

    @property
    def duration_s(self) -> float:
        """Seconds the window was open. Raises `MeterError` while it is open."""
        return self._read()[1]

    def close(self, *, energy_j: float, duration_s: float) -> None:
        """Enter the result; for meters."""
        self._result = (energy_j, duration_s)

    def __repr__(self) -> str:
        if self._result is None:
            return f"<EnergyWindow of {self.meter}, open>"
        return f"<EnergyWindow of {self.meter}: {self.energy_j:g} J in {self.duration_s:g} s>"

    def _read(self) -> tuple[float, float]:
        if self._result is None:
            raise MeterError("the window has no result: it is still open, or ended in an error")
        return self._result


@runtime_checkable
class EnergyMeter(Protocol):
    """Anything that measures, or estimates, the energy of a block of code.

    Attributes:
        name: Says where the figures come from, such as "rapl" or "estimated".
    """

    @property
    def name(self) -> str: ...

    def measure(self) -> AbstractContextManager[EnergyWindow]:
        """Return a context manager whose window holds the energy after it has closed."""
        ...
