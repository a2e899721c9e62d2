"""Spikes as one bit each, where a tensor of floats is expected."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from spike_ops._autograd import apply
from spike_ops._bits import check_packed, fired_in, in_numpy
from spike_ops._checked import tensor
from spike_ops._index import SpikeIndex
from spike_ops._ops import checked_bits, unpacked
from spike_ops._plain import PlainValues
from spike_ops._window import Window

COMPOSITE = torch._C.DispatchKey.CompositeImplicitAutograd
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class SpikeTensor(PlainValues, torch.Tensor):  # type: ignore[override,misc,unused-ignore]
    """Return spikes, stored as one bit each, that stand for a tensor of zeros and ones.

    It goes where a tensor goes. A product with a weight (`spikes @ weight`, `torch.nn.Linear`)
    is computed by additions where that is cheaper; views share the bits and the positions of the
    spikes found so far; any other operation sees the dense zeros and ones, and returns a plain
    tensor. It cannot be written into. What is saved for the backward pass are the bits.

    Args:
        packed: The bits, as `spike_ops.pack_bits` writes them: [ceil(n / 8)] of uint8.
        shape: The shape that they stand for; n is its product.
        dtype: The floating-point type that operations see.
        transposed: The bits are those of the transposed matrix.
        index: Positions found before, of the same bits.

    Raises:
        ValueError: `packed` does not have the bytes of the shape, has bits set behind its end, or
            `dtype` is no float, what is transposed no matrix, or `index` is that of other bits.
        TypeError: `packed` is not a flat tensor of uint8, or `shape` no sizes.

    Example:
        >>> spikes = SpikeTensor.from_dense(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]))
        >>> spikes
        SpikeTensor(shape=(2, 3), spikes=3 of 6)
        >>> spikes @ torch.tensor([[1.0], [10.0], [100.0]])
        tensor([[110.],
                [100.]])
    """

    handlers: ClassVar[dict[Any, Callable[..., Any]]] = {}
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    _packed: Tensor
    _transposed: bool
    _index: SpikeIndex
    _window: Window | None = None  # of the neuron that made them, where it uses their gradient

    @staticmethod
    def __new__(
        cls,
        packed: Tensor,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        *,
        transposed: bool = False,
        index: SpikeIndex | None = None,
    ) -> "SpikeTensor":
        size = _check(packed, shape, dtype, transposed)
        if index is not None and (index.packed is not packed or index.size != size):
            raise ValueError("index must be that of spikes with the same bits and as many elements")
        packed = packed.contiguous()  # kernels read bytes where they lie
        self: SpikeTensor = torch.Tensor._make_wrapper_subclass(
            cls, tuple(shape), dtype=dtype, device=packed.device
        )
        self._packed, self._transposed = packed, transposed
        self._index = SpikeIndex(packed, size) if index is None else index
        return self

    def __init__(
        self,
        packed: Tensor,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        *,
        transposed: bool = False,
        index: SpikeIndex | None = None,
    ) -> None:
        del packed, shape, dtype, transposed, index  # all is done in __new__

    @classmethod
    def from_dense(cls, dense: Tensor, dtype: torch.dtype | None = None) -> "SpikeTensor":
        """Return the spikes of a tensor of zeros and ones; gradients pass through unchanged.

        Inside `torch.compile` a graph looks at the values when it runs; on a GPU it would have to
        wait for them, and whatever is not 0 is a spike there.

        Args:
            dense: Zeros and ones (or booleans) of any shape.
            dtype: The type that operations see; that of `dense` if it is a float, else float32.

        Raises:
            ValueError: `dense` holds something else than 0 and 1.
            TypeError: `dense` is no tensor.
        """
        fired = check_binary(tensor("dense", dense))
        kind = dtype or (dense.dtype if dense.dtype in FLOATS else torch.float32)
        packed: SpikeTensor = apply(_FromDense, dense, fired, kind)
        return packed

    def to_dense(self, dtype: torch.dtype | None = None) -> Tensor:  # type: ignore[override]
        """Return the dense tensor of zeros and ones; gradients pass through unchanged."""
        dense: Tensor = apply(_ToDense, self, dtype or self.dtype)
        return dense

    @property
    def packed(self) -> Tensor:
        """The bits: [ceil(n / 8)] of uint8, little-endian, in the order of the stored elements."""
        return self._packed

    @property
    def elem(self) -> Tensor:
        """The spikes as booleans."""
        return dense_of(self, torch.bool)

    @property
    def index(self) -> SpikeIndex:  # type: ignore[override]
        """Count and positions of the spikes, found once for all views."""
        return self._index

    @property
    def count(self) -> int:
        """How many spikes there are."""
        return self._index.count

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        del tensor_contents
        shown = f"shape={tuple(self.shape)}"
        if in_numpy(self._packed):
            shown += f", spikes={self.count} of {self.numel()}"
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"SpikeTensor({shown}{grad})"

    def __deepcopy__(self, memo: dict[int, Any]) -> "SpikeTensor":
        if not self.is_leaf:
            raise RuntimeError("only spikes made by the user can be copied deeply: detach() first")
        copy = like(self, self._packed.clone(), self.shape, transposed=self._transposed)
        memo[id(self)] = copy.requires_grad_(self.requires_grad)
        return copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        del protocol
        held = (self._packed, tuple(self.shape), self.dtype, self._transposed, self.requires_grad)
        return _rebuild, held

    def __tensor_flatten__(self) -> tuple[list[str], Any]:
        return ["_packed"], (self.dtype, self._transposed)

    @staticmethod
    def __tensor_unflatten__(
        inner: dict[str, Tensor], context: Any, outer_size: Any, outer_stride: Any
    ) -> "SpikeTensor":
        del outer_stride
        return SpikeTensor(inner["_packed"], outer_size, context[0], transposed=context[1])

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        del types
        kwargs = kwargs or {}
        handler = cls.handlers.get(func)
        if handler is not None and (result := handler(*args, **kwargs)) is not NotImplemented:
            return result
        if func.has_kernel_for_dispatch_key(COMPOSITE):  # in inference mode: not yet taken apart
            return func.decompose(*args, **kwargs)
        _refuse_writes(func, args, kwargs)
        return func(*tree_map(_plain, args), **tree_map(_plain, kwargs))


def like(
    spikes: SpikeTensor,
    packed: Tensor,
    shape: Sequence[int],
    *,
    transposed: bool = False,
    dtype: torch.dtype | None = None,
) -> SpikeTensor:
    """Return spikes of another shape; with the same bits, the positions found are shared."""
    index = spikes._index if packed is spikes._packed else None
    kind = dtype or spikes.dtype
    return SpikeTensor(packed, shape, kind, transposed=transposed, index=index)


def dense_of(spikes: SpikeTensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the dense tensor, outside autograd."""
    shape = list(spikes.shape)
    if spikes._transposed:
        return unpacked(spikes._packed, shape[::-1], dtype or spikes.dtype).t()
    return unpacked(spikes._packed, shape, dtype or spikes.dtype)


def check_binary(dense: Tensor) -> Tensor:
    """Return where there is a spike; raise unless all is zero or one, if there are values yet."""
    if isinstance(dense, SpikeTensor):
        return dense_of(dense, torch.bool)
    if dense.dtype == torch.bool:
        return dense.detach()
    if dense.is_complex():
        raise ValueError(f"spikes must be 0 or 1, got a tensor of {dense.dtype}")
    if torch.compiler.is_compiling():
        return dense.detach()  # there are no values yet: `checked_bits` looks at them
    return fired_in(dense)


def _check(packed: Tensor, shape: Sequence[int], dtype: torch.dtype, transposed: bool) -> int:
    size = check_packed(packed, shape)
    if dtype not in FLOATS:
        raise ValueError(f"dtype must be a floating-point type, got {dtype}")
    if transposed and len(shape) != 2:
        raise ValueError(f"transposed needs a matrix, got shape {tuple(shape)}")
    if (used := size % 8) and in_numpy(packed) and packed.numpy()[-1] >> used:
        raise ValueError(f"packed must have no bit set behind the {size} elements")
    return size


def _refuse_writes(func: Any, args: Any, kwargs: dict[str, Any]) -> None:
    for place, argument in enumerate(func._schema.arguments):
        if argument.alias_info is None or not argument.alias_info.is_write:
            continue
        given = args[place] if place < len(args) else kwargs.get(argument.name)
        several = given if isinstance(given, (list, tuple)) else (given,)
        if any(isinstance(each, SpikeTensor) for each in several):
            raise TypeError(f"spikes cannot be written into ({func}); use to_dense() first")


def _plain(value: Any) -> Any:
    return dense_of(value) if isinstance(value, SpikeTensor) else value


def _rebuild(
    packed: Tensor, shape: tuple[int, ...], dtype: torch.dtype, transposed: bool, grad: bool
) -> Tensor:
    return SpikeTensor(packed, shape, dtype, transposed=transposed).requires_grad_(grad)


class _FromDense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dense: Tensor, fired: Tensor, dtype: torch.dtype) -> SpikeTensor:
        ctx.dtype = dense.dtype
        return SpikeTensor(checked_bits(fired), dense.shape, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0].to(ctx.dtype), None, None


class _ToDense(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, spikes: SpikeTensor, dtype: torch.dtype) -> Tensor:
        ctx.dtype = spikes.dtype
        return dense_of(spikes, dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0].to(ctx.dtype), None
