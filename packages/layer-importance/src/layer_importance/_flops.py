"""How much arithmetic a forward pass does, and which operations nobody can count."""

import math
import re
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

Shape = Sequence[int]

_PRODUCTS = re.compile(
    r"_?(linalg_|fft_|cdist|trilinear|addr$|ger$|cholesky|lu_|triangular_solve|geqrf|orgqr|ormqr"
    r"|mkldnn_|mkl_|quantized_|weight_int|grouped_mm|scaled_grouped|cudnn_|miopen_|nnpack"
    r"|scaled_dot_product|fused_moving|sparse_|spdiags|transformer_encoder|native_multi_head)"
)
"""Operations of torch that are made of products of many numbers with many others."""
_CHEAP = {torch.Tag.pointwise, torch.Tag.reduction}


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Two products of matrices a head; half of a causal mask is counted as if it were done."""
    return 2 * math.prod(query[:-1]) * key[-2] * (query[-1] + value[-1])


def _onednn(x: Shape, *given: Any, **_: Any) -> int:
    return _recurrent(x, given[:4])


def _cudnn(x: Shape, weights: Sequence[Shape], *_: Any, **__: Any) -> int:
    return _recurrent(x, weights)


def _recurrent(x: Shape, weights: Sequence[Shape]) -> int:
    """Every matrix times a vector at every step."""
    return 2 * math.prod(x[:-1]) * sum(math.prod(w) for w in weights if len(w) == 2)


def _product(a: Shape, b: Shape, *_: Any, **__: Any) -> int:
    """A matrix, or a vector, times a matrix or a vector."""
    return 2 * math.prod(a) * (b[-1] if len(b) > 1 else 1)


def _added_product(_: Shape, a: Shape, b: Shape, *__: Any, **___: Any) -> int:
    return _product(a, b)


_UNCOUNTED: dict[Any, Any] = {  # torch's counter has no formula for these, and takes them for free
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten.mkldnn_rnn_layer: _onednn,
    torch.ops.aten._cudnn_rnn: _cudnn,
    torch.ops.aten.mv: _product,
    torch.ops.aten.dot: _product,
    torch.ops.aten.vdot: _product,
    torch.ops.aten._int_mm: _product,
    torch.ops.aten.addmv: _added_product,
}


class Flops:
    """Counts what runs inside; a context.

    Products of matrices, convolutions, attention and recurrent layers are counted; element by
    element, sums and moves of data are free. An operation of somebody else's, or one of torch's
    that is made of products and has no formula, cannot be counted, and is named.

    Attributes:
        unknown: operations that cannot be counted, with how often they ran.

    Example:
        >>> with Flops() as flops:
        ...     _ = torch.ones(2, 3) @ torch.ones(3, 5)
        ...     _ = torch.linalg.matrix_exp(torch.eye(3))
        >>> flops.total, list(flops.unknown)
        (60.0, ['aten.linalg_matrix_exp'])
    """

    def __init__(self) -> None:
        self._counter = FlopCounterMode(display=False, custom_mapping=_UNCOUNTED)
        self._watch, self._stack = _Watch(), ExitStack()
        self.unknown = self._watch.unknown

    @property
    def total(self) -> float:
        """What was counted so far."""
        return float(self._counter.get_total_flops())

    @property
    def unknowns(self) -> float:
        """How many operations were not."""
        return float(sum(self.unknown.values()))

    def __enter__(self) -> "Flops":
        self._stack.enter_context(self._watch)  # the counter takes composite operations apart
        self._stack.enter_context(self._counter)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()


class _Watch(TorchDispatchMode):
    """Notes operations that no formula is known of."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.unknown: dict[str, int] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch loads its compiler, for seconds, when the first operation runs

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func.overloadpacket
        if packet not in flop_registry and packet not in _UNCOUNTED and _is_work(func):
            name = str(packet)
            self.unknown[name] = self.unknown.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


def _is_work(func: Any) -> bool:
    if func.namespace not in ("aten", "prims", "prim"):
        return True
    name = func._schema.name.partition("::")[2]
    return _PRODUCTS.match(name) is not None and not _CHEAP & set(func.tags)
