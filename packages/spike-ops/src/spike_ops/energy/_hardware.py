"""What an operation costs: arithmetic of a technology, synaptic operations of a chip."""

from dataclasses import dataclass

HOROWITZ = (
    'M. Horowitz, "Computing\'s energy problem (and what we can do about it)", ISSCC 2014, 45 nm'
)
SENECA = (
    'G. Tang et al., "SENECA: building a fully digital neuromorphic processor", '
    "Frontiers in Neuroscience 2023, table 3"
)


@dataclass(frozen=True)
class Technology:
    """Picojoules of arithmetic and of moving one word; memory in proportion to its bits."""

    add_pj: float
    multiply_pj: float
    sram_pj: float  # one word from 8 KB on the chip
    dram_pj: float  # one word from outside
    note: str = ""
    source: str = HOROWITZ

    @property
    def mac_pj(self) -> float:
        """A multiplication and an addition."""
        return self.multiply_pj + self.add_pj


@dataclass(frozen=True)
class Chip:
    """Picojoules of a synaptic operation, memory included, as published."""

    synop_pj: float
    first: str  # who published the figure first
    source: str = SENECA


TECHNOLOGIES = {
    "45nm-float32": Technology(0.9, 3.7, 5.0, 640.0),
    "45nm-float16": Technology(0.4, 1.1, 2.5, 320.0),
    "45nm-int8": Technology(0.03, 0.2, 1.25, 160.0, "sums of 8 bits, which overflow in practice"),
    "45nm-int8-sum32": Technology(0.1, 0.2, 1.25, 160.0, "weights of 8 bits, sums of 32"),
}
CHIPS = {
    "Loihi": Chip(23.6, "Davies et al. 2018"),
    "SpiNNaker": Chip(45.0, "Stromatias et al. 2013"),
    "SpiNNaker2": Chip(10.0, "Höppner et al. 2021"),
    "TrueNorth": Chip(2.5, "Akopyan et al. 2015"),
    "Tianjic": Chip(1.54, "Deng et al. 2020"),
    "ODIN": Chip(12.7, "Frenkel et al. 2018"),
    "ReckOn": Chip(5.3, "Frenkel and Indiveri 2022"),
    "µBrain": Chip(26.0, "Stuijt et al. 2021"),
    "NeuronFlow": Chip(20.0, "Moreira et al. 2020"),
    "SENECA": Chip(2.8, "Tang et al. 2023"),
}
