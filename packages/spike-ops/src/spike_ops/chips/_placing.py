"""Which cores of a chip hold which layers."""

import math
from dataclasses import dataclass

from torch import nn

from spike_ops.chips._blocks import Block, Shape
from spike_ops.chips._table import CORES, KIBI, Chip


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


def on_cores(blocks: list[Block], chip: Chip) -> tuple[list[Placement], list[str]]:
    """Return where layers go on cores that hold so many neurons, and what does not fit."""
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
    area = block.area or (1, 1)
    return area, block.heard[0] // math.prod(area)


def on_kernels(blocks: list[Block], chip: Chip) -> tuple[list[Placement], list[str]]:
    """Return where layers go, each on a core of its own by its memories, and what does not fit."""
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
        Placement(each.name, (place[k],), each.size, each.weights)
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
