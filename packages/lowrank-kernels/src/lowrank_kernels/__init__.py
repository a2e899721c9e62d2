"""The rank-r product `up[:, :r] @ (down[:r] @ x)`, at any rank, without copy or recompilation."""

from importlib.metadata import version

from lowrank_kernels._batched import lowrank_linear_batched
from lowrank_kernels._batched_reference import lowrank_linear_batched_reference
from lowrank_kernels._calibrate import calibrate
from lowrank_kernels._calibration import Calibration
from lowrank_kernels._conv import lowrank_conv2d
from lowrank_kernels._conv_reference import lowrank_conv2d_reference
from lowrank_kernels._dispatch import Dispatched, dispatch
from lowrank_kernels._dispatch_conv import DispatchedConv2d, calibrate_conv2d, dispatch_conv2d
from lowrank_kernels._dispatch_samples import DispatchedPerSample, dispatch_per_sample
from lowrank_kernels._dispatcher import Dispatcher
from lowrank_kernels._embedding import lowrank_embedding
from lowrank_kernels._embedding_reference import lowrank_embedding_reference
from lowrank_kernels._explanation import Explanation
from lowrank_kernels._forms import round_rank
from lowrank_kernels._identity import IdentityBlock, identity_block
from lowrank_kernels._identity_conv import lowrank_conv2d_identity
from lowrank_kernels._identity_linear import lowrank_linear_identity
from lowrank_kernels._identity_reference import (
    identity_weight,
    lowrank_conv2d_identity_reference,
    lowrank_linear_identity_reference,
)
from lowrank_kernels._linear import lowrank_linear
from lowrank_kernels._linear_reference import lowrank_linear_reference
from lowrank_kernels._per_sample import lowrank_linear_per_sample
from lowrank_kernels._per_sample_reference import lowrank_linear_per_sample_reference
from lowrank_kernels._prefix import Prefix, prefix

__all__ = [
    "lowrank_linear",
    "lowrank_conv2d",
    "lowrank_embedding",
    "lowrank_linear_per_sample",
    "lowrank_linear_batched",
    "prefix",
    "Prefix",
    "identity_block",
    "IdentityBlock",
    "lowrank_linear_identity",
    "lowrank_conv2d_identity",
    "dispatch",
    "Dispatched",
    "dispatch_conv2d",
    "DispatchedConv2d",
    "dispatch_per_sample",
    "DispatchedPerSample",
    "Dispatcher",
    "calibrate",
    "calibrate_conv2d",
    "Calibration",
    "Explanation",
    "round_rank",
    "lowrank_linear_reference",
    "lowrank_conv2d_reference",
    "lowrank_embedding_reference",
    "lowrank_linear_identity_reference",
    "lowrank_conv2d_identity_reference",
    "identity_weight",
    "lowrank_linear_per_sample_reference",
    "lowrank_linear_batched_reference",
]

__version__ = version("lowrank-kernels")
