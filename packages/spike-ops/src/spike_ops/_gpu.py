"""Where the kernels in Triton run: on NVIDIA GPUs they are compiled for, if triton is installed."""

import importlib
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

OLDEST = (8, 0)  # compute capability: the first with products in bfloat16
# of the numbers that the kernels read and write
NUMBERS = (torch.bool, torch.float32, torch.float16, torch.bfloat16, torch.float64)


def on_gpu(tensor: Tensor) -> bool:
    """Say whether kernels can take a tensor: real data on such a GPU, not being traced."""
    return (
        tensor.is_cuda
        and type(tensor) in {Tensor, torch.nn.Parameter}
        and not torch.compiler.is_compiling()
        and _has_kernels(tensor.device)
    )


@lru_cache
def _has_kernels(device: torch.device) -> bool:
    nvidia = torch.version.hip is None and torch.cuda.get_device_capability(device) >= OLDEST
    return nvidia and find_spec("triton") is not None


def kernels(name: str) -> Any:
    """Return a module of kernels; asked for where `on_gpu` says yes, or by a user.

    Raises:
        ModuleNotFoundError: Triton is not installed.
    """
    try:
        return importlib.import_module(f"spike_ops._triton.{name}")
    except ModuleNotFoundError as error:
        text = "backend 'triton' needs the extra: pip install 'spike-ops[triton]'"
        raise ModuleNotFoundError(text) from error
