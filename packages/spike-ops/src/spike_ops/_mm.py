"""Products with spikes, on plain tensors: no autograd here."""

import torch
from torch import Tensor

from spike_ops._cost import Method, ProductPlan, calibration, plan_product
from spike_ops._dense import dense_mm, dense_mm_transposed
from spike_ops._event import GATHERED, event_mm, event_mm_transposed
from spike_ops._index import SpikeIndex


def plan_mm(index: SpikeIndex, rows: int, weight: Tensor, method: Method) -> ProductPlan:
    """Return which way the product of these spikes with a weight takes."""
    columns, width = weight.shape
    if weight.dtype not in GATHERED:
        return ProductPlan("dense", 0.0, float("nan"), float("nan"), f"{weight.dtype} has no sums")
    device = weight.device.type
    return plan_product(
        rows, columns, width, index.count, dtype=weight.dtype, device=device, method=method
    )


def mm(index: SpikeIndex, rows: int, weight: Tensor, method: Method = "auto") -> Tensor:
    """Return S @ W: S [rows, columns] by its index, W [columns, N] dense."""
    if plan_mm(index, rows, weight, method).method == "event":
        return event_mm(index, weight.shape[0], weight)
    return dense_mm(index.packed, rows, weight, onednn=calibration().onednn)


def mm_transposed(
    index: SpikeIndex, columns: int, gradient: Tensor, method: Method = "auto"
) -> Tensor:
    """Return Sᵀ @ G: S [rows, columns] by its index, G [rows, N] dense; the weight's gradient."""
    if plan_mm(index, columns, gradient, method).method == "event":
        return event_mm_transposed(index, columns, gradient)
    return dense_mm_transposed(index.packed, columns, gradient)


def mm_reference(dense: Tensor, weight: Tensor) -> Tensor:
    """Return S @ W by the definition, row after row, spike after spike: the specification."""
    rows = []
    for row in dense:
        total = weight.new_zeros(weight.shape[1])
        for k in row.nonzero().flatten():
            total = total + weight[k]
        rows.append(total)
    return torch.stack(rows) if rows else weight.new_zeros(0, weight.shape[1])
