"""A convolution at a rank that stays, run in the form that suits each size of images."""

from collections.abc import Iterable
from math import prod

import torch
from torch import Tensor

from lowrank_kernels import _checks
from lowrank_kernels._calibrate import computing, measure
from lowrank_kernels._calibration import Calibration, Key
from lowrank_kernels._conv import refuse
from lowrank_kernels._dispatch import check_weight, chooser
from lowrank_kernels._dispatcher import Dispatcher
from lowrank_kernels._execute import Product, Rows
from lowrank_kernels._execute_conv import ConvFactors, conv_keeps_none, conv_product_of
from lowrank_kernels._explanation import Explanation
from lowrank_kernels._geometry import Geometry, Images
from lowrank_kernels._kept import Kept
from lowrank_kernels._machine import device_name
from lowrank_kernels._types import Padding, Pair, Rank


class DispatchedConv2d(Kept):
    """A convolution at a fixed rank that runs each shape of images in its fastest form.

    Made by `dispatch_conv2d`; called with images `[N, c, H, W]` or `[c, H, W]`. A form is prepared
    when a shape first asks for it, and kept from then on.
    """

    __slots__ = ()
    _factors: ConvFactors

    def form(self, shape: Iterable[int]) -> str:
        """Return the form in which images `[N, c, H, W]` are run where no gradient is needed."""
        f = self._factors
        forms = self._dispatcher._order(*self._asked(shape))
        return next(form for form in forms if self._copies or conv_keeps_none(form, f))

    def explain(self, shape: Iterable[int]) -> Explanation:
        """Return why; see `Dispatcher.explain`."""
        why = self._dispatcher._explain(*self._asked(shape))
        return why._replace(chosen=self.form(shape))

    def _asked(self, shape: Iterable[int]) -> tuple[Key, torch.device, int, int]:
        f, sizes = self._factors, _sizes(shape)
        if len(sizes) not in (3, 4):
            raise ValueError(f"shape must be [N, in, H, W] or [in, H, W], got {list(sizes)}")
        images = (1, *sizes)[-4]
        channels, height, width = sizes[-3:]
        kernel = f.down.shape[-2:]
        geometry = Geometry.of(f.stride, f.padding, f.dilation, f.groups, kernel)
        seen = Images(channels, height, width, geometry)
        down, device = f.down, f.down.device
        n, m, R = prod(down.shape[-3:]), f.up.shape[-2], f.up.shape[-1]
        key = Key(n, m, R, down.dtype, device_name(device), seen)
        return key, device, f.rank, images

    def _by_factors(self, x: Tensor) -> Tensor:
        return self._factors.by_factors(x)

    def _check(self, x: object) -> None:
        f = self._factors
        given = (f.down, f.up, f.bias, None, f.inner, f.stride, f.padding, f.dilation, f.groups)
        refuse(x, *given)  # type: ignore[arg-type]

    def _made(self, form: str) -> Product:
        return conv_product_of(form, self._factors)

    def _call_for(self, shape: torch.Size) -> Rows:
        return self._prepared(self.form(shape))

    def __repr__(self) -> str:
        f = self._factors
        R, channels, m = f.up.shape[-1], f.down.shape[-3] * f.groups, f.up.shape[-2] * f.groups
        return f"DispatchedConv2d(rank={f.rank} of {R}, in_channels={channels}, out_channels={m})"


def _sizes(shape: object) -> tuple[int, ...]:
    if isinstance(shape, Tensor):
        raise TypeError(f"shape must be ints, as x.shape is, got a tensor {list(shape.shape)}")
    if not isinstance(shape, Iterable) or isinstance(shape, str):
        raise TypeError(f"shape must be ints, as x.shape is, got {type(shape).__name__} {shape!r}")
    return tuple(_checks.whole("shape", size, 0) for size in shape)


def dispatch_conv2d(
    down: Tensor,
    up: Tensor,
    bias: Tensor | None = None,
    rank: Rank = None,
    *,
    inner_bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    weight: Tensor | None = None,
    frozen: bool = False,
    copies: bool = True,
    dispatcher: Dispatcher | None = None,
) -> DispatchedConv2d:
    """Return the convolution at `rank` as a callable that runs each batch in its fastest form.

    `dispatch_conv2d(down, up, bias, rank)(x)` equals `lowrank_conv2d(x, down, up, bias, rank)`. As
    in `dispatch`, a form is chosen at the first images of a shape: `"dense"`, one convolution with
    the kernel `W_r`; `"factored"`, two with views of the factors; or `"packed"`, two with copies
    that lie together. A calibration is of one size of images; without one dense is chosen from
    `r* = c·kh·kw·m / (c·kh·kw + m)` on, each of a group.

    Gradients, graphs and changes of the factors are as in `dispatch`.

    Args:
        down: `[R, c, kh, kw]`; `[groups, R, c/groups, kh, kw]` with `groups > 1`.
        up: `[m, R]`; `[groups, m/groups, R]` with `groups > 1`.
        bias: `[m]` or None.
        rank: r in 0..R, per group, as an int or a 0-dim integer tensor; None is R.
        inner_bias: `[R]`, `[groups, R]` with `groups > 1`, or None.
        stride: of the first convolution, one int or two.
        padding: of the first convolution: an int, two, `"same"` or `"valid"`.
        dilation: of the first convolution, one int or two.
        groups: how many groups of channels are convolved apart.
        weight: the dense kernel `[m, c/groups, kh, kw]` if there is one already, yours to keep
            true; else it is formed the first time that images want it.
        frozen: promise that factors and biases neither change nor need gradients; those reach
            `x` alone.
        copies: False forms no kernel and copies nothing: only views and `weight` are used.
        dispatcher: chooses; None is one that reads the calibrations kept on disk.

    Raises:
        ValueError: a shape, device, rank or option breaks the rules above.
        TypeError: a dtype or type does.

    Example:
        >>> import torch
        >>> down, up = torch.ones(8, 4, 3, 3), torch.ones(6, 8)
        >>> product = dispatch_conv2d(down, up, rank=2, dispatcher=Dispatcher(cache=False))
        >>> product(torch.ones(1, 4, 9, 9)).shape
        torch.Size([1, 6, 7, 7])
        >>> print(product.explain((1, 4, 9, 9)))
        4 -> 6 channels of 9x9 pixels by 3x3, rank 2 of 8, 1 images, torch.float32 on cpu: factored
        counted, as nothing is measured near it; dense from rank 6 on
          factored          84 multiplications a pixel    0.39 of dense
          packed            84 multiplications a pixel    0.39 of dense
          dense            216 multiplications a pixel    1.00 of dense
    """
    _checks.check_tensors({"down": down, "up": up})
    # images of the kernel's size: [R, c, kh, kw]
    x = down.transpose(0, 1).flatten(1, 2) if down.dim() == 5 else down
    _checks.check_conv2d(x, down, up, bias, groups, inner_bias)
    Geometry.of(stride, padding, dilation, groups, down.shape[-2:])
    r = _checks.rank_value(rank, up.shape[-1])
    if weight is not None:
        check_weight(weight, (groups * up.shape[-2], *down.shape[-3:]), down)
    options = (weight, stride, padding, dilation, groups)
    factors = ConvFactors(down, up, bias, inner_bias, r, *options)
    kept = {"frozen": _checks.flag("frozen", frozen), "copies": _checks.flag("copies", copies)}
    return DispatchedConv2d(factors, chooser(dispatcher), **kept)


def calibrate_conv2d(
    in_channels: int,
    out_channels: int,
    kernel_size: Pair,
    size: Pair,
    max_rank: int | None = None,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seconds: float = 1.6,
    save: bool = True,
) -> Calibration:
    """Return measured times of every form of a convolution, and keep them on disk.

    As `calibrate` for batches of 1, 2, 4, … images of one size, as far as the budget goes.

    Args:
        in_channels: c.
        out_channels: m.
        kernel_size: one int or two.
        size: height and width of the images, one int or two.
        max_rank: R of each group, the length of the factors; None is the least of `c·kh·kw` and
            m of a group.
        stride: of the first convolution, one int or two.
        padding: of the first convolution: an int, two, `"same"` or `"valid"`.
        dilation: of the first convolution, one int or two.
        groups: how many groups of channels are convolved apart.
        dtype: of the factors and images.
        device: where they are.
        seconds: how long to measure; the smallest batch is measured in any case.
        save: keep the result in the file that dispatchers read.

    Raises:
        ValueError: a size is below 1 or groups do not divide the channels, or the images are
            smaller than the kernel.
        TypeError: a size is no int, or `dtype` no floating one.

    Example:
        >>> table = calibrate_conv2d(4, 6, 3, 9, seconds=0.01, save=False)
        >>> table.key.n, table.key.m, table.key.R, sorted(table.seconds)
        (36, 6, 6, ['dense', 'factored', 'packed'])
    """
    c, m = (
        _checks.whole("in_channels", in_channels, 1),
        _checks.whole("out_channels", out_channels, 1),
    )
    g = _checks.whole("groups", groups, 1)
    for name, channels in (("in_channels", c), ("out_channels", m)):
        if channels % g:
            raise ValueError(f"{name} must be a multiple of groups, {g}, got {channels}")
    kernel = _checks.pair("kernel_size", kernel_size, least=1)
    height, width = _checks.pair("size", size, least=1)
    geometry = Geometry.of(stride, padding, dilation, g, kernel)
    geometry.check_image("size", (height, width))
    n, o = c // g * prod(kernel), m // g
    R = _checks.whole("max_rank", min(n, o) if max_rank is None else max_rank, 1)
    place = computing(device)
    images = Images(c, height, width, geometry)
    key = Key(n, o, R, dtype, device_name(place), images)
    return measure(key, place, seconds=seconds, save=save)
