"""Keeps the settings of a training loop away from the arithmetic of a sketch."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from fd_sketch._arrays import Home


@contextmanager
def plain_arithmetic(home: Home) -> Iterator[None]:
    """Run torch operations on a device without autocast, inference mode or reduced precision.

    Forward hooks run under autocast, where a product of float32 matrices is computed in
    bfloat16; TF32 does the same more quietly. Either breaks the bounds. Buffers allocated under
    inference mode could not be written outside of it.
    """
    if home.on_host or home.library != "torch":
        yield
        return
    torch = sys.modules["torch"]
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(mode=False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(torch.autocast(home.device.type, enabled=False))
        for backend in (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul):
            stack.enter_context(_full_precision(backend))
        yield


@contextmanager
def _full_precision(backend: Any) -> Iterator[None]:
    """Compute float32 products in float32; the setting exists since torch 2.9."""
    before = getattr(backend, "fp32_precision", "ieee")
    if before in {"ieee", "none"}:
        yield
        return
    backend.fp32_precision = "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before
