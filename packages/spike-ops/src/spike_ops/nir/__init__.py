"""Networks to and from the neuromorphic intermediate representation (NIR)."""

from spike_ops.nir._cells import Cells, Chain, Integrator
from spike_ops.nir._errors import NirError
from spike_ops.nir._export import to_nir
from spike_ops.nir._files import read, write
from spike_ops.nir._import import from_nir
from spike_ops.nir._layers import DelayEach, Fire, Scale
from spike_ops.nir._network import NirNetwork
from spike_ops.nn._stepwise import Stepwise

__all__ = [
    "to_nir", "from_nir", "read", "write", "NirError", "NirNetwork",
    "Stepwise", "Integrator", "Cells", "Chain", "Fire", "Scale", "DelayEach",
]  # fmt: skip
