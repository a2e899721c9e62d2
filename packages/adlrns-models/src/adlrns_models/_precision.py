"""How finely products are computed, which is not always what their types say."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer

# of a number of eight bits of exponent and ten of fraction
_TF32 = 2.0**-10


def epsilon_of(layer: "DynamicLayer", h: Tensor) -> float:
    """Returns the relative precision of inner values ``h`` as their product was computed.

    That of the coarser of factors and values, which autocast makes differ, or of what torch may
    compute single precision in (``torch.backends.fp32_precision`` and those below it).
    """
    types = (layer.up.dtype, h.dtype)
    eps = max(torch.finfo(dtype).eps for dtype in types)
    return max(eps, _shortened(layer)) if torch.float32 in types else eps


def _shortened(layer: "DynamicLayer") -> float:
    """Returns the precision that factors of single precision may be cut to, 0 for none."""
    backends: Any = torch.backends  # its parts have no types
    on_cpu = layer.up.device.type == "cpu"
    if layer.dim == -1:
        place = backends.mkldnn.matmul if on_cpu else backends.cuda.matmul
    else:
        place = backends.mkldnn.conv if on_cpu else backends.cudnn.conv
    name: str = place.fp32_precision
    return {"tf32": _TF32, "bf16": torch.finfo(torch.bfloat16).eps}.get(name, 0.0)
