"""What operations of torch do with spikes: one row per operator.

Whatever is in no row, here or in `_aten_views`, sees the dense zeros and ones.
"""

from typing import Any

import torch
from torch import Tensor

import spike_ops._aten_conv
import spike_ops._aten_views  # noqa: F401 - enters what rearranging operations do
from spike_ops._bits import in_numpy
from spike_ops._handlers import handles
from spike_ops._product import product
from spike_ops._spike_tensor import FLOATS, SpikeTensor, dense_of, like

aten = torch.ops.aten


@handles(aten.detach.default, aten.alias.default)
def _same(spikes: SpikeTensor) -> SpikeTensor:
    return like(spikes, spikes._packed, spikes.shape, transposed=spikes._transposed)


@handles(aten.clone.default)
def _clone(spikes: SpikeTensor, memory_format: Any = None) -> SpikeTensor:
    del memory_format
    return like(spikes, spikes._packed.clone(), spikes.shape, transposed=spikes._transposed)


@handles(aten._to_copy.default)
def _to_copy(spikes: SpikeTensor, **options: Any) -> Any:
    dtype = options.get("dtype") or spikes.dtype
    if dtype not in FLOATS or options.get("layout") not in {None, torch.strided}:
        return NotImplemented
    device = torch.device(options.get("device") or spikes.device)
    same = in_numpy(spikes._packed) and device.type == "cpu"
    # nobody writes into spikes: another dtype of the same bits shares them
    packed = spikes._packed if same else spikes._packed.to(device, copy=True)
    return like(spikes, packed, spikes.shape, transposed=spikes._transposed, dtype=dtype)


@handles(aten.mm.default)
def _mm(left: Tensor, right: Tensor) -> Tensor:
    if isinstance(left, SpikeTensor):
        return product(left, dense_of(right) if isinstance(right, SpikeTensor) else right)
    assert isinstance(right, SpikeTensor)
    # G S = (Sᵀ Gᵀ)ᵀ: the weight's gradient as autograd asks for it
    turned = like(right, right._packed, right.shape[::-1], transposed=not right._transposed)
    return product(turned, left.t()).t()


@handles(aten.addmm.default)
def _addmm(bias: Tensor, left: Tensor, right: Tensor, *, beta: float = 1, alpha: float = 1) -> Any:
    if isinstance(bias, SpikeTensor) or beta != 1 or alpha != 1:
        return NotImplemented
    total = _mm(left, right)
    return total.add_(bias) if total.dtype == bias.dtype else NotImplemented
