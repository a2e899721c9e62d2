"""Products outside of connection layers: what a forward multiplies by itself."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from spike_ops import functional
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.energy._counts import LayerOperations, is_spikes

# a kind of product, and what counts it
Note = Callable[[str, Callable[[], LayerOperations]], None]


def product_operations(a: Tensor, b: Tensor) -> LayerOperations:
    """Return the operations of a @ b: one where two values meet that are not zero.

    They are accumulates where one of both holds nothing but -1, 0 and 1.

    Example:
        >>> a = torch.tensor([[0.0, 1.0, 1.0]])
        >>> product_operations(a, torch.tensor([[2.0], [0.0], [3.0]]))
        LayerOperations(macs=0, acs=1, dense=3)
    """
    left = a[None] if a.ndim == 1 else a
    right = b[:, None] if b.ndim == 1 else b
    met = _present(left).sum(-2) * _present(right).sum(-1)  # [..., K]
    effective, dense = int(met.sum()), met.numel() * left.shape[-2] * right.shape[-1]
    if is_spikes(a) or is_spikes(b):
        return LayerOperations(acs=effective, dense=dense)
    return LayerOperations(macs=effective, dense=dense)


def _matmul(a: Tensor, b: Tensor, *rest: Any, **options: Any) -> LayerOperations:
    del rest, options
    return product_operations(a, b)


def _reversed(b: Tensor, a: Tensor) -> LayerOperations:
    return product_operations(a, b)


def _added(start: Tensor, a: Tensor, b: Tensor, **options: Any) -> LayerOperations:
    del start, options
    return product_operations(a, b)


def _linear(input: Tensor, weight: Tensor, *rest: Any, **options: Any) -> LayerOperations:
    del rest, options
    return product_operations(input.reshape(-1, input.shape[-1]), weight.t())


def _attention(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> LayerOperations:
    """Return those of Q Kᵀ, and of what that agrees to with V."""
    del options
    q, k, v = (_dense(each) for each in (query, key, value))
    agreed = q @ k.mT
    return product_operations(q, k.mT).plus(product_operations(agreed, v))


def _convolution(
    rank: int, input: Tensor, weight: Tensor, bias: Any = None, *rest: Any, **options: Any
) -> LayerOperations:
    """Return those of a convolution: as many as one of ones where values are not zero."""
    del bias
    options.pop("method", None)
    convolve: Any = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    met, rest = _present(input).double(), rest[:4]
    met = met.reshape(-1, *met.shape[-rank - 1 :])
    used = _present(weight).double()
    effective = int(convolve(met, used, None, *rest, **options).sum())
    every = torch.ones_like(met), torch.ones_like(used)
    dense = int(convolve(*every, None, *rest, **options).sum())
    if is_spikes(input) or is_spikes(weight):
        return LayerOperations(acs=effective, dense=dense)
    return LayerOperations(macs=effective, dense=dense)


COUNTED: dict[Any, tuple[str, Callable[..., LayerOperations]]] = {
    torch.matmul: ("matmul", _matmul),
    torch.Tensor.matmul: ("matmul", _matmul),
    torch.Tensor.__matmul__: ("matmul", _matmul),
    torch.Tensor.__rmatmul__: ("matmul", _reversed),
    torch.mm: ("matmul", _matmul),
    torch.Tensor.mm: ("matmul", _matmul),
    torch.bmm: ("matmul", _matmul),
    torch.Tensor.bmm: ("matmul", _matmul),
    torch.addmm: ("matmul", _added),
    torch.baddbmm: ("matmul", _added),
    F.linear: ("linear", _linear),
    functional.spike_mm: ("matmul", _matmul),
    functional.linear: ("linear", _linear),
    functional.spike_attention: ("attention", _attention),
    torch.conv1d: ("conv1d", partial(_convolution, 1)),
    torch.conv2d: ("conv2d", partial(_convolution, 2)),
    torch.conv3d: ("conv3d", partial(_convolution, 3)),
    functional.conv1d: ("conv1d", partial(_convolution, 1)),
    functional.conv2d: ("conv2d", partial(_convolution, 2)),
    functional.conv3d: ("conv3d", partial(_convolution, 3)),
}


class Products(TorchFunctionMode):
    """Tell of every product that is called while it is entered.

    Args:
        note: Is handed the kind of a product and what counts its operations.
        use: Is handed every tensor that a function takes.
    """

    def __init__(self, note: Note, use: Callable[[Tensor], None]) -> None:
        super().__init__()
        self.note, self.use = note, use

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch or of this package, and tell of it if it is a product."""
        del types
        for each in tree_leaves((args, kwargs)):
            if isinstance(each, Tensor):
                self.use(each)
        result = func(*args, **(kwargs or {}))
        if func in COUNTED:
            kind, count = COUNTED[func]
            self.note(kind, partial(count, *args, **(kwargs or {})))
        return result


def _dense(x: Tensor) -> Tensor:
    return x.to_dense() if isinstance(x, SpikeTensor) else x.detach()


def _present(x: Tensor) -> Tensor:
    return (_dense(x) != 0).long()
