"""Everything random in training: seeded by epoch and worker, saved and put back."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader


def seed_epoch(loader: Any, seed: int, epoch: int, worker: int) -> None:
    """Seeds every generator that training draws from, so that an epoch depends on its number.

    Data order is the same on all workers, for the samplers that share it out; the rest is not.
    """
    own = np.random.SeedSequence([seed, epoch, worker]).generate_state(2)
    random.seed(int(own[0]))
    np.random.seed(int(own[0]))  # noqa: NPY002 - data sets use the global one
    torch.manual_seed(int(own[0]) << 20 | int(own[1]) >> 12)
    seed_generators(loader, seed, epoch)
    for sampler in (getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)):
        set_epoch = getattr(sampler, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(epoch)


def seed_generators(loader: Any, seed: int, epoch: int) -> None:
    """Seeds the generators that a loader has of its own."""
    shared = int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0])
    for generator in _generators(loader):
        generator.manual_seed(shared)


def _generators(loader: Any) -> Iterator[torch.Generator]:
    if not isinstance(loader, DataLoader):
        return
    for owner in (loader, loader.sampler, loader.batch_sampler, loader.dataset):
        generator = getattr(owner, "generator", None)
        if isinstance(generator, torch.Generator):
            yield generator


def random_state() -> dict[str, Any]:
    """Returns the state of all generators as plain values."""
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 - as above
    return {
        "python": random.getstate(),
        "numpy": (str(kind), np.asarray(keys).tolist(), *rest),
        "torch": torch.get_rng_state().numpy().tobytes().hex(),
        "cuda": [state.numpy().tobytes().hex() for state in torch.cuda.get_rng_state_all()]
        if torch.cuda.is_initialized()
        else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Puts back what :func:`random_state` returned, also after a journey through JSON."""
    version, keys, gauss = state["python"]
    random.setstate((version, tuple(keys), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002 - as above
    torch.set_rng_state(_bytes(state["torch"]))
    for device, text in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(_bytes(text), device)


def _bytes(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray.fromhex(text), dtype=torch.uint8)
