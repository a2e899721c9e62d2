"""Products with spikes, on plain tensors: no autograd here."""

import torch
from torch import Tensor

from spike_ops import _native
from spike_ops._bits import unpack_bits
from spike_ops._cost import Method, ProductPlan, calibration, plan_product, unmeasured
from spike_ops._dense import dense_mm, dense_mm_transposed
from spike_ops._event import GATHERED, event_mm, event_mm_transposed, gather_add
from spike_ops._gpu import kernels, on_gpu
from spike_ops._index import Bags, SpikeIndex
from spike_ops._native_tables import look_up
from spike_ops._ways import ways

ADDED_ON_GPU = (torch.float32, torch.float16, torch.bfloat16)


def plan_mm(
    index: SpikeIndex,
    rows: int,
    weight: Tensor,
    method: Method,
    *,
    columns: int | None = None,
    transposed: bool = False,
) -> ProductPlan:
    """Return which way the product of these spikes, in rows of `columns`, with a weight takes."""
    columns = weight.shape[0] if columns is None else columns
    if weight.dtype not in GATHERED:
        return ProductPlan("dense", 0.0, float("nan"), float("nan"), f"{weight.dtype} has no sums")
    if weight.device.type != "cpu":
        # the count would wait for the device, and decides nothing there yet
        return unmeasured(weight.device.type, method)
    return plan_product(
        rows,
        columns,
        weight.shape[1],
        index.count,
        dtype=weight.dtype,
        device=weight.device.type,
        method=method,
        transposed=transposed,
        turned=not weight.is_contiguous(),
    )


def mm(index: SpikeIndex, rows: int, weight: Tensor, method: Method = "auto") -> Tensor:
    """Return S @ W: S [rows, columns] by its index, W [columns, N] dense."""
    if not index.size:
        return weight.new_zeros(rows, weight.shape[1])
    if _event(index, rows, weight, method):
        if on_gpu(index.packed) and weight.dtype in ADDED_ON_GPU:
            return _added_on_gpu(index, rows, weight)
        return event_mm(index, weight.shape[0], weight)
    if _looked_up(index, rows, weight):
        return look_up(index.packed, rows, weight)
    return dense_mm(index.packed, rows, weight, onednn=calibration().onednn)


def mm_transposed(
    index: SpikeIndex, columns: int, gradient: Tensor, method: Method = "auto"
) -> Tensor:
    """Return Sᵀ @ G: S [rows, columns] by its index, G [rows, N] dense; the weight's gradient."""
    if not index.size:
        return gradient.new_zeros(columns, gradient.shape[1])
    if _event(index, columns, gradient, method, transposed=True):
        if on_gpu(index.packed) and gradient.dtype in ADDED_ON_GPU:
            return _added_on_gpu(index, columns, gradient, transposed=True)
        return event_mm_transposed(index, columns, gradient)
    return dense_mm_transposed(index.packed, columns, gradient)


def _event(
    index: SpikeIndex, rows: int, weight: Tensor, method: Method, *, transposed: bool = False
) -> bool:
    """Say whether a product goes by additions: what `plan_mm` decides, without its seconds."""
    if method != "auto" or not weight.is_cpu or weight.dtype not in GATHERED:
        plan = plan_mm(index, rows, weight, method, transposed=transposed)
        return plan.method == "event"
    columns, width = weight.shape
    known = ways(rows, columns, width, weight.dtype, transposed, not weight.is_contiguous())
    if known.below > rows * columns:
        return True
    return known.event(index.counted)


def _looked_up(index: SpikeIndex, rows: int, weight: Tensor) -> bool:
    """Say whether a dense product goes by tables of the kernels."""
    if not (_native.knows(weight.dtype) and _native.takes(weight, index.packed)):
        return False
    columns, width = weight.shape
    return (
        weight.is_contiguous() and ways(rows, columns, width, weight.dtype, False, False).looked_up
    )


def _added_on_gpu(
    index: SpikeIndex, rows: int, weight: Tensor, *, transposed: bool = False
) -> Tensor:
    """Return what the event path does without waiting for the device: nothing is counted there.

    For any number of rows by additions: a sum depends on nothing but its own row.
    """
    run = kernels("_products").event_mm
    sums: Tensor = run(index.packed, rows, weight, transposed=transposed)
    return sums


def bmm(index: SpikeIndex, rows: int, weight: Tensor, method: Method = "auto") -> Tensor:
    """Return S_i @ W_i: S [batch, rows, K] by its index, W [batch, K, N] dense."""
    batch, columns, width = weight.shape
    if not index.size:
        return weight.new_zeros(batch, rows, width)
    table = weight.reshape(batch * columns, width)
    if plan_mm(index, batch * rows, table, method, columns=columns).method == "dense":
        return unpack_bits(index.packed, (batch, rows, columns), weight.dtype) @ weight
    entries, borders = index.by_row(columns)
    spans = borders[::rows].diff()
    matrix = torch.arange(batch, dtype=torch.int32, device=entries.device).repeat_interleave(spans)
    return gather_add(Bags(entries + matrix * columns, borders), table).view(batch, rows, width)


def mm_reference(dense: Tensor, weight: Tensor) -> Tensor:
    """Return S @ W by the definition, row after row, spike after spike: the specification."""
    rows = []
    for row in dense:
        total = weight.new_zeros(weight.shape[1])
        for k in row.nonzero().flatten():
            total = total + weight[k]
        rows.append(total)
    return torch.stack(rows) if rows else weight.new_zeros(0, weight.shape[1])
