"""The block that vision and language transformers share."""

import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models._nets_layers import Layers


class Attention(nn.Module):
    """Multi-head attention of rows to each other, ``softmax(Q K' / sqrt(d)) V``."""

    def __init__(self, width: int, heads: int, layers: Layers, *, causal: bool = False):
        super().__init__()
        if width % heads:
            raise ValueError(f"width must be a multiple of heads ({heads}), got {width}")
        self.heads, self.causal = heads, causal
        self.query_key_value = layers.linear(width, 3 * width)
        self.out = layers.linear(width, width)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns ``[B, T, width]``; ``mask [B, T]`` is True where a row may be attended to."""
        B, T, width = x.shape
        split = self.query_key_value(x).view(B, T, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each [B, heads, T, d]
        allowed = None if mask is None else mask[:, None, None, :]
        y = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=self.causal)
        return self.out(y.transpose(1, 2).reshape(B, T, width))


class TransformerBlock(nn.Module):
    """``x + attention(norm(x))``, then ``x + mlp(norm(x))`` (Xiong et al. 2020, pre-norm)."""

    def __init__(
        self,
        width: int,
        heads: int,
        layers: Layers,
        *,
        mlp_ratio: int = 4,
        dropout: float = 0.0,
        causal: bool = False,
    ):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, heads, layers, causal=causal)
        self.up = layers.linear(width, mlp_ratio * width)
        self.down = layers.linear(mlp_ratio * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Returns ``[B, T, width]``."""
        x = x + self.dropout(self.attention(self.norm1(x), mask))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm2(x)))))
