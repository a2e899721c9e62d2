"""Transformers over tokens: each family with its own norm, attention and ties."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention, silu


def _heads(x: Tensor, count: int) -> Tensor:
    n, t, c = x.shape
    return x.view(n, t, count, c // count).transpose(1, 2)


def _joined(x: Tensor) -> Tensor:
    n, h, t, d = x.shape
    return x.transpose(1, 2).reshape(n, t, h * d)


class PostNormBlock(nn.Module):
    """Attention and MLP, a LayerNorm after each is added."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.dense = nn.Linear(width, width), nn.Linear(width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-12), nn.LayerNorm(width, 1e-12)
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (_heads(layer(x), self.heads) for layer in (self.query, self.key, self.value))
        x = self.norm1(x + self.dense(_joined(scaled_dot_product_attention(q, k, v))))
        return self.norm2(x + self.down(gelu(self.up(x))))


class Bert(nn.Module):
    """Three tables added and normalised, blocks, a pooled class token."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, width), nn.Embedding(8, width)
        self.kinds, self.norm = nn.Embedding(2, width), nn.LayerNorm(width, 1e-12)
        self.blocks = nn.Sequential(PostNormBlock(width, 3, 15), PostNormBlock(width, 3, 15))
        self.pooler, self.head = nn.Linear(width, width), nn.Linear(width, 3)

    def forward(self, ids: Tensor) -> Tensor:
        places = torch.arange(ids.shape[1], device=ids.device)
        x = self.words(ids) + self.places(places) + self.kinds(torch.zeros_like(ids))
        x = self.blocks(self.norm(x))
        return self.head(torch.tanh(self.pooler(x[:, 0])))


def bert() -> tuple[nn.Module, Tensor]:
    """LayerNorm after each sum (Devlin et al. 2018)."""
    return Bert(), torch.randint(0, 11, (2, 5))


class CausalBlock(nn.Module):
    """Queries, keys and values from one layer, split; norms before."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.n_head, self.split_size = heads, width
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.c_attn, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.c_fc, self.c_out = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        parts = self.c_attn(self.ln_1(x)).split(self.split_size, dim=2)
        q, k, v = (_heads(part, self.n_head) for part in parts)
        x = x + self.c_proj(_joined(scaled_dot_product_attention(q, k, v, is_causal=True)))
        return x + self.c_out(gelu(self.c_fc(self.ln_2(x)), approximate="tanh"))


class Gpt2(nn.Module):
    """Tables added, blocks, a head that is the table of words."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(11, width), nn.Embedding(8, width)
        self.h = nn.ModuleList(CausalBlock(width, 3, 20) for _ in range(2))
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, 11, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe(torch.arange(ids.shape[1], device=ids.device))
        for block in self.h:
            x = block(x)
        return self.lm_head(self.ln_f(x))


def gpt2() -> tuple[nn.Module, Tensor]:
    """Fused projections, tied embeddings (Radford et al. 2019)."""
    return Gpt2(), torch.randint(0, 11, (2, 5))


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x ** 2) + eps)`` times a weight, written out."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin


class LlamaBlock(nn.Module):
    """Rotated queries and keys, fewer key heads than query heads, gated MLP."""

    def __init__(self, width: int, heads: int, keys: int, size: int, hidden: int) -> None:
        super().__init__()
        self.heads, self.keys = heads, keys
        self.q_proj, self.o_proj = (
            nn.Linear(width, heads * size, bias=False),
            nn.Linear(heads * size, width, bias=False),
        )
        self.k_proj, self.v_proj = (nn.Linear(width, keys * size, bias=False) for _ in range(2))
        self.norm1, self.norm2 = RMSNorm(width), RMSNorm(width)
        self.gate_proj, self.up_proj = (nn.Linear(width, hidden, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        y = self.norm1(x)
        q = _rotated(_heads(self.q_proj(y), self.heads), cos, sin)
        k = _rotated(_heads(self.k_proj(y), self.keys), cos, sin)
        v = _heads(self.v_proj(y), self.keys)
        k, v = (a.repeat_interleave(self.heads // self.keys, 1) for a in (k, v))
        x = x + self.o_proj(_joined(scaled_dot_product_attention(q, k, v, is_causal=True)))
        y = self.norm2(x)
        return x + self.down_proj(silu(self.gate_proj(y)) * self.up_proj(y))


class Llama(nn.Module):
    """A table, blocks with rotary positions, a head of its own."""

    def __init__(self, width: int = 12, size: int = 6) -> None:
        super().__init__()
        self.table = nn.Embedding(11, width)
        self.blocks = nn.ModuleList(LlamaBlock(width, 4, 2, size, 18) for _ in range(2))
        self.norm, self.head = RMSNorm(width), nn.Linear(width, 11, bias=False)
        angles = torch.arange(8)[:, None] / 100.0 ** (torch.arange(0, size, 2) / size)
        self.register_buffer("angles", torch.cat([angles, angles], -1), persistent=False)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.table(ids)
        angles = self.get_buffer("angles")[: ids.shape[1]]
        cos, sin = angles.cos().to(x), angles.sin().to(x)
        for block in self.blocks:
            x = block(x, cos, sin)
        return self.head(self.norm(x))


def llama() -> tuple[nn.Module, Tensor]:
    """RMSNorm, grouped queries, rotary positions, SwiGLU (Touvron et al. 2023)."""
    return Llama(), torch.randint(0, 11, (2, 5))


class BiasedAttention(nn.Module):
    """Unscaled attention with a learned number for each distance and head."""

    def __init__(self, width: int, heads: int, size: int, distances: int = 9) -> None:
        super().__init__()
        self.heads, self.middle = heads, distances // 2
        self.q, self.k, self.v = (nn.Linear(width, heads * size, bias=False) for _ in range(3))
        self.o = nn.Linear(heads * size, width, bias=False)
        self.bias = nn.Embedding(distances, heads)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        q = _heads(self.q(x), self.heads)
        k, v = _heads(self.k(memory), self.heads), _heads(self.v(memory), self.heads)
        rows, columns = torch.arange(x.shape[1]), torch.arange(memory.shape[1])
        apart = (columns[None] - rows[:, None]).clamp(-self.middle, self.middle) + self.middle
        bias = self.bias(apart).permute(2, 0, 1)[None]
        scores = torch.matmul(q, k.transpose(2, 3)) + bias
        return self.o(_joined(torch.matmul(scores.softmax(-1), v)))


class T5Block(nn.Module):
    """Self-attention, cross-attention if there is a memory, MLP; RMSNorm before each."""

    def __init__(self, width: int, *, crosses: bool) -> None:
        super().__init__()
        self.norm1, self.attention = RMSNorm(width), BiasedAttention(width, 3, 5)
        self.norm2 = RMSNorm(width) if crosses else None
        self.cross = BiasedAttention(width, 3, 5) if crosses else None
        self.norm3, self.wi = RMSNorm(width), nn.Linear(width, 14, bias=False)
        self.wo = nn.Linear(14, width, bias=False)

    def forward(self, x: Tensor, memory: Tensor | None = None) -> Tensor:
        y = self.norm1(x)
        x = x + self.attention(y, y)
        if self.cross is not None and self.norm2 is not None and memory is not None:
            x = x + self.cross(self.norm2(x), memory)
        return x + self.wo(torch.relu(self.wi(self.norm3(x))))


class T5(nn.Module):
    """An encoder, a decoder and one table for both."""

    def __init__(self, width: int = 12) -> None:
        super().__init__()
        self.shared = nn.Embedding(11, width)
        self.encoder, self.norm = T5Block(width, crosses=False), RMSNorm(width)
        self.decoder, self.last = T5Block(width, crosses=True), RMSNorm(width)
        self.head = nn.Linear(width, 11, bias=False)

    def forward(self, ids: Tensor, targets: Tensor) -> Tensor:
        memory = self.norm(self.encoder(self.shared(ids)))
        return self.head(self.last(self.decoder(self.shared(targets), memory)))


def t5() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Encoder and decoder with relative biases (Raffel et al. 2019)."""
    return T5(), (torch.randint(0, 11, (2, 5)), torch.randint(0, 11, (2, 4)))
