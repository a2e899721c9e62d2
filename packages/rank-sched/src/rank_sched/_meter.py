"""What all energy meters have in common."""

import sys
from contextlib import AbstractContextManager
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

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


def check_window(seconds: float, *, shortest_s: float) -> None:
    """Raise `MeterError` if a window lasted less than ten ticks of its counter."""
    if seconds < shortest_s:
        raise MeterError(
            f"a window must last at least {shortest_s:g} s, ten ticks of the counter, "
            f"got {seconds:g} s: repeat the work inside one window"
        )


def optional_module(name: str, *, extra: str) -> Any:
    """Return a module that comes with an extra, or raise a `MeterError` that names the extra."""
    try:
        return import_module(name)
    except ImportError as error:
        raise MeterError(
            f"{name} must be importable, got {error}: pip install 'rank-sched[{extra}]'"
        ) from None


def synchronize_torch() -> None:
    """Wait for the kernels torch has started on the present GPU, if it has started any."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()
