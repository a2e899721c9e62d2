"""What neuromorphic chips hold, as published."""

from dataclasses import dataclass
from typing import Literal

KIBI = 1024
# of each of the nine cores of DYNAP-CNN and Speck: entries of kernel and of neuron memory
CORES = (
    (16, 64), (16, 64), (16, 64), (32, 32), (32, 32), (64, 16), (64, 16), (16, 16), (16, 16),
)  # fmt: skip


@dataclass(frozen=True)
class Chip:
    """The limits of a chip.

    Attributes:
        name: Its name.
        cores: Processing cores.
        neurons: Neurons in all.
        neurons_per_core: Neurons that a core holds; None where other memories limit it.
        synapses: Synapses in all; None where other memories limit it.
        weight_bits: Bits of a weight.
        state_bits: Bits of a membrane.
        resets: The resets of its neurons.
        leaks: How membranes decay: by any factor, by 1 - 2^-k ("shift"), or not at all.
        convolutions: Whether it runs convolutions.
        source: Where the limits are published.
        inputs: Inputs of the first layer; None for any number.
        outputs: Neurons of the last layer; None for any number.
        fan_in: Connections into one neuron, those of the last layer left out; None for any number.
        recurrent: Whether neurons of a layer can hear each other.
    """

    name: str
    cores: int
    neurons: int | None
    neurons_per_core: int | None
    synapses: int | None
    weight_bits: int
    state_bits: int
    resets: tuple[str, ...]
    leaks: Literal["any", "shift", "none"]
    convolutions: bool
    source: str
    inputs: int | None = None
    outputs: int | None = None
    fan_in: int | None = None
    recurrent: bool = True


LOIHI2 = Chip(
    "loihi2", 128, 128 * 8192, 8192, 120_000_000, 8, 24, ("hard", "soft", "none"), "any", True,
    "Intel, Taking Neuromorphic Computing to the Next Level with Loihi 2, technology brief, 2021",
)  # fmt: skip
SPINNAKER2 = Chip(
    "spinnaker2", 152, 152_000, 1000, 152_000_000, 8, 32, ("hard", "soft", "none"), "any", True,
    "H. A. Gonzalez et al., SpiNNaker2: A Large-Scale Neuromorphic System, 2024",
)  # fmt: skip
SPECK = Chip(
    "speck", 9, None, None, None, 8, 16, ("soft",), "none", True,
    "O. Richter et al., Speck: A Smart Event-Based Vision Sensor, 2023; SynSense, sinabs manual",
    recurrent=False,
)  # fmt: skip
XYLO = Chip(
    "xylo", 1, 1000, 1000, 278_000, 8, 16, ("soft",), "shift", False,
    "H. Bos and D. Muir, Sub-mW Neuromorphic SNN Audio Processing Applications, 2022; fan-in: "
    "SynSense, Xylo Audio 2 (SYNS61201)",
    inputs=16, outputs=8, fan_in=63,
)  # fmt: skip
CHIPS = {chip.name: chip for chip in (LOIHI2, SPINNAKER2, SPECK, XYLO)}


def chip_named(chip: str | Chip) -> Chip:
    """Return a chip by its name.

    Raises:
        ValueError: There is no such chip.
    """
    if isinstance(chip, Chip):
        return chip
    if chip not in CHIPS:
        raise ValueError(f"chip must be one of {', '.join(CHIPS)}, got {chip!r}")
    return CHIPS[chip]
