"""Names of layer shapes: what a measurement belongs to."""

from rank_sched._kernels import Pair, pair


def linear_shape(
    in_features: int, out_features: int, *, bias: bool = True, dtype_bytes: int = 4
) -> str:
    """Return the name of a linear layer's shape in a `PerfTable`.

    >>> linear_shape(1024, 512)
    'linear 1024x512 bias 4B'
    """
    return f"linear {in_features}x{out_features}{' bias' if bias else ''} {dtype_bytes}B"


def conv2d_shape(
    in_channels: int,
    out_channels: int,
    kernel_size: Pair,
    input_size: Pair,
    *,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    bias: bool = True,
    dtype_bytes: int = 4,
) -> str:
    """Return the name of a convolution's shape in a `PerfTable`.

    >>> conv2d_shape(3, 8, 3, (32, 32), padding=1)
    'conv2d 3x8 kernel 3x3 input 32x32 stride 1x1 padding 1x1 dilation 1x1 groups 1 bias 4B'
    """
    sizes = {
        "kernel": pair("kernel_size", kernel_size, 1),
        "input": pair("input_size", input_size, 1),
        "stride": pair("stride", stride, 1),
        "padding": pair("padding", padding, 0),
        "dilation": pair("dilation", dilation, 1),
    }
    text = " ".join(f"{name} {high}x{wide}" for name, (high, wide) in sizes.items())
    tail = f"groups {groups}{' bias' if bias else ''} {dtype_bytes}B"
    return f"conv2d {in_channels}x{out_channels} {text} {tail}"
