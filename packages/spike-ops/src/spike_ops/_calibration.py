"""What pieces of work cost on a machine, in nanoseconds."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path


@dataclass(frozen=True)
class Rates:
    """Nanoseconds per piece of work of one data type."""

    add: float  # one addition of the event path, from a table in the second-level cache
    output: float  # one element of its result
    mac: float  # one multiply-add of the best dense product
    unpack: float  # one element of the dense operand
    read: float  # one element of the weight, by the dense product
    # by compiled kernels only: one multiply-add of a product that is computed in places alone,
    # one addition from a table of sums of four rows, one element of the weight put into one
    masked: float = math.inf
    lookup: float = math.inf
    fill: float = math.inf


# measured with `calibrate()` on the machine that Calibration names
RATES = {
    "float32": Rates(add=0.036, output=0.05, mac=0.018, unpack=0.18, read=0.13),
    "float64": Rates(add=0.31, output=0.3, mac=0.046, unpack=0.26, read=0.11),
    "bfloat16": Rates(add=0.034, output=0.17, mac=0.0087, unpack=0.24, read=0.13),
    "float16": Rates(add=0.036, output=0.2, mac=0.8, unpack=0.73, read=0.06),
}


@dataclass(frozen=True)
class Calibration:
    """Costs of a machine: `rates` by data type, and what does not depend on it, in nanoseconds.

    `spike_ops.calibrate` measures one; `use_calibration` decides by it.

    Example:
        >>> Calibration().rates["float32"].add < Calibration().rates["float64"].add
        True
    """

    machine: str = "one core of an AMD EPYC (Zen 4)"
    event_call: float = 30_000.0
    byte: float = 0.54  # one byte of spikes looked through
    spike: float = 5.3  # one spike found and sorted into its row
    sort: float = 6.5  # one spike sorted into its column
    copy: float = 0.15  # one element of the weight copied into a block
    turn: float = 0.8  # one element of the weight copied into another order
    synapse: float = 7.0  # one addition of a single synapse, where few of them exist
    third: float = 1.5  # how many times longer an addition takes from the third-level cache
    memory: float = 5.0  # and from memory
    dense_call: float = 9_600.0
    onednn: bool = True  # float32: oneDNN rather than torch's default
    kernels: bool = False  # measured with compiled kernels
    rates: dict[str, Rates] = field(default_factory=lambda: dict(RATES))

    def save(self, path: str | Path) -> None:
        """Write the calibration as JSON."""
        Path(path).write_text(json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: str | Path) -> "Calibration":
        """Return the calibration that `save` wrote.

        Raises:
            ValueError: The file is not such a calibration.
        """
        try:
            told = json.loads(Path(path).read_text())
            rates = {name: Rates(**row) for name, row in told.pop("rates").items()}
            return cls(**told, rates=rates)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not a calibration of spike-ops: {error}") from error


# with the kernels of `compile_kernels`, on the same machine
NATIVE = Calibration(
    machine="one core of an AMD EPYC (Zen 4), kernels compiled",
    event_call=20_000.0,
    byte=0.45,
    spike=0.65,
    sort=1.55,
    rates=RATES
    | {
        "float32": replace(RATES["float32"], masked=0.046, lookup=0.032, fill=0.19),
        "float64": Rates(
            add=0.073,
            output=0.13,
            mac=0.046,
            unpack=0.26,
            read=0.11,
            masked=0.082,
            lookup=0.063,
            fill=0.4,
        ),
    },
    kernels=True,
)
_in_use = [Calibration()]


def replace_default(costs: Calibration) -> None:
    """Decide by other costs wherever no block says otherwise."""
    _in_use[0] = costs


def calibration() -> Calibration:
    """Return the calibration in use.

    Example:
        >>> calibration().machine
        'one core of an AMD EPYC (Zen 4)'
    """
    return _in_use[-1]


@contextmanager
def use_calibration(costs: Calibration) -> Iterator[None]:
    """Decide by another calibration for as long as the block lasts.

    Raises:
        TypeError: It is no `Calibration`; `Calibration.load` reads a file.

    Example:
        >>> with use_calibration(Calibration(machine="another")):
        ...     calibration().machine
        'another'
    """
    if not isinstance(costs, Calibration):
        got = type(costs).__name__
        raise TypeError(f"costs must be a Calibration, got {got}; Calibration.load reads a file")
    _in_use.append(costs)
    try:
        yield
    finally:
        _in_use.pop()
