"""Where decompositions run."""

from collections.abc import Callable
from typing import TypeVar

import torch

T = TypeVar("T")


def on_backend(backend: str, device: torch.device, work: Callable[[torch.device], T]) -> T:
    """Returns ``work(device)`` run where ``backend`` says.

    ``"cpu"`` and ``"gpu"`` are taken at their word; ``"auto"`` is the layer's own device and, if
    its decomposition fails there, the CPU.

    Raises:
        ValueError: for ``"gpu"`` where there is none.
    """
    if backend == "cpu":
        return work(torch.device("cpu"))
    if backend == "gpu":
        return work(_gpu())
    try:
        return work(device)
    except RuntimeError:  # torch.linalg.LinAlgError, and what a device's solver raises, are such
        return work(torch.device("cpu"))


def _gpu() -> torch.device:
    if not torch.accelerator.is_available():
        raise ValueError(
            'svd_backend must be "auto" or "cpu" on a machine without a GPU, got "gpu"'
        )
    device = torch.accelerator.current_accelerator()
    assert device is not None
    return device
