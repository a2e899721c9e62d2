"""What several workers agree on, over ``torch.distributed``; with one worker, all are no-ops."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader


def worker_count() -> int:
    """Returns how many workers there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def worker() -> int:
    """Returns the number of this worker; 0 writes files."""
    return dist.get_rank() if worker_count() > 1 else 0


def total(values: Sequence[float]) -> list[float]:
    """Returns the sums of what all workers bring, the same bits on each."""
    if worker_count() == 1:
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64, device=_device())
    dist.all_reduce(sums)
    return [float(value) for value in sums.tolist()]


def from_first(value: Any) -> Any:
    """Returns the plain value that worker 0 brings, on every worker."""
    if worker_count() == 1:
        return value
    data = _bytes(value) if worker() == 0 else torch.zeros(0, dtype=torch.uint8)
    size = torch.tensor([len(data)], device=_device())
    dist.broadcast(size, 0)
    data = data.to(_device()) if worker() == 0 else _room(int(size))
    dist.broadcast(data, 0)
    return json.loads(bytes(data.tolist()))


def from_all(value: Any) -> list[Any]:
    """Returns the plain values that all workers bring, in the order of their numbers."""
    if worker_count() == 1:
        return [value]
    data = _bytes(value)
    sizes = [torch.zeros(1, dtype=torch.int64, device=_device()) for _ in range(worker_count())]
    dist.all_gather(sizes, torch.tensor([len(data)], device=_device()))
    longest = max(int(size) for size in sizes)
    padded = _room(longest)
    padded[: len(data)] = data
    parts = [_room(longest) for _ in sizes]
    dist.all_gather(parts, padded)
    return [json.loads(bytes(p[: int(n)].tolist())) for p, n in zip(parts, sizes, strict=True)]


def wrapped(module: nn.Module, device: torch.device, *, branches: bool) -> nn.Module:
    """Returns the module whose backward pass averages gradients over the workers.

    ``branches``: whether a pass may leave parameters out.
    """
    if worker_count() == 1:
        return module
    devices = [device] if device.type == "cuda" else None
    return DistributedDataParallel(module, device_ids=devices, find_unused_parameters=branches)


def unsynced(module: nn.Module) -> AbstractContextManager[Any]:
    """Returns a context in which gradients stay each worker's own."""
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def check_loader(loader: Any, batch_size: int | None) -> int:
    """Returns how many batches a loader has, if it can be trained from."""
    if not hasattr(loader, "__len__"):
        raise TypeError(f"train_loader must have a length, got {type(loader).__name__}")
    if not len(loader):
        raise ValueError("train_loader must have at least one batch, got none")
    if not isinstance(loader, DataLoader):
        return len(loader)
    if batch_size is not None and loader.batch_size not in (None, batch_size):
        raise ValueError(
            f"train_loader must have the batch_size of the config, {batch_size}, got "
            f"{loader.batch_size}"
        )
    samplers = (loader.sampler, loader.batch_sampler)
    if worker_count() > 1 and not any(hasattr(sampler, "set_epoch") for sampler in samplers):
        raise ValueError(
            "train_loader must have a sampler with set_epoch, such as DistributedSampler, where "
            f"several workers train, got {type(loader.sampler).__name__}"
        )
    return len(loader)


def _bytes(value: Any) -> Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(_device())


def _room(size: int) -> Tensor:
    return torch.zeros(size, dtype=torch.uint8, device=_device())


def _device() -> torch.device:
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
