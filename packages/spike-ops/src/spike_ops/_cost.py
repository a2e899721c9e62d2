"""What a product costs by additions and what it costs dense: the model that decides.

The decision is a function of the shape, the number of spikes and the calibration in use, and of
nothing else: the same call takes the same way on every run. Nothing is timed unless
`calibrate()` is called.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple

import torch

Method = Literal["auto", "event", "dense"]


@dataclass(frozen=True)
class Rates:
    """Nanoseconds per piece of work of one data type."""

    add: float  # one addition of the event path
    output: float  # one element of its result
    mac: float  # one multiply-add of the best dense product
    unpack: float  # one element of the dense operand


@dataclass(frozen=True)
class Calibration:
    """Costs of a machine: `rates` by data type, and what does not depend on it, in nanoseconds."""

    machine: str = "two cores of an AMD EPYC (Zen 5), one thread"
    event_call: float = 9_000.0
    byte: float = 0.35  # one byte of spikes looked through
    spike: float = 6.0  # one spike found and sorted into its row
    dense_call: float = 6_000.0
    onednn: bool = True  # float32: oneDNN rather than torch's default
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
        except (TypeError, KeyError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path} is not a calibration of spike-ops: {error}") from error


# measured with `calibrate()` on the machine that Calibration names
RATES = {
    "float32": Rates(add=0.048, output=0.15, mac=0.0186, unpack=0.16),
    "float64": Rates(add=0.11, output=0.3, mac=0.042, unpack=0.3),
    "bfloat16": Rates(add=0.035, output=0.1, mac=0.0095, unpack=0.3),
    "float16": Rates(add=0.04, output=0.1, mac=0.0095, unpack=0.3),
}
_in_use = [Calibration()]


class ProductPlan(NamedTuple):
    """Which way a product takes, and the seconds the cost model expects of each."""

    method: Literal["event", "dense"]
    density: float
    event_seconds: float
    dense_seconds: float
    reason: str


def calibration() -> Calibration:
    """Return the calibration in use."""
    return _in_use[-1]


@contextmanager
def use_calibration(costs: Calibration) -> Iterator[None]:
    """Decide by another calibration for as long as the block lasts."""
    _in_use.append(costs)
    try:
        yield
    finally:
        _in_use.pop()


def expected_seconds(
    rows: int, columns: int, width: int, count: int, dtype: torch.dtype
) -> tuple[float, float]:
    """Return the seconds the calibration expects by additions and dense."""
    costs = calibration()
    rate = costs.rates[str(dtype).removeprefix("torch.")]
    size, outputs = rows * columns, rows * width
    event = costs.event_call + costs.byte * size / 8 + costs.spike * count
    event += rate.add * count * width + rate.output * outputs
    dense = costs.dense_call + rate.unpack * size + rate.mac * size * width
    return event * 1e-9, dense * 1e-9


def plan_product(
    rows: int,
    columns: int,
    width: int,
    count: int,
    *,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    method: Method = "auto",
) -> ProductPlan:
    """Return which way S @ W takes: S [rows, columns] with `count` spikes, W [columns, width].

    Example:
        >>> plan_product(1024, 1024, 1024, 10_000).method
        'event'
        >>> plan_product(1024, 1024, 1024, 900_000).method
        'dense'
    """
    density = count / max(rows * columns, 1)
    if device != "cpu":
        chosen = "dense" if method == "auto" else method
        reason = "as asked" if method != "auto" else f"no measured costs for {device}"
        return ProductPlan(chosen, density, float("nan"), float("nan"), reason)
    event, dense = expected_seconds(rows, columns, width, count, dtype)
    chosen = ("event" if event < dense else "dense") if method == "auto" else method
    reason = "the cheaper by the calibration" if method == "auto" else "as asked"
    return ProductPlan(chosen, density, event, dense, reason)
