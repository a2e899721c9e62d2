"""Transformers over images, and mixers."""

import torch
from torch import Tensor, nn


class Mlp(nn.Module):
    """Two linear layers with GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(x)))


class FusedAttention(nn.Module):
    """Queries, keys and values from one layer, heads told apart by a view."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.num_heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.num_heads, c // self.num_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        a = (q @ k.transpose(-2, -1) * self.scale).softmax(-1)
        return self.proj((a @ v).transpose(1, 2).reshape(n, t, c))


class TorchAttention(nn.Module):
    """``nn.MultiheadAttention`` with itself."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.mha = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.mha(x, x, x, need_weights=False)[0]


class Block(nn.Module):
    """Attention and MLP, each after a LayerNorm and added to the stream."""

    def __init__(self, width: int, hidden: int, attention: nn.Module) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), attention
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """Patches, a class token, positions, blocks, a classifier."""

    def __init__(self, attention: type[nn.Module], width: int = 12, heads: int = 3) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.Sequential(*(Block(width, 15, attention(width, heads)) for _ in range(2)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


def vit() -> tuple[nn.Module, Tensor]:
    """Attention written out over fused queries, keys and values (Dosovitskiy et al. 2020)."""
    return ViT(FusedAttention), torch.randn(2, 3, 8, 8)


def vit_mha() -> tuple[nn.Module, Tensor]:
    """The same with ``nn.MultiheadAttention``."""
    return ViT(TorchAttention), torch.randn(2, 3, 8, 8)


class WindowBlock(nn.Module):
    """Attention inside windows that may be shifted, then an MLP, on maps ``[n, h, w, c]``."""

    def __init__(self, width: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.attention = nn.LayerNorm(width), FusedAttention(width, heads)
        self.norm2, self.mlp = nn.LayerNorm(width), Mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        n, h, w, c = x.shape
        s = self.window
        y = torch.roll(self.norm1(x), (-self.shift, -self.shift), (1, 2))
        y = y.view(n, h // s, s, w // s, s, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, s * s, c)
        y = self.attention(y).view(n, h // s, w // s, s, s, c).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(n, h, w, c)
        x = x + torch.roll(y, (self.shift, self.shift), (1, 2))
        return x + self.mlp(self.norm2(x))


class PatchMerging(nn.Module):
    """Four neighbours become one, twice as wide."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, out, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        corners = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduce(self.norm(torch.cat(corners, -1)))


class Swin(nn.Module):
    """Windows, shifted windows, patches merged."""

    def __init__(self, width: int = 6, out: int = 8) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 2, 2)
        self.one = nn.Sequential(WindowBlock(width, 2, 2, 0), WindowBlock(width, 2, 2, 1))
        self.merge, self.two = PatchMerging(width, out), WindowBlock(out, 4, 2, 0)
        self.norm, self.head = nn.LayerNorm(out), nn.Linear(out, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).permute(0, 2, 3, 1)
        x = self.two(self.merge(self.one(x)))
        return self.head(self.norm(x).mean((1, 2)))


def swin() -> tuple[nn.Module, Tensor]:
    """Window attention and patch merging (Liu et al. 2021)."""
    return Swin(), torch.randn(2, 3, 8, 8)


class MixerBlock(nn.Module):
    """An MLP over positions, an MLP over channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.tokens = nn.LayerNorm(width), Mlp(tokens, 7)
        self.norm2, self.channels = nn.LayerNorm(width), Mlp(width, 14)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


class Mixer(nn.Module):
    """Patches, mixing blocks, a classifier."""

    def __init__(self, tokens: int = 4, width: int = 10) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(MixerBlock(tokens, width), MixerBlock(tokens, width))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.patches(x).flatten(2).transpose(1, 2))
        return self.head(self.norm(x).mean(1))


def mixer() -> tuple[nn.Module, Tensor]:
    """MLP over positions and over channels (Tolstikhin et al. 2021)."""
    return Mixer(), torch.randn(2, 3, 8, 8)
