"""Layers whose inputs are spikes."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from spike_ops import functional
from spike_ops._checked import counted, flag, tensor
from spike_ops._spike_tensor import check_binary


class Linear(nn.Linear):
    """Return S Wᵀ + b: torch's linear layer, by additions where the input is spikes.

    The weight is [out, in] as torch's; with `spike_in` it lies in memory column by column, which is
    what additions read, and copies, moves to other types and loaded states keep that. Its entry in
    `state_dict` is an ordinary contiguous copy.

    Args:
        in_features: Size of the last axis of the input.
        out_features: Size of the last axis of the result.
        bias: Learn a bias.
        device: Of the parameters.
        dtype: Of the parameters.
        spike_in: The inputs are spikes: a `SpikeTensor`, or zeros and ones (anything else is an
            error). Without it, zeros and ones are multiplied, and only a `SpikeTensor` is added.
        mask: [out, in] of zeros and ones: only these connections exist. The others count as zero
            and get no gradient, and are zero in `connected` and in `state_dict`; an optimizer with
            momentum or decay may move what `weight` holds of them. None is all of them.

    Raises:
        ValueError: A size is negative, or `mask` has another shape or other values.
        TypeError: `mask` is no tensor, a size no number, or `spike_in` not True or False.

    Example:
        >>> layer = Linear(4, 2, spike_in=True, mask=torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]))
        >>> layer(torch.ones(3, 4)).shape
        torch.Size([3, 2])
    """

    mask: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        spike_in: bool = False,
        mask: Tensor | None = None,
    ) -> None:
        sizes = {"in_features": in_features, "out_features": out_features}
        in_features, out_features = (counted(name, size, 0) for name, size in sizes.items())
        flag(spike_in=spike_in)
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.spike_in = spike_in
        self.register_buffer("mask", None if mask is None else self._as_mask(mask))
        with torch.no_grad():
            self._keep_to_mask()
        self._lay_out()

    @torch.no_grad()
    def update(self, dw: Tensor) -> None:
        """Add a change to the weight, where there are connections.

        Args:
            dw: [out, in], as a learning rule returns it.

        Raises:
            ValueError: It has another shape.
            TypeError: It is no tensor.
        """
        if tensor("dw", dw).shape != self.weight.shape:
            shapes = f"{tuple(self.weight.shape)}, got {tuple(dw.shape)}"
            raise ValueError(f"dw must have the shape of the weight {shapes}")
        self.weight.add_(dw if self.mask is None else dw * self.mask)

    @property
    def connected(self) -> Tensor:
        """The weight, zero where there is no connection: [out, in]."""
        return self.weight if self.mask is None else self.weight * self.mask

    def forward(self, input: Tensor) -> Tensor:
        """Return the currents [..., out] of spikes [..., in]."""
        if self.spike_in:
            return functional.linear(input, self.connected, self.bias)
        return F.linear(input, self.connected, self.bias)

    def extra_repr(self) -> str:
        """Return what the module's line shows."""
        told = super().extra_repr() + (", spike_in=True" if self.spike_in else "")
        return told if self.mask is None else f"{told}, connections={int(self.mask.sum())}"

    def _as_mask(self, mask: Tensor) -> Tensor:
        if tensor("mask", mask).shape != self.weight.shape:
            shapes = f"{tuple(self.weight.shape)}, got {tuple(mask.shape)}"
            raise ValueError(f"mask must have the shape of the weight {shapes}")
        check_binary(mask)
        return mask.to(self.weight.device, torch.bool).t().contiguous().t()

    def _keep_to_mask(self) -> None:
        if self.mask is not None:
            self.weight.mul_(self.mask)

    def _lay_out(self) -> None:
        if self.spike_in and not self.weight.t().is_contiguous():
            self.weight.data = self.weight.data.t().contiguous().t()

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        if not keep_vars and self.mask is not None and prefix + "weight" in destination:
            destination[prefix + "weight"] = self.connected.detach()
        for name in ("weight", "mask"):
            if not keep_vars and prefix + name in destination:
                destination[prefix + name] = destination[prefix + name].contiguous()

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        with torch.no_grad():
            self._keep_to_mask()
        self._lay_out()
