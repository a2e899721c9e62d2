"""Estimates of energy: counted operations times published costs, and what is assumed by that."""

from dataclasses import dataclass

from spike_ops.energy._counts import OperationCounts
from spike_ops.energy._hardware import CHIPS, TECHNOLOGIES, Chip, Technology

PICO = 1e-12
ALWAYS = (
    "an estimate from counted operations, not a measurement; not the energy of this machine",
    "neurons, encoders, biases, control, leakage and everything uncounted are left out",
)


@dataclass(frozen=True)
class EnergyEstimate:
    """Estimated joules of one sample, and everything that the figure takes for granted.

    Attributes:
        hardware: The technology or the chip.
        compute_j: Arithmetic alone; None for a chip, whose figure cannot be split.
        with_memory_j: With weights (and the values of MACs) read from memory on the chip.
        with_dram_j: The same read from memory outside; None for a chip.
        dense_compute_j: Arithmetic if every operation were a MAC and nothing zero.
        dense_with_memory_j: That with memory on the chip.
        assumptions: What is assumed.
        source: Where the costs of an operation are from.

    Example:
        >>> from spike_ops.energy import LayerOperations
        >>> counts = OperationCounts({"read": LayerOperations(acs=1_000)}, samples=1)
        >>> estimate_energy(counts, "Loihi").source[:19]
        'Davies et al. 2018,'
    """

    hardware: str
    compute_j: float | None
    with_memory_j: float
    with_dram_j: float | None
    dense_compute_j: float | None
    dense_with_memory_j: float | None
    assumptions: tuple[str, ...]
    source: str

    def __str__(self) -> str:
        """Return one line: compute-only and with memory, side by side."""
        compute = "not told" if self.compute_j is None else f"{self.compute_j:.3g} J"
        told = f"compute {compute}, with memory {self.with_memory_j:.3g} J"
        return f"{self.hardware} (estimate, a sample): {told}"


def estimate_energy(
    counts: OperationCounts,
    hardware: str = "45nm-float32",
    *,
    accumulator_accesses: int = 0,
) -> EnergyEstimate:
    """Return the estimated energy of a sample on a technology or a chip.

    Technologies: compute = ACs add + MACs (multiply + add); with memory, every operation reads its
    weight and a MAC its value as well, and nothing is read twice for less. A weight read from
    memory costs more than the arithmetic that a spike saves: compare the figures with memory.
    Chips: synaptic operations times the published figure, memory included.

    Args:
        counts: What `count_operations` counted.
        hardware: One of `hardware_names()`.
        accumulator_accesses: Reads and writes of the sum that an AC makes in memory: 0 if sums stay
            in registers, 2 if every spike is worked off on its own.

    Raises:
        ValueError: There is no such hardware, or a number is negative.
        TypeError: `counts` are no `OperationCounts`.

    Example:
        >>> from spike_ops.energy import LayerOperations
        >>> counts = OperationCounts({"0": LayerOperations(acs=1_000_000, dense=10_000_000)}, 1)
        >>> estimate = estimate_energy(counts)
        >>> print(estimate)
        45nm-float32 (estimate, a sample): compute 9e-07 J, with memory 5.9e-06 J
        >>> round(estimate.dense_compute_j / estimate.compute_j, 1)  # what leaving memory out shows
        51.1
        >>> round(estimate.dense_with_memory_j / estimate.with_memory_j, 1)
        24.7
    """
    if not isinstance(counts, OperationCounts):
        got = type(counts).__name__
        raise TypeError(f"counts must be what count_operations returns, got {got}")
    if accumulator_accesses < 0:
        raise ValueError(f"accumulator_accesses must not be negative, got {accumulator_accesses}")
    if hardware in TECHNOLOGIES:
        return _of_technology(counts, hardware, TECHNOLOGIES[hardware], accumulator_accesses)
    if hardware in CHIPS:
        return _of_chip(counts, hardware, CHIPS[hardware])
    raise ValueError(f"hardware must be one of {', '.join(hardware_names())}, got {hardware!r}")


def hardware_names() -> list[str]:
    """Return the technologies and chips that there are costs for.

    Example:
        >>> hardware_names()[:2]
        ['45nm-float32', '45nm-float16']
    """
    return [*TECHNOLOGIES, *CHIPS]


def energy_table(counts: OperationCounts) -> list[EnergyEstimate]:
    """Return the estimates on all technologies and chips.

    Example:
        >>> from spike_ops.energy import LayerOperations
        >>> table = energy_table(OperationCounts({"0": LayerOperations(acs=1_000)}, 1))
        >>> print(table[-1])
        SENECA (estimate, a sample): compute not told, with memory 2.8e-09 J
    """
    return [estimate_energy(counts, name) for name in hardware_names()]


def _of_technology(
    counts: OperationCounts, name: str, costs: Technology, accumulator: int
) -> EnergyEstimate:
    acs, macs, dense = counts.effective_acs, counts.effective_macs, counts.dense
    compute = acs * costs.add_pj + macs * costs.mac_pj
    words = acs * (1 + accumulator) + macs * 2
    dense_compute = dense * costs.mac_pj
    sums = "stays in a register" if not accumulator else f"is accessed {accumulator} times an AC"
    assumptions = (
        *ALWAYS,
        "every operation reads its weight, a MAC its value too; nothing is reused",
        f"the sum {sums}; memory on the chip is 8 KB of SRAM, energy in proportion to bits",
        *([costs.note] if costs.note else []),
    )
    return EnergyEstimate(
        name,
        compute * PICO,
        (compute + words * costs.sram_pj) * PICO,
        (compute + words * costs.dram_pj) * PICO,
        dense_compute * PICO,
        (dense_compute + 2 * dense * costs.sram_pj) * PICO,
        assumptions,
        costs.source,
    )


def _of_chip(counts: OperationCounts, name: str, costs: Chip) -> EnergyEstimate:
    assumptions: tuple[str, ...] = (
        *ALWAYS,
        "the published figure holds for this network: it varies several-fold between applications",
    )
    if counts.effective_macs:
        assumptions += ("a MAC counts as one synaptic operation; many chips take spikes alone",)
    total = counts.synops * costs.synop_pj * PICO
    source = f"{costs.first}, as compared in {costs.source}"
    return EnergyEstimate(name, None, total, None, None, None, assumptions, source)
