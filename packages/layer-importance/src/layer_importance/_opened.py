"""``nn.MultiheadAttention`` whose projections are called as layers, so that hooks on them fire."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Opened:
    """The forward of one attention module, by way of its layers.

    ``torch`` computes it in one function that takes the weights out of the module. This gives the
    same numbers, but for round-off, by calling ``out_proj`` and a linear layer ``projection`` that
    holds the very parameters of the packed input projection.

    Args:
        module: an attention module with packed projections.
        original: its forward, for what is not done here: nested tensors, and single samples.
    """

    def __init__(self, module: nn.MultiheadAttention, original: Callable[..., Any]) -> None:
        self.module, self.original = module, original
        self.projection = nn.Linear(1, 1, bias=False, device="meta")
        self.projection.weight = module.in_proj_weight
        self.projection.bias = module.in_proj_bias
        self.projection.in_features = module.embed_dim
        self.projection.out_features = 3 * module.embed_dim

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """The module's answer: output and, if asked for, attention."""
        if query.ndim != 3 or query.is_nested:
            return self.original(
                query,
                key,
                value,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
                is_causal,
            )
        q, k, v = (self._heads(part) for part in self._projected(query, key, value))
        mask = _additive(attn_mask, key_padding_mask, q)
        weights = None
        if need_weights:
            scores = q @ k.transpose(2, 3) / q.shape[3] ** 0.5
            weights = torch.softmax(scores if mask is None else scores + mask, -1)
            mixed = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        mixed = mixed.transpose(1, 2).flatten(2)
        return self.module.out_proj(mixed if self._first else mixed.transpose(0, 1)), weights

    @property
    def _first(self) -> bool:
        return bool(self.module.batch_first)

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Queries, keys and values."""
        width = self.module.embed_dim
        if query is key and key is value:
            return list(self.projection(query).split(width, -1))
        # all three through one call: what is not used of it has no gradient
        axis = 1 if self._first else 0
        lengths = [part.shape[axis] for part in (query, key, value)]
        packed = self.projection(torch.cat([query, key, value], axis)).split(lengths, axis)
        return [part.split(width, -1)[place] for place, part in enumerate(packed)]

    def _heads(self, part: Tensor) -> Tensor:
        """``[N, heads, T, D / heads]``."""
        part = part if self._first else part.transpose(0, 1)
        return part.unflatten(-1, (self.module.num_heads, -1)).transpose(1, 2)


def _additive(attn_mask: Tensor | None, padding: Tensor | None, q: Tensor) -> Tensor | None:
    """Both masks as what is added to scores ``[N, heads, T, S]``."""
    mask = None
    if attn_mask is not None:
        mask = _minus_infinity(attn_mask, q)
        mask = mask.reshape(*q.shape[:2], *mask.shape[1:]) if mask.ndim == 3 else mask
    if padding is not None:
        padded = _minus_infinity(padding, q)[:, None, None]
        mask = padded if mask is None else mask + padded
    return mask


def _minus_infinity(mask: Tensor, q: Tensor) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(q.dtype)
    return torch.zeros_like(mask, dtype=q.dtype).masked_fill_(mask, -torch.inf)


@contextmanager
def opened(model: nn.Module) -> Iterator[None]:
    """Inside, attention modules of ``model`` call their projections as layers."""
    found = [m for m in model.modules() if _can_open(m)]
    try:
        for module in found:
            module.__dict__["forward"] = Opened(module, module.forward)  # type: ignore[arg-type]
        yield
    finally:
        for module in found:
            module.__dict__.pop("forward", None)


def projection_of(module: nn.Module) -> nn.Linear | None:
    """Returns the layer that stands in for an opened module's packed projection."""
    forward = module.__dict__.get("forward")
    return forward.projection if isinstance(forward, Opened) else None


def _can_open(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.MultiheadAttention)
        and type(module).forward is nn.MultiheadAttention.forward
        and "forward" not in module.__dict__
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )
