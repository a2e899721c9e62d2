"""Memory for intermediate results that is kept from call to call.

Fresh memory of a megabyte comes page by page from the operating system, which can cost as much as
the product that is to be stored there. Each thread keeps one buffer for each use; none leaves it.
"""

import threading

import torch
from torch import Tensor

_LARGEST = 1 << 26  # bytes; anything larger is allocated and freed
_kept = threading.local()


def scratch(use: str, like: Tensor, rows: int, columns: int) -> Tensor:
    """Return `[rows, columns]` of any content, valid until the next call for the same use."""
    numbers = rows * columns
    if numbers * like.element_size() > _LARGEST or like.device.type != "cpu":
        return like.new_empty(rows, columns)
    name = f"{use} {like.dtype}"
    held: Tensor | None = getattr(_kept, name, None)
    if held is None or held.numel() < numbers:
        # memory of inference mode could not be written outside of it
        with torch.inference_mode(False):
            held = torch.empty(numbers, dtype=like.dtype, device=like.device)
        setattr(_kept, name, held)
    return held[:numbers].view(rows, columns)
