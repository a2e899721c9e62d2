"""A LayerNorm whose mean and variance leave some units out."""

import torch
from torch import Tensor, nn

from neuro_morph._axes import Atom
from neuro_morph._entries import entries_of
from neuro_morph._placing import MASK
from neuro_morph._undo import UndoLog
from neuro_morph._valuing import CannotGrowError, Needs


class MaskedLayerNorm(nn.LayerNorm):
    """LayerNorm with statistics over the units that were there before the network grew.

    ``mean = sum(m x) / sum(m)``, ``var = sum(m (x - mean) ** 2) / sum(m)``, and every unit, new or
    old, becomes ``(x - mean) / sqrt(var + eps) * weight + bias``. With a mask of ones it is
    LayerNorm. Whatever new units are, the old ones come out as they did: the way to grow a stream
    that is normalised after each sum by any number of units.

    Args:
        norm: a LayerNorm over one axis; its parameters are taken over, not copied.

    Shape:
        input ``[..., units]``, output the same.

    Source: Yao et al., Masked Structural Growth (arXiv:2305.02869).

    Example:
        >>> import torch
        >>> from neuro_morph import MaskedLayerNorm
        >>> norm = MaskedLayerNorm(torch.nn.LayerNorm(2))
        >>> norm(torch.tensor([1.0, 3.0])).round(decimals=3).tolist()
        [-1.0, 1.0]
    """

    unit_mask: Tensor

    def __init__(self, norm: nn.LayerNorm) -> None:
        if len(norm.normalized_shape) != 1:
            raise ValueError(
                "norm must be a LayerNorm over one axis, got one over "
                f"{tuple(norm.normalized_shape)}"
            )
        super().__init__(norm.normalized_shape, norm.eps, norm.elementwise_affine)
        self.weight, self.bias = norm.weight, norm.bias
        held = norm.weight if norm.weight is not None else torch.ones(())
        mask = torch.ones(norm.normalized_shape, dtype=held.dtype, device=held.device)
        self.register_buffer(MASK, mask)
        self.counted = float(len(mask))
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the units normalised by the statistics of those that count."""
        apart = x - (x * self.unit_mask).sum(-1, keepdim=True) / self.counted
        squares = apart.square() * self.unit_mask
        y = apart * torch.rsqrt(squares.sum(-1, keepdim=True) / self.counted + self.eps)
        if self.weight is not None:
            y = y * self.weight
        return y if self.bias is None else y + self.bias


def maskable(model: nn.Module) -> frozenset[str]:
    """Returns the paths of the modules that :class:`MaskedLayerNorm` can stand for."""
    return frozenset(
        path
        for path, module in model.named_modules()
        if path and type(module) is nn.LayerNorm and len(module.normalized_shape) == 1
    )


def mask_norms(model: nn.Module, needs: Needs, atom: Atom, size: int, log: UndoLog) -> None:
    """Puts a MaskedLayerNorm in the place of each LayerNorm that must not see new units."""
    for path, axis in sorted(needs.masked.items()):
        norm = model.get_submodule(path)
        if norm._forward_hooks or norm._forward_pre_hooks or norm._backward_hooks:
            raise CannotGrowError(f"{path!r} has hooks, and would have to be replaced")
        put_mask(model, path, torch.from_numpy(entries_of(axis, atom, size)[0]) >= 0, log)


def put_mask(model: nn.Module, path: str, counts: Tensor, log: UndoLog) -> None:
    """Puts a MaskedLayerNorm that counts some units in the place of a LayerNorm."""
    parent, _, name = path.rpartition(".")
    norm = model.get_submodule(path)
    assert isinstance(norm, nn.LayerNorm)
    masked = MaskedLayerNorm(norm)
    masked.unit_mask = counts.to(masked.unit_mask)
    log.set_item(model.get_submodule(parent)._modules, name, masked)


def masks_of(model: nn.Module, needs: Needs) -> dict[str, dict[str, int]]:
    """Returns what a spec holds of norms that were replaced: their paths and sizes."""
    sizes = {path: len(model.get_submodule(path).get_buffer(MASK)) for path in needs.masked}
    return {"masked": sizes} if sizes else {}
