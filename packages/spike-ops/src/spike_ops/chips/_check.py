"""Whether a network fits a chip, where, and why not."""

import math
from dataclasses import dataclass

from torch import nn

from spike_ops.chips._blocks import Block, Shape, blocks_of
from spike_ops.chips._placing import Placement, on_cores, on_kernels
from spike_ops.chips._table import Chip, chip_named
from spike_ops.nir._sample import sample_shape


@dataclass(frozen=True)
class ChipReport:
    """What `check` found.

    Attributes:
        chip: The chip.
        placements: Where each layer goes; empty where it does not fit.
        problems: Why it does not fit, or what it would not compute as it is.
    """

    chip: Chip
    placements: tuple[Placement, ...]
    problems: tuple[str, ...]

    @property
    def fits(self) -> bool:
        """Whether there are no problems."""
        return not self.problems

    def __str__(self) -> str:
        lines = [f"{self.chip.name}: {'fits' if self.fits else 'does not fit'}"]
        for each in self.placements:
            cores = ", ".join(map(str, each.cores))
            lines.append(f"  {each.layer}: core {cores}, {each.neurons} neurons")
        return "\n".join([*lines, *(f"  {problem}" for problem in self.problems)])


def check(net: nn.Module, chip: str | Chip, input_shape: Shape | int) -> ChipReport:
    """Return whether a network fits a chip, on which cores, and why not.

    The limits are published totals, not those of a vendor's compiler: a network that does not fit
    here does not fit; one that does may still be refused by the tools of the chip. Connections into
    a neuron (weights that are not zero) are checked where the chip's maker tells their number, in
    all layers but the last.

    Args:
        net: `nn.Sequential` of Linear, Conv2d, AvgPool2d (also in `spike_ops.nn.Stepwise`),
            Flatten, LIF and IF, and `Recurrent` of these through a Linear or `Diagonal`.
        chip: `"loihi2"`, `"spinnaker2"`, `"speck"` or `"xylo"`, or a `Chip`.
        input_shape: Shape of one sample. Batch, or time and batch, may stand before it where the
            first layer tells: (T, B, 16) before `nn.Linear(16, 8)` is (16,).

    Raises:
        ValueError: There is no such chip, the network is no such sequence, or its first layer does
            not take such samples.

    Example:
        >>> from spike_ops.neuron import IF
        >>> net = nn.Sequential(nn.Linear(16, 8), IF(reset="soft"))
        >>> print(check(net, "speck", (16,)))
        speck: fits
          0: core 0, 8 neurons
        >>> check(net, "xylo", (16,)).problems
        ('0: membranes must decay by 1 - 2^-k, got a factor of 1',)
    """
    limits = chip_named(chip)
    return report_of(blocks_of(net, sample_shape(net, input_shape)), limits)


def report_of(blocks: list[Block], chip: Chip) -> ChipReport:
    """Return whether blocks fit a chip, on which cores, and why not."""
    problems = [problem for block in blocks for problem in _unlike(block, chip)]
    problems += [
        f"{block.name}: weights must have neurons behind them, a readout is for the host"
        for block in blocks
        if block.neurons is None
    ]
    problems += _ends(blocks, chip) + _crowded(blocks[:-1], chip)
    placing = on_kernels if chip.name == "speck" else on_cores
    placements, unplaced = placing(blocks, chip)
    problems += unplaced
    return ChipReport(chip, () if unplaced else tuple(placements), tuple(problems))


def _unlike(block: Block, chip: Chip) -> list[str]:
    """Return what the chip's neurons and layers do not do."""
    found, name = [], block.name
    if isinstance(block.layer, nn.Conv2d) and not chip.convolutions:
        found.append(f"{name}: the chip has no convolutions")
    if block.neurons is None:
        return found
    if block.recurrent is not None and not chip.recurrent:
        found.append(f"{name}: the chip has no connections among neurons of a layer")
    rule = block.neurons.rule
    if rule.reset not in chip.resets:
        found.append(f"{name}: the reset must be {' or '.join(chip.resets)}, got {rule.reset}")
    if chip.leaks == "none" and rule.beta != 1:
        found.append(f"{name}: membranes must not decay, got a factor of {rule.beta:g}")
    if chip.leaks == "shift" and shift_of(rule.beta) is None:
        found.append(f"{name}: membranes must decay by 1 - 2^-k, got a factor of {rule.beta:g}")
    return found


def _ends(blocks: list[Block], chip: Chip) -> list[str]:
    ends = (
        ("inputs", math.prod(blocks[0].heard), chip.inputs),
        ("outputs", blocks[-1].size, chip.outputs),
    )
    return [
        f"the chip has {most} {what}, the network has {got}"
        for what, got, most in ends
        if most is not None and got > most
    ]


def _crowded(blocks: list[Block], chip: Chip) -> list[str]:
    return [
        f"{each.name}: a neuron must hear at most {chip.fan_in} connections, got {each.fan_in}"
        for each in blocks
        if chip.fan_in is not None and each.fan_in > chip.fan_in
    ]


def shift_of(beta: float) -> int | None:
    """Return k where β = 1 - 2^-k with k from 1 to 15, else None."""
    if not 0 < beta < 1:
        return None
    k = round(-math.log2(1 - beta))
    return k if 1 <= k <= 15 and math.isclose(1 - 2.0**-k, beta, rel_tol=1e-12) else None
