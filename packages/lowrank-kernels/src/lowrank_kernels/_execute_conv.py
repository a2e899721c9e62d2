"""The forms of a convolution as functions of images, everything else settled."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from lowrank_kernels._conv import lowrank_conv2d
from lowrank_kernels._execute import Product, Rows, kept
from lowrank_kernels._forms import DENSE, FACTORED, PACKED
from lowrank_kernels._geometry import Images
from lowrank_kernels._types import Padding, Pair


class ConvFactors(NamedTuple):
    """What a convolution at a fixed rank is made of."""

    down: Tensor
    up: Tensor
    bias: Tensor | None
    inner: Tensor | None
    rank: int
    weight: Tensor | None = None  # the dense kernel, where the caller has one
    stride: Pair = 1
    padding: Padding = 0
    dilation: Pair = 1
    groups: int = 1

    @property
    def trained(self) -> bool:
        """Tell whether one of them collects gradients."""
        return any(t is not None and t.requires_grad for t in self[:4])

    def by_factors(self, x: Tensor) -> Tensor:
        """Return the convolution of images by the factors themselves."""
        options = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation}
        given = (self.down, self.up, self.bias, self.rank)
        return lowrank_conv2d(x, *given, inner_bias=self.inner, groups=self.groups, **options)  # type: ignore[arg-type]


def conv_factors(m: int, R: int, images: Images, draw: Callable[..., Tensor]) -> ConvFactors:
    """Return factors, a bias and a dense kernel of drawn numbers."""
    s, d, g = images.geometry.stride, images.geometry.dilation, images.geometry.groups
    each = (images.channels // g, *images.geometry.kernel)
    down, up = draw(g, R, *each), draw(g, m, R)
    if g == 1:
        down, up = down[0], up[0]
    weight, padding = draw(g * m, *each), images.geometry.padding
    return ConvFactors(down, up, draw(g * m), None, R, weight, s, padding, d, g)


def conv_product_of(form: str, f: ConvFactors) -> Product:
    """Return the convolution in a form; copies are made here, without gradients."""
    if form == DENSE:
        return kept(partial(_dense, f), (f.up, f.down, f.inner, f.bias))
    if f.rank == 0 or (form == FACTORED and f.groups > 1):
        return Product(form, f.by_factors)
    return kept(partial(_two, f, packed=form == PACKED), (f.up, f.down, f.inner))


def conv_keeps_none(form: str, f: ConvFactors) -> bool:
    """Tell whether a form needs no copy of these factors."""
    if form == DENSE:
        return f.weight is not None
    # the groups of both factors lie apart, unless all directions are there
    whole = f.rank == f.up.shape[-1] and f.up.is_contiguous() and f.down.is_contiguous()
    return form == FACTORED or f.rank == 0 or whole


def _dense(f: ConvFactors) -> Product:
    r, bias, watched = f.rank, f.bias, []
    up = f.up[..., :r]  # [*g, o, r]
    if f.weight is None:
        each, axis = f.down.shape[-3:], f.down.dim() - 4
        weight = (up @ f.down.narrow(axis, 0, r).flatten(-3)).reshape(-1, *each)
        watched = [f.up, f.down]
    else:
        weight = f.weight.detach()
    if f.inner is not None:
        shift = (up @ f.inner[..., :r, None]).flatten()
        bias = shift if bias is None else bias + shift
        watched = [t for t in (f.up, f.down, f.inner, f.bias) if t is not None]
    copied = weight.nbytes if f.weight is None else 0
    return Product(DENSE, _one(weight, bias, f), copied, tuple(watched))


def _two(f: ConvFactors, *, packed: bool) -> Product:
    r, grouped = f.rank, f.groups > 1
    D = f.down[:, :r].flatten(0, 1) if grouped else f.down[:r]  # [g r, c, kh, kw]
    U = f.up[..., :r].flatten(0, -2)  # [m, r]
    b = None if f.inner is None else f.inner[..., :r].flatten()
    if packed:
        D, U = D.contiguous(), U.contiguous()
    made = [(D, f.down), (U, f.up)] + ([] if b is None or f.inner is None else [(b, f.inner)])
    copies = [(t, source) for t, source in made if t.data_ptr() != source.data_ptr()]
    first, last, bias, groups = _one(D, b, f), U[..., None, None], f.bias, f.groups
    return Product(
        PACKED if packed else FACTORED,
        lambda x: F.conv2d(first(x), last, bias, groups=groups),
        sum(t.nbytes for t, _ in copies),
        tuple(source for _, source in copies),
    )


def _one(weight: Tensor, bias: Tensor | None, f: ConvFactors) -> Rows:
    options = (f.stride, f.padding, f.dilation, f.groups)
    return lambda x: F.conv2d(x, weight, bias, *options)  # type: ignore[arg-type]
