"""Multi-head attention whose projections are layers that are called."""

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import skip_init


class OpenAttention(nn.Module):
    """Computes what an ``nn.MultiheadAttention`` does, by four layers of its own.

    ``nn.MultiheadAttention`` reads the weights of its projections, the first three in one tensor;
    here ``q_proj``, ``k_proj``, ``v_proj`` and ``out_proj`` are layers that are called, so that
    each can be replaced. All its arguments mean the same; without ``need_weights`` attention is
    ``scaled_dot_product_attention``. Nested tensors are refused.

    Args:
        attention: the module to open; the parameters are shared with it.

    Shapes: as ``nn.MultiheadAttention``.

    Raises:
        TypeError: if ``attention`` is no ``nn.MultiheadAttention``.

    Example:
        >>> import torch
        >>> from adlrns_models import OpenAttention
        >>> attention = torch.nn.MultiheadAttention(16, 4, batch_first=True)
        >>> x = torch.randn(2, 5, 16)
        >>> y, weights = OpenAttention(attention)(x, x, x)
        >>> bool(torch.allclose(y, attention(x, x, x)[0], atol=1e-5))
        True
    """

    # nn.TransformerEncoderLayer reads these before it decides to call its attention
    in_proj_bias: None = None
    _qkv_same_embed_dim = False

    def __init__(self, attention: nn.MultiheadAttention) -> None:
        if not isinstance(attention, nn.MultiheadAttention):
            kind = type(attention).__name__
            raise TypeError(f"attention must be a MultiheadAttention, got {kind}")
        super().__init__()
        self.embed_dim, self.num_heads = attention.embed_dim, attention.num_heads
        self.head_dim, self.dropout = attention.head_dim, attention.dropout
        self.batch_first, self.add_zero_attn = attention.batch_first, attention.add_zero_attn
        self.q_proj, self.k_proj, self.v_proj = _projections(attention)
        out = attention.out_proj
        self.out_proj = _linear(out.weight, out.bias)
        self.bias_k, self.bias_v = attention.bias_k, attention.bias_v
        self.train(attention.training)

    def forward(
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
        """Returns the attended values and, if wanted, the attention weights.

        Args:
            query: ``[L, embed_dim]``, ``[L, N, embed_dim]``, or batch first ``[N, L, embed_dim]``.
            key: alike, ``S`` and ``kdim``.
            value: alike, ``S`` and ``vdim``.
            key_padding_mask: ``[N, S]`` or ``[S]``: True, or what is added, where a key is padding.
            need_weights: whether the weights are returned.
            attn_mask: ``[L, S]`` or ``[N * num_heads, L, S]``: True where attention is not allowed,
                or what is added to the scores.
            average_attn_weights: whether the weights are averaged over heads.
            is_causal: says that ``attn_mask``, which must be given, is the causal one.

        Raises:
            ValueError: for nested tensors, wrong numbers of axes or masks of another shape.
            TypeError: for masks that are neither bool nor floating point.
        """
        _check_inputs(query, key, value)
        batched = query.dim() == 3
        q = self._heads(self.q_proj(query), batched)
        k, v = self._heads(self.k_proj(key), batched), self._heads(self.v_proj(value), batched)
        if is_causal and attn_mask is None:
            raise ValueError("attn_mask must be given with is_causal, got None")
        hinted = is_causal and key_padding_mask is None and not need_weights
        k, v, added = self._add_keys(k, v)
        mask: Tensor | None = None
        if not hinted:
            mask = _merged(attn_mask, key_padding_mask, q, k.size(-2) - added, added)
        dropout = self.dropout if self.training else 0.0
        weights: Tensor | None = None
        if need_weights:
            scores = (q * math.sqrt(1.0 / self.head_dim)) @ k.transpose(-2, -1)
            weights = (scores if mask is None else scores + mask).softmax(-1)
            weights = F.dropout(weights, dropout, self.training)
            y = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
            weights = weights if batched else weights.squeeze(0)
        else:
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, hinted)
        return self.out_proj(self._joined(y, batched)), weights

    def _heads(self, x: Tensor, batched: bool) -> Tensor:
        """Returns ``[N, heads, L, head_dim]``."""
        if not batched:
            x = x.unsqueeze(0)
        elif not self.batch_first:
            x = x.transpose(0, 1)
        return x.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)

    def _joined(self, y: Tensor, batched: bool) -> Tensor:
        y = y.transpose(1, 2).flatten(2)
        if not batched:
            return y.squeeze(0)
        return y if self.batch_first else y.transpose(0, 1)

    def _add_keys(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, int]:
        """Appends the learned key and the zero one; returns how many."""
        added = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self._heads(self.bias_k, True).expand_as(k[:, :, :1])], -2)
            v = torch.cat([v, self._heads(self.bias_v, True).expand_as(v[:, :, :1])], -2)
            added += 1
        if self.add_zero_attn:
            k, v = F.pad(k, (0, 0, 0, 1)), F.pad(v, (0, 0, 0, 1))
            added += 1
        return k, v, added

    def extra_repr(self) -> str:
        """Returns sizes for ``print(module)``."""
        return f"{self.embed_dim}, num_heads={self.num_heads}, batch_first={self.batch_first}"


def _check_inputs(query: Tensor, key: Tensor, value: Tensor) -> None:
    for name, x in (("query", query), ("key", key), ("value", value)):
        if x.is_nested:
            raise ValueError(f"{name} must not be nested: give padded rows and key_padding_mask")
        if x.dim() not in (2, 3) or x.dim() != query.dim():
            raise ValueError(
                f"{name} must have 3 axes, or 2 without a batch, as query has; "
                f"got {list(x.shape)} beside {list(query.shape)}"
            )


def _merged(
    attn_mask: Tensor | None, padding: Tensor | None, q: Tensor, sources: int, added: int
) -> Tensor | None:
    """Returns what is added to scores ``[N, heads, L, sources + added]``; added keys are seen."""
    n, heads, targets = q.size(0), q.size(1), q.size(2)
    parts: list[Tensor] = []  # no tuples of several lengths here: TorchScript has none
    if attn_mask is not None:
        flat = attn_mask.dim() == 2
        places = [targets, sources]
        _check_mask("attn_mask", attn_mask, places if flat else [n * heads, targets, sources])
        mask = _additive(attn_mask, q)
        parts.append(mask if flat else mask.unflatten(0, [n, heads]))
    if padding is not None:
        rows = padding.unsqueeze(0) if padding.dim() == 1 else padding
        _check_mask("key_padding_mask", rows, [n, sources])
        parts.append(_additive(rows, q)[:, None, None])
    if len(parts) == 0:
        return None
    return F.pad(parts[0] if len(parts) == 1 else parts[0] + parts[1], [0, added])


def _check_mask(name: str, mask: Tensor, shape: list[int]) -> None:
    if list(mask.shape) != shape:
        raise ValueError(f"{name} must have shape {shape}, got {list(mask.shape)}")
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise TypeError(f"{name} must be bool or floating point, got {mask.dtype}")


def _additive(mask: Tensor, like: Tensor) -> Tensor:
    if mask.is_floating_point():
        return mask
    return torch.zeros_like(mask, dtype=like.dtype).masked_fill(mask, -math.inf)


def _projections(attention: nn.MultiheadAttention) -> list[nn.Linear]:
    packed, bias = attention.in_proj_weight, attention.in_proj_bias
    if packed is None:
        weights = [attention.q_proj_weight, attention.k_proj_weight, attention.v_proj_weight]
    else:
        weights = _thirds(packed)
    biases = [None] * 3 if bias is None else _thirds(bias)
    return [_linear(weight, bias) for weight, bias in zip(weights, biases, strict=True)]


def _thirds(packed: nn.Parameter) -> list[nn.Parameter]:
    return [nn.Parameter(part, packed.requires_grad) for part in packed.detach().chunk(3)]


def _linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    m, n = weight.shape
    linear = skip_init(nn.Linear, n, m, bias=bias is not None, device="meta")
    linear.register_parameter("weight", cast("nn.Parameter", weight))
    linear.register_parameter("bias", cast("nn.Parameter | None", bias))
    return linear
