"""The rank-r product `up[:, :r] @ (down[:r] @ x)`, at any rank, without copy or recompilation."""

from importlib.metadata import version

from lowrank_kernels._conv import lowrank_conv2d
from lowrank_kernels._conv_reference import lowrank_conv2d_reference
from lowrank_kernels._linear import lowrank_linear
from lowrank_kernels._linear_reference import lowrank_linear_reference
from lowrank_kernels._prefix import Prefix, prefix

__all__ = [
    "lowrank_linear",
    "lowrank_conv2d",
    "prefix",
    "Prefix",
    "lowrank_linear_reference",
    "lowrank_conv2d_reference",
]

__version__ = version("lowrank-kernels")
