"""Nets without skip connections: layers one after another."""

import torch
from torch import Tensor, nn


def mlp() -> tuple[nn.Module, Tensor]:
    """Three linear layers with two kinds of bend, a BatchNorm and dropout between."""
    model = nn.Sequential(
        nn.Linear(5, 8),
        nn.BatchNorm1d(8),
        nn.Tanh(),
        nn.Linear(8, 7),
        nn.Sigmoid(),
        nn.Dropout(0.1),
        nn.Linear(7, 3),
    )
    return model, torch.randn(4, 5)


class FlattenNet(nn.Module):
    """Two convolutions whose maps are flattened into one linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
        )
        self.classifier = nn.Linear(8 * 4 * 4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return self.classifier(x.view(x.size(0), -1))


def flatten_net() -> tuple[nn.Module, Tensor]:
    """Conv, ReLU, conv, ReLU, view, linear."""
    return FlattenNet(), torch.randn(2, 3, 4, 4)


def vgg() -> tuple[nn.Module, Tensor]:
    """Convolutions with BatchNorm and pooling, flattened into two linear layers."""
    layers: list[nn.Module] = []
    width = 3
    for out in (6, 8, 10):
        layers += [nn.Conv2d(width, out, 3, padding=1), nn.BatchNorm2d(out), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)]
        width = out
    head = [nn.Flatten(), nn.Linear(10 * 2 * 2, 12), nn.ReLU(), nn.Dropout(), nn.Linear(12, 4)]
    return nn.Sequential(*layers, *head), torch.randn(2, 3, 16, 16)


def dilated() -> tuple[nn.Module, Tensor]:
    """Dilated and strided convolutions, average pooling, PReLU with a slope for each channel."""
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, dilation=2, padding=2),
        nn.PReLU(6),
        nn.Conv2d(6, 7, 5, stride=2, padding=2, bias=False),
        nn.InstanceNorm2d(7, affine=True),
        nn.LeakyReLU(0.1),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(7 * 4, 3),
    )
    return model, torch.randn(2, 3, 8, 8)


class WaveNet(nn.Module):
    """Gated one-dimensional convolutions (tanh times sigmoid of two halves) with skips."""

    def __init__(self, width: int = 8, layers: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, width, 1)
        self.gates = nn.ModuleList(
            nn.Conv1d(width, 2 * width, 3, dilation=2**k, padding=2**k) for k in range(layers)
        )
        self.back = nn.ModuleList(nn.Conv1d(width, width, 1) for _ in range(layers))
        self.last = nn.Conv1d(width, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for gate, back in zip(self.gates, self.back, strict=True):
            a, b = gate(x).chunk(2, 1)
            x = x + back(torch.tanh(a) * torch.sigmoid(b))
        return self.last(x)


def wavenet() -> tuple[nn.Module, Tensor]:
    """Gated dilated convolutions over time."""
    return WaveNet(), torch.randn(2, 2, 9)


def volumes() -> tuple[nn.Module, Tensor]:
    """Three-dimensional convolutions, one of them transposed."""
    model = nn.Sequential(
        nn.Conv3d(2, 6, 3, padding=1),
        nn.BatchNorm3d(6),
        nn.ELU(),
        nn.MaxPool3d(2),
        nn.ConvTranspose3d(6, 5, 2, stride=2),
        nn.Softplus(),
        nn.AdaptiveAvgPool3d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )
    return model, torch.randn(2, 2, 4, 4, 4)


class GroupNormNet(nn.Module):
    """Residual blocks with GroupNorm and grouped convolutions (ResNeXt)."""

    def __init__(self, width: int = 8, inner: int = 12, groups: int = 4) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1), nn.GroupNorm(2, width)
        self.down = nn.Conv2d(width, inner, 1, bias=False)
        self.mid = nn.Conv2d(inner, inner, 3, padding=1, groups=groups, bias=False)
        self.mid_norm = nn.GroupNorm(groups, inner)
        self.up, self.head = nn.Conv2d(inner, width, 1), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = torch.relu(self.down(torch.relu(self.norm(x))))
        x = x + self.up(torch.relu(self.mid_norm(self.mid(y))))
        return self.head(x.mean((2, 3)))


def group_norm_net() -> tuple[nn.Module, Tensor]:
    """GroupNorm and grouped convolutions."""
    return GroupNormNet(), torch.randn(2, 3, 5, 5)
