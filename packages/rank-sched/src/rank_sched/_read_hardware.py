"""Turning what a user calls a device into a profile."""

from collections.abc import Callable, Mapping
from dataclasses import fields, replace

from rank_sched._hardware import HardwareProfile
from rank_sched._numbers import number_in
from rank_sched._profiles import PROFILES

# boost clock of the V100: with its 5120 cores this gives the 15.7 TFLOP/s of its datasheet
_CLOCK_HZ = 1.53e9

_FIELDS = {field.name for field in fields(HardwareProfile)}
_ALIASES = {"gpu_type", "gpu_cores", "clock_hz", "memory_bandwidth", "flops_per_mac"}
_WORDS = {"name", "gpu_type"}
_UNITLESS = {
    "energy_per_flop": "energy_per_flop_j (joules; 1e-6 is a million times too much, 1e-12 to "
    "1e-10 is usual)",
    "energy_per_byte": "energy_per_byte_j (joules)",
    "peak_flops": "peak_flops_per_s (FLOP per second)",
    "idle_power": "idle_power_w (watts)",
    "launch_overhead": "launch_overhead_s (seconds)",
    "memory": "memory_bytes (bytes)",
}


def read_hardware(
    hardware: HardwareProfile | str | Mapping[str, float | str],
) -> HardwareProfile:
    """Return the profile that a profile, a profile's name or a dictionary stands for.

    Raises:
        ValueError: An unknown name or key, a key without a unit, or an impossible value.
        TypeError: Anything else.
    """
    if isinstance(hardware, HardwareProfile):
        return hardware
    if isinstance(hardware, str):
        return _named("hardware", hardware)
    if isinstance(hardware, Mapping):
        return _from_mapping(hardware)
    raise TypeError(
        "hardware must be a HardwareProfile, the name of one or a dictionary, "
        f"got {type(hardware).__name__}"
    )


def _named(argument: str, name: object) -> HardwareProfile:
    key = str(name).lower().replace("_", "-")
    if key not in PROFILES:
        raise ValueError(f"{argument} must be one of {', '.join(PROFILES)}, got {name!r}")
    return PROFILES[key]


def _from_mapping(table: Mapping[str, float | str]) -> HardwareProfile:
    table = {key: value if key in _WORDS else _read(value) for key, value in table.items()}
    _check_keys(table)
    base = _named("gpu_type", table.get("gpu_type", "v100"))
    values = {key: value for key, value in table.items() if key in _FIELDS}
    values |= {"name": values.get("name", "custom")}
    for field, read in _DERIVED.items():
        value = read(table)
        if value is not None and field in values:
            raise ValueError(f"hardware must give {field} once, got it in two ways")
        values |= {} if value is None else {field: value}
    return replace(base, **values)  # type: ignore[arg-type]  # checked by the profile itself


def _read(value: float | str) -> float | str:
    """Read a number written as text: YAML 1.1 takes 1e-12 for a word."""
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return value  # refused later, by name


def _check_keys(table: Mapping[str, float | str]) -> None:
    for key in table:
        if key in _UNITLESS:
            raise ValueError(f"{key}={table[key]!r} has no unit, write {_UNITLESS[key]}")
        if key not in _FIELDS | _ALIASES:
            known = ", ".join(sorted(_FIELDS | _ALIASES))
            raise ValueError(f"hardware must use the keys {known}, got {key!r}")
    if "clock_hz" in table and "gpu_cores" not in table:
        raise ValueError("clock_hz must come with gpu_cores, it has no meaning alone")
    if table.get("flops_per_mac", 2) != 2:
        raise ValueError(
            f"flops_per_mac must be 2, as everywhere here, got {table['flops_per_mac']!r}"
        )


def _peak(table: Mapping[str, float | str]) -> float | None:
    if "gpu_cores" not in table:
        return None
    cores = _in(table, "gpu_cores", 1, 1e6, "; it counts cores")
    clock = _in(table, "clock_hz", 1e6, 1e11, " Hz", default=_CLOCK_HZ)
    return cores * 2 * clock


def _bandwidth(table: Mapping[str, float | str]) -> float | None:
    if "memory_bandwidth" not in table:
        return None
    return _in(table, "memory_bandwidth", 1e8, 1e15, "; it is in bytes per second")


_DERIVED: dict[str, Callable[[Mapping[str, float | str]], float | None]] = {
    "peak_flops_per_s": _peak,
    "bandwidth_bytes_per_s": _bandwidth,
}


def _in(
    table: Mapping[str, float | str],
    key: str,
    low: float,
    high: float,
    hint: str,
    *,
    default: float = 0.0,
) -> float:
    return number_in(key, table.get(key, default), low, high, hint=hint)
