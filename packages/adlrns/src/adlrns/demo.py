"""The network and the data of `adlrns demo`, to use by hand and as `MODEL` and `DATA`."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from adlrns._errors import need

__all__ = ["Digits", "digits", "digits_cnn", "train", "trained_digits_cnn"]

TRAIN, BATCH, EPOCHS = 1297, 64, 12


class Digits(NamedTuple):
    """Images `[N, 1, 8, 8]` in 0..1 and labels `[N]`, in two parts that share no image."""

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    def batches(self, size: int = BATCH) -> list[Tensor]:
        """Returns the training images in batches, without labels."""
        return list(self.train_x.split(size))


def digits() -> Digits:
    """Returns scikit-learn's handwritten digits: 1,297 to train with, 500 to test with.

    The split is fixed: one permutation of seed 0, whatever seed a network is trained with.

    Raises:
        MissingExtraError: without scikit-learn; the extra `demo` brings it.
    """
    data = need("sklearn.datasets").load_digits()
    images = torch.tensor(data.data, dtype=torch.float32).div(16).reshape(-1, 1, 8, 8)
    labels = torch.tensor(data.target, dtype=torch.int64)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return Digits(images[:TRAIN], labels[:TRAIN], images[TRAIN:], labels[TRAIN:])


def digits_cnn() -> nn.Sequential:
    """Returns the network, untrained: two convolutions and two linear layers.

    >>> digits_cnn()(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    return nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 128, 3, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(2048, 512),
        nn.ReLU(),
        nn.Linear(512, 10),
    )


def train(
    model: nn.Module,
    data: Digits,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> nn.Module:
    """Returns the model, trained in place: Adam under a one-cycle learning rate."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters())
    steps = epochs * -(-len(data.train_x) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    model.train()
    for epoch in range(epochs):
        for picked in torch.randperm(len(data.train_x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(data.train_x[picked]), data.train_y[picked])
            loss.backward()
            optimizer.step()
            schedule.step()
        progress(epoch + 1, epochs)
    return model.eval()


def trained_digits_cnn() -> nn.Module:
    """Returns the network trained on the digits, seed 0; takes some seconds.

    Raises:
        MissingExtraError: without scikit-learn; the extra `demo` brings it.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return train(digits_cnn(), digits())
