"""Convolutional nets with skip connections: added, or concatenated."""

import torch
from torch import Tensor, nn


def _conv(into: int, out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(into, out, size, stride, size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class BasicBlock(nn.Module):
    """Two convolutions and a skip, projected where the shape changes."""

    def __init__(self, into: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = _conv(into, out, 3, stride), _conv(out, out)
        plain = stride == 1 and into == out
        self.skip: nn.Module = nn.Identity() if plain else _conv(into, out, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.skip(x) + self.second(self.relu(self.first(x))))


class Bottleneck(nn.Module):
    """Narrow, convolve, widen, and a skip added in place."""

    def __init__(self, into: int, inner: int, out: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.second = _conv(into, inner, 1), _conv(inner, inner, 3, stride)
        self.third = _conv(inner, out, 1)
        plain = stride == 1 and into == out
        self.skip: nn.Module = nn.Identity() if plain else _conv(into, out, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.second(self.relu(self.first(x))))
        y = self.third(y)
        y += self.skip(x)
        return self.relu(y)


class ResNet(nn.Module):
    """A stem, blocks, pooling and a classifier."""

    def __init__(self, *blocks: nn.Module, first: int, last: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, first), nn.ReLU(inplace=True), nn.MaxPool2d(2))
        self.blocks = nn.Sequential(*blocks)
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(last, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(torch.flatten(self.pool(self.blocks(self.stem(x))), 1))


def resnet() -> tuple[nn.Module, Tensor]:
    """Basic blocks (He et al. 2015)."""
    blocks = BasicBlock(6, 6), BasicBlock(6, 8, 2), BasicBlock(8, 8)
    return ResNet(*blocks, first=6, last=8), torch.randn(2, 3, 8, 8)


def resnet_bottleneck() -> tuple[nn.Module, Tensor]:
    """Bottleneck blocks (He et al. 2015)."""
    blocks = Bottleneck(6, 4, 8), Bottleneck(8, 4, 8), Bottleneck(8, 5, 10, 2)
    return ResNet(*blocks, first=6, last=10), torch.randn(2, 3, 8, 8)


class DenseLayer(nn.Module):
    """BatchNorm, ReLU, convolution: its maps are joined to what it was given."""

    def __init__(self, into: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.BatchNorm2d(into), nn.Conv2d(into, 2 * growth, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(2 * growth)
        self.conv2 = nn.Conv2d(2 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(torch.relu(self.norm1(x)))
        return torch.cat([x, self.conv2(torch.relu(self.norm2(y)))], 1)


def densenet() -> tuple[nn.Module, Tensor]:
    """Dense blocks with a transition between (Huang et al. 2016)."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False),
        DenseLayer(6, 4),
        DenseLayer(10, 4),
        nn.BatchNorm2d(14),
        nn.ReLU(),
        nn.Conv2d(14, 8, 1, bias=False),
        nn.AvgPool2d(2),
        DenseLayer(8, 4),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    )
    return model, torch.randn(2, 3, 8, 8)


class Fire(nn.Module):
    """Squeeze, then two kinds of convolution side by side."""

    def __init__(self, into: int, squeeze: int, one: int, three: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(into, squeeze, 1)
        self.one = nn.Conv2d(squeeze, one, 1)
        self.three = nn.Conv2d(squeeze, three, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.squeeze(x))
        return torch.cat([torch.relu(self.one(x)), torch.relu(self.three(x))], 1)


def squeezenet() -> tuple[nn.Module, Tensor]:
    """Fire modules and a convolution that classifies (Iandola et al. 2016)."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        Fire(6, 4, 5, 6),
        Fire(11, 4, 6, 6),
        nn.Dropout(),
        nn.Conv2d(12, 5, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    return model, torch.randn(2, 3, 15, 15)


class UNet(nn.Module):
    """Down, up again by a transposed convolution, skips concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = _conv(3, 6), _conv(6, 8)
        self.middle, self.pool = _conv(8, 10), nn.MaxPool2d(2)
        self.up2, self.up1 = nn.ConvTranspose2d(10, 7, 2, 2), nn.ConvTranspose2d(9, 5, 2, 2)
        self.join2, self.join1 = _conv(15, 9), _conv(11, 6)
        self.head = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.down1(x))
        b = torch.relu(self.down2(self.pool(a)))
        x = torch.relu(self.middle(self.pool(b)))
        x = torch.relu(self.join2(torch.cat([self.up2(x), b], 1)))
        return self.head(torch.relu(self.join1(torch.cat([self.up1(x), a], 1))))


def unet() -> tuple[nn.Module, Tensor]:
    """Skips concatenated, transposed convolutions (Ronneberger et al. 2015)."""
    return UNet(), torch.randn(1, 3, 8, 8)


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution, LayerNorm over channels that stand last, MLP, layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.deep = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.norm, self.up = nn.LayerNorm(width, eps=1e-6), nn.Linear(width, 3 * width)
        self.down, self.gamma = nn.Linear(3 * width, width), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.deep(x).permute(0, 2, 3, 1))
        y = self.gamma * self.down(nn.functional.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class LayerNorm2d(nn.LayerNorm):
    """LayerNorm of the channels of maps."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXt(nn.Module):
    """Two stages of blocks with a strided convolution between."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 2, 2), LayerNorm2d(6))
        self.one, self.two = ConvNeXtBlock(6), ConvNeXtBlock(8)
        self.between = nn.Sequential(LayerNorm2d(6), nn.Conv2d(6, 8, 2, 2))
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(self.between(self.one(self.stem(x))))
        return self.head(self.norm(x.mean((2, 3))))


def convnext() -> tuple[nn.Module, Tensor]:
    """LayerNorm over channels that stand last, layer scale (Liu et al. 2022)."""
    return ConvNeXt(), torch.randn(2, 3, 8, 8)
