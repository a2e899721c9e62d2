"""Really trained networks, made once a session."""

import gzip
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def digits():
    """Images [N, 64] in 0..1 and labels, split into training and test rows."""
    images, labels = load_digits(return_X_y=True)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    x = torch.as_tensor(images, dtype=torch.float32)[order] / 16
    y = torch.as_tensor(labels)[order]
    return x[:1297], y[:1297], x[1297:], y[1297:]


def fit(model, x, y, *, epochs, batch_size=64, lr=2e-3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="session")
def digits_mlp(digits):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)
    )
    return fit(model, *digits[:2], epochs=25)


@pytest.fixture(scope="session")
def digits_cnn(digits):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 24, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(24, 48, 3, padding=1),
        nn.BatchNorm2d(48),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(48, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 10),
    )
    return fit(model, *digits[:2], epochs=8)


def read_idx(path: Path, header: int) -> torch.Tensor:
    data = bytearray(gzip.decompress(path.read_bytes()))
    return torch.frombuffer(data, dtype=torch.uint8, offset=header)


@pytest.fixture(scope="session")
def fashion(data_dir):
    """Images [N, 1, 28, 28] in 0..1 and labels: 20,000 to train on, 4,000 to test on."""
    folder, parts = data_dir / "fashion-mnist", []
    for name, count in (("train", 20_000), ("t10k", 4_000)):
        images = read_idx(folder / f"{name}-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28)
        labels = read_idx(folder / f"{name}-labels-idx1-ubyte.gz", 8)
        parts += [images[:count].float() / 255, labels[:count].long()]
    return parts


@pytest.fixture(scope="session")
def fashion_cnn(fashion):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(24, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(288, 64),
        nn.ReLU(),
        nn.Linear(64, 10),
    )
    return fit(model, *fashion[:2], epochs=2, batch_size=64, lr=3e-3)
