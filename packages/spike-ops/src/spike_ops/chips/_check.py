"""Whether a network fits a chip, where, and why not."""

import math
from dataclasses import dataclass

from torch import nn

from spike_ops.chips._blocks import Block, Shape, blocks_of
from spike_ops.chips._table import CORES, KIBI, Chip, chip_named


@dataclass(frozen=True)
class Placement:
    """Where a layer goes.

    Attributes:
        layer: Its name.
        cores: The cores that hold it, by number.
        neurons: Its neurons.
        synapses: Its connections; weights for `speck`, which stores kernels.
    """

    layer: str
    cores: tuple[int, ...]
    neurons: int
    synapses: int


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


def check(net: nn.Module, chip: str | Chip, input_shape: Shape) -> ChipReport:
    """Return whether a network fits a chip, on which cores, and why not.

    The limits are published totals, not those of a vendor's compiler: a network that does not fit
    here does not fit; one that does may still be refused by the tools of the chip. Connections into
    a neuron (weights that are not zero) are checked where the chip's maker tells their number, in
    all layers but the last.

    Args:
        net: `nn.Sequential` of Linear, Conv2d, AvgPool2d (also in `spike_ops.nir.Stepwise`),
            Flatten, LIF and IF, and `Recurrent` of these through a Linear or `Diagonal`.
        chip: `"loihi2"`, `"spinnaker2"`, `"speck"` or `"xylo"`, or a `Chip`.
        input_shape: Shape of one sample without time and batch.

    Raises:
        ValueError: There is no such chip, or the network is no such sequence.

    Example:
        >>> from spike_ops.neuron import IF
        >>> net = nn.Sequential(nn.Linear(16, 8), IF(reset="soft"))
        >>> print(check(net, "speck", (16,)))
        speck: fits
          0: core 0, 8 neurons
        >>> check(net, "xylo", (16,)).problems
        ('0: membranes must decay by 1 - 2^-k, got a factor of 1',)
    """
    limits, blocks = chip_named(chip), blocks_of(net, input_shape)
    problems = [problem for block in blocks for problem in _unlike(block, limits)]
    problems += _ends(blocks, limits) + _crowded(blocks[:-1], limits)
    placing = _on_kernels if limits.name == "speck" else _on_cores
    placements, unplaced = placing(blocks, limits)
    problems += unplaced
    return ChipReport(limits, () if unplaced else tuple(placements), tuple(problems))


def _unlike(block: Block, chip: Chip) -> list[str]:
    """Return what the chip's neurons and layers do not do."""
    found, name = [], block.name
    if isinstance(block.layer, nn.Conv2d) and not chip.convolutions:
        found.append(f"{name}: the chip has no convolutions")
    if block.neurons is None:
        return [*found, f"{name}: weights must have neurons behind them, a readout is for the host"]
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


def _on_cores(blocks: list[Block], chip: Chip) -> tuple[list[Placement], list[str]]:
    placements, problems, used = [], [], 0
    per_core = chip.neurons_per_core or 1
    for block in blocks:
        count = -(-block.size // per_core)
        cores = tuple(range(used, used + count))
        if chip.cores == 1:
            cores = (0,)  # layers share it
        used = max(cores) + 1
        placements.append(Placement(block.name, cores, block.size, block.synapses))
    for what, got, most in (
        ("cores", used, chip.cores),
        ("neurons", sum(each.size for each in blocks), chip.neurons),
        ("synapses", sum(each.synapses for each in blocks), chip.synapses),
    ):
        if most is not None and got > most:
            problems.append(f"the chip has {most} {what}, the network needs {got}")
    return placements, problems


def memories(block: Block) -> tuple[int, int]:
    """Return the entries of kernel and neuron memory that a layer takes on DYNAP-CNN and Speck.

        kernel: C_in 2^(⌈log2 kx ky⌉ + ⌈log2 C_out⌉);   neurons: C_out 2^(⌈log2 fx⌉ + ⌈log2 fy⌉)

    A linear layer behind a flatten is a convolution whose kernel is the whole feature map.
    """
    kernel, channels = _kernel(block)
    height, width = block.shape[1:] or (1, 1)
    log = [math.ceil(math.log2(each)) for each in (math.prod(kernel), block.shape[0])]
    map_log = math.ceil(math.log2(height)) + math.ceil(math.log2(width))
    return channels << sum(log), block.shape[0] << map_log


def _kernel(block: Block) -> tuple[Shape, int]:
    if isinstance(block.layer, nn.Conv2d):
        return tuple(block.layer.kernel_size), block.layer.in_channels
    return block.area, block.heard[0] // math.prod(block.area)


def _on_kernels(blocks: list[Block], chip: Chip) -> tuple[list[Placement], list[str]]:
    problems = [problem for block in blocks for problem in _bad_kernel(block)]
    if len(blocks) > chip.cores:
        problems.append(f"the chip has {chip.cores} cores, the network needs {len(blocks)}")
    fitting = []
    for block in blocks:
        kernel, neurons = memories(block)
        cores = [k for k, (w, n) in enumerate(CORES) if kernel <= w * KIBI and neurons <= n * KIBI]
        fitting.append(cores)
        if not cores:
            needs = f"{kernel / KIBI:g} Ki of kernel and {neurons / KIBI:g} Ki of neuron memory"
            problems.append(f"{block.name}: needs {needs}, no core has that")
    taken: dict[int, int] = {}
    if not problems and not all(_seat(k, fitting, taken, set()) for k in range(len(blocks))):
        problems.append("each layer fits a core, but there are not enough such cores for all")
    place = {layer: core for core, layer in taken.items()}
    return [
        Placement(each.name, (place[k],), each.size, int(each.layer.weight.numel()))
        for k, each in enumerate(blocks)
        if k in place
    ], problems


def _bad_kernel(block: Block) -> list[str]:
    found, (kernel, _) = [], _kernel(block)
    if max(kernel) > 16:
        found.append(f"{block.name}: a kernel must be at most 16 by 16, got {kernel}")
    if block.shape[0] > 1024:
        found.append(f"{block.name}: channels must be at most 1024, got {block.shape[0]}")
    if isinstance(block.layer, nn.Conv2d):
        if not set(block.layer.stride) <= {1, 2, 4, 8}:
            found.append(f"{block.name}: strides must be 1, 2, 4 or 8, got {block.layer.stride}")
        if block.layer.groups != 1 or set(block.layer.dilation) != {1}:
            found.append(f"{block.name}: convolutions must have neither groups nor dilation")
    return found


def _seat(layer: int, fitting: list[list[int]], taken: dict[int, int], tried: set[int]) -> bool:
    """Give a layer a core, moving others where that makes room."""
    for core in fitting[layer]:
        if core in tried:
            continue
        tried.add(core)
        if core not in taken or _seat(taken[core], fitting, taken, tried):
            taken[core] = layer
            return True
    return False
