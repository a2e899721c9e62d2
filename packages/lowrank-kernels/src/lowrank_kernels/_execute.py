"""The forms of a product as functions of rows `[N, n]`, everything else settled."""

from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor, addmm, mm
from torch.utils._python_dispatch import _disable_current_modes

from lowrank_kernels import _optimizer_steps
from lowrank_kernels._autocast import without_autocast
from lowrank_kernels._forms import DENSE, FACTORED, FUSED, PACKED
from lowrank_kernels._linear import lowrank_linear
from lowrank_kernels._prefix import transposed

Rows = Callable[[Tensor], Tensor]


class Factors(NamedTuple):
    """What a product at a fixed rank is made of."""

    down: Tensor
    up: Tensor
    bias: Tensor | None
    inner: Tensor | None
    rank: int
    weight: Tensor | None = None  # the dense weight, where the caller has one

    @property
    def trained(self) -> bool:
        """Tell whether one of them collects gradients."""
        return any(t is not None and t.requires_grad for t in self[:4])


class Product(NamedTuple):
    """A form ready to be called, and what it holds beside the factors."""

    form: str
    call: Rows
    copied: int = 0  # bytes
    watched: tuple[Tensor, ...] = ()  # what was copied from; empty where it follows
    versions: tuple[int, ...] = ()  # theirs, when it was, and the optimizer steps until then

    @property
    def stale(self) -> bool:
        """Tell whether something that was copied from has changed in place since."""
        return self.versions != _versions(self.watched)


def product_of(form: str, f: Factors) -> Product:
    """Return the product in a form; copies are made here, without gradients."""
    if form == DENSE:
        return kept(partial(_dense, f), (f.up, f.down, f.inner, f.bias))
    if form == FUSED:
        return Product(FUSED, partial(_fused, f))
    return kept(partial(_factored, f, packed=form == PACKED), (f.up,))


def kept(make: Callable[[], Product], tensors: tuple[Tensor | None, ...]) -> Product:
    """Return what `make` makes of tensors, with their versions if it copies them."""
    there = [t for t in tensors if t is not None]
    # read before anything is copied: another thread may write meanwhile
    before = {id(t): t._version for t in there if not t.is_inference()}
    steps = _optimizer_steps.taken
    plain = without_autocast(there[0].device)
    # a mode of the first caller, such as that of fake tensors, must not mark what is kept
    with _disable_current_modes(), torch.inference_mode(False), torch.no_grad(), plain:
        product = make()
    if any(t.is_inference() for t in product.watched):  # such tensors have no version
        return product._replace(watched=())
    if not product.watched:
        return product
    return product._replace(versions=(*(before[id(t)] for t in product.watched), steps))


def _versions(watched: tuple[Tensor, ...]) -> tuple[int, ...]:
    return (*(t._version for t in watched), _optimizer_steps.taken) if watched else ()


def fused_here(device: torch.device, dtype: torch.dtype) -> bool:
    """Tell whether the kernel of one launch is there, for this dtype."""
    there = device.type == "cuda" and find_spec("triton") is not None
    return there and dtype != torch.float64


def keeps_none(form: str, f: Factors) -> bool:
    """Tell whether a form needs no copy of these factors."""
    if form == DENSE:
        return f.weight is not None
    return form != PACKED or f.up.t().is_contiguous()


def any_axes(call: Rows, f: Factors) -> Rows:
    """Return `call` for inputs with any axes before the last."""
    n, m = f.down.shape[1], f.up.shape[0]
    return lambda x: call(x.reshape(x.shape[:-1].numel(), n)).reshape(*x.shape[:-1], m)


def _dense(f: Factors) -> Product:
    bias, watched = f.bias, []
    if f.weight is None:
        weight, watched = mm(f.up[:, : f.rank], f.down[: f.rank]), [f.up, f.down]
    else:
        weight = f.weight.detach()
    if f.inner is not None:
        shift = f.up[:, : f.rank] @ f.inner[: f.rank]
        bias = shift if bias is None else bias + shift
        watched = [t for t in (f.up, f.down, f.inner, f.bias) if t is not None]
    copied = weight.nbytes if f.weight is None else 0
    return Product(DENSE, _one(weight.t(), bias), copied, tuple(watched))


def _factored(f: Factors, *, packed: bool) -> Product:
    D, U = transposed(f.down, f.up, f.rank)
    inner = None if f.inner is None else f.inner[: f.rank]
    if not packed:
        return Product(FACTORED, _two(D, inner, U, f.bias))
    if U.is_contiguous():
        return Product(PACKED, _two(D, inner, U, f.bias))
    U = U.contiguous()
    return Product(PACKED, _two(D, inner, U, f.bias), U.nbytes, (f.up,))


def _one(W: Tensor, bias: Tensor | None) -> Rows:
    """Return `x W + bias`, `W [n, m]`."""
    if bias is None:
        return lambda x: mm(x, W)
    return lambda x: addmm(bias, x, W)


def _two(D: Tensor, inner: Tensor | None, U: Tensor, bias: Tensor | None) -> Rows:
    """Return `(x D + inner) U + bias`, `D [n, r]`, `U [r, m]`."""
    if inner is None and bias is not None:
        return lambda x: addmm(bias, mm(x, D), U)
    first, second = _one(D, inner), _one(U, bias)
    return lambda x: second(first(x))


def _fused(f: Factors, x: Tensor) -> Tensor:
    # measured without gradients: with them torch's own products are the known quantity
    wanted = torch.is_grad_enabled() and x.requires_grad
    return lowrank_linear(
        x,
        *(f.down, f.up, f.bias, f.rank),
        inner_bias=f.inner,
        implementation="torch" if wanted else "triton",
    )
