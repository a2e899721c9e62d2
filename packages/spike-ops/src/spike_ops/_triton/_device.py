"""What the kernels of this folder can take, and how they are compiled."""

import torch
import triton
from torch import Tensor

# products and sums of the same call may not be fused: the numbers are those of torch's operations
EXACT = {"enable_fp_fusion": False}
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# set before triton is imported; decides whether kernels run on the CPU
INTERPRETED = bool(triton.knobs.runtime.interpret)


def check_device(*tensors: Tensor) -> None:
    """Raise for tensors that no kernel can reach.

    Raises:
        ValueError: A tensor is not on a CUDA device and the interpreter is off.
    """
    for tensor in tensors:
        if not (tensor.is_cuda or INTERPRETED):
            raise ValueError(f"triton needs tensors on a CUDA device, got {tensor.device}")


def check_floats(*tensors: Tensor) -> None:
    """Raise for numbers that no kernel computes with.

    Raises:
        TypeError: The type is none of float32, float16 and bfloat16.
    """
    for tensor in tensors:
        # the interpreter gives wrong numbers in bfloat16, silently
        if tensor.dtype not in FLOATS or (INTERPRETED and tensor.dtype == torch.bfloat16):
            raise TypeError(f"triton has no kernel for {tensor.dtype} here")
