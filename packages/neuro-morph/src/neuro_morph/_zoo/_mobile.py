"""Nets of depthwise convolutions: gates on channels, channels shuffled."""

import torch
from torch import Tensor, nn


def _conv(into: int, out: int, size: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(into, out, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out))


class SqueezeExcite(nn.Module):
    """A gate on every channel, from the means of all of them."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce, self.expand = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.expand(nn.functional.silu(self.reduce(self.pool(x))))
        return x * torch.sigmoid(gate)


class InvertedResidual(nn.Module):
    """Widen, depthwise convolution, gate, narrow; added to what came in if it fits."""

    def __init__(self, into: int, out: int, inner: int, stride: int, act: nn.Module, gate: bool):
        super().__init__()
        self.widen, self.deep = _conv(into, inner, 1), _conv(inner, inner, 3, stride, groups=inner)
        self.gate: nn.Module = SqueezeExcite(inner, 3) if gate else nn.Identity()
        self.narrow, self.act = _conv(inner, out, 1), act
        self.skips = stride == 1 and into == out

    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.deep(self.act(self.widen(x))))
        y = self.narrow(self.gate(y))
        return x + y if self.skips else y


def _mobile(act: nn.Module, gate: bool) -> nn.Module:
    return nn.Sequential(
        _conv(3, 5, 3, 2),
        act,
        InvertedResidual(5, 6, 10, 1, act, gate),
        InvertedResidual(6, 6, 12, 1, act, gate),
        InvertedResidual(6, 7, 12, 2, act, gate),
        _conv(7, 14, 1),
        act,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(14, 5),
    )


def mobilenet() -> tuple[nn.Module, Tensor]:
    """Inverted residuals, ReLU6 (Sandler et al. 2018)."""
    return _mobile(nn.ReLU6(inplace=True), gate=False), torch.randn(2, 3, 8, 8)


def mobilenet_v3() -> tuple[nn.Module, Tensor]:
    """Inverted residuals with gates, hard swish (Howard et al. 2019)."""
    return _mobile(nn.Hardswish(), gate=True), torch.randn(2, 3, 8, 8)


def efficientnet() -> tuple[nn.Module, Tensor]:
    """Inverted residuals with gates, SiLU (Tan and Le 2019)."""
    return _mobile(nn.SiLU(inplace=True), gate=True), torch.randn(2, 3, 8, 8)


class SeparableNet(nn.Module):
    """Depthwise and pointwise convolutions (MobileNet's first version) in channels-last memory."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _conv(3, 6, 3, 2)
        self.deep1, self.point1 = _conv(6, 6, 3, groups=6), _conv(6, 8, 1)
        self.deep2, self.point2 = _conv(8, 16, 3, 2, groups=8), _conv(16, 10, 1)
        self.head = nn.Linear(10, 5)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        for layer in (self.stem, self.deep1, self.point1, self.deep2, self.point2):
            x = torch.relu(layer(x))
        return self.head(x.mean(dim=(2, 3)))


def separable_net() -> tuple[nn.Module, Tensor]:
    """Depthwise convolutions, one with two maps for each channel (Howard et al. 2017)."""
    return SeparableNet(), torch.randn(2, 3, 8, 8)


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Returns the channels of ``groups`` groups dealt out in turn."""
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class ShuffleUnit(nn.Module):
    """One half of the channels goes through, the other is convolved; then both are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(
            _conv(half, half, 1),
            nn.ReLU(),
            _conv(half, half, 3, groups=half),
            _conv(half, half, 1),
            nn.ReLU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, dim=1)
        return shuffle(torch.cat([left, self.branch(right)], 1), 2)


class ShuffleNet(nn.Module):
    """A stem, shuffle units, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.units = _conv(3, 8, 3, 2), nn.Sequential(ShuffleUnit(8), ShuffleUnit(8))
        self.last, self.head = _conv(8, 10, 1), nn.Linear(10, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.last(self.units(torch.relu(self.stem(x)))))
        return self.head(x.mean((2, 3)))


def shufflenet() -> tuple[nn.Module, Tensor]:
    """Channel split and channel shuffle (Ma et al. 2018)."""
    return ShuffleNet(), torch.randn(2, 3, 8, 8)
