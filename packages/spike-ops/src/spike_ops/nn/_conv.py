"""Convolutions whose inputs are spikes."""

from typing import Any

from torch import Tensor, nn

from spike_ops import functional
from spike_ops._checked import flag


class _SpikeIn:
    """A convolution of torch's that refuses anything but spikes, if so asked."""

    def __init__(self, *args: Any, spike_in: bool = False, **kwargs: Any) -> None:
        flag(spike_in=spike_in)
        super().__init__(*args, **kwargs)
        self.spike_in = spike_in
        if spike_in and self.padding_mode != "zeros":  # type: ignore[attr-defined]
            got = self.padding_mode  # type: ignore[attr-defined]
            raise ValueError(f'padding_mode must be "zeros" with spike_in, got {got!r}')

    def forward(self, input: Tensor) -> Tensor:
        """Return the currents [..., O, ...] of spikes [..., C, ...]: any number of leading axes."""
        layer: Any = self
        if not self.spike_in:
            return self._of_batches(input)
        options = (layer.stride, layer.padding, layer.dilation, layer.groups)
        convolve = getattr(functional, f"conv{len(layer.kernel_size)}d")
        summed: Tensor = convolve(input, layer.weight, layer.bias, *options)
        return summed

    def _of_batches(self, input: Tensor) -> Tensor:
        further = input.ndim - len(self.kernel_size) - 2  # type: ignore[attr-defined]
        if further <= 0:
            result: Tensor = super().forward(input)  # type: ignore[misc]
            return result
        result = super().forward(input.flatten(0, further))  # type: ignore[misc]
        return result.unflatten(0, input.shape[: further + 1])

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        told: str = super().extra_repr()  # type: ignore[misc]
        return told + (", spike_in=True" if self.spike_in else "")


class Conv1d(_SpikeIn, nn.Conv1d):
    """Return the convolution of spikes [..., C, L]; arguments are those of `torch.nn.Conv1d`.

    Args:
        spike_in: As of `Conv2d`.

    Example:
        >>> import torch
        >>> Conv1d(3, 8, 5, spike_in=True)(torch.ones(4, 2, 3, 20)).shape
        torch.Size([4, 2, 8, 16])
    """


class Conv2d(_SpikeIn, nn.Conv2d):
    """Return the convolution of spikes [..., C, H, W]; arguments are those of `torch.nn.Conv2d`.

    Args:
        spike_in: The inputs are spikes: a `SpikeTensor`, or zeros and ones (anything else is an
            error). Without it this is torch's layer, which adds only where it is given a
            `SpikeTensor`. Either way there may be any number of leading axes, time among them;
            torch's own layers need `Stepwise` for that.

    Raises:
        ValueError: `padding_mode` is not `"zeros"` with `spike_in`.

    Example:
        >>> import torch
        >>> Conv2d(3, 8, 3, padding=1, spike_in=True)(torch.ones(4, 2, 3, 9, 9)).shape
        torch.Size([4, 2, 8, 9, 9])
    """


class Conv3d(_SpikeIn, nn.Conv3d):
    """Return the convolution of spikes [..., C, D, H, W]; arguments are those of `torch.nn.Conv3d`.

    Args:
        spike_in: As of `Conv2d`.

    Example:
        >>> import torch
        >>> Conv3d(1, 2, 3, spike_in=True)(torch.ones(4, 2, 1, 5, 5, 5)).shape
        torch.Size([4, 2, 2, 3, 3, 3])
    """
