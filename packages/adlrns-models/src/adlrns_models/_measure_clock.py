"""Clocks: of calls, and of the layers inside them."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


def wait(device: torch.device) -> None:
    """Waits until the device has done all that it was given."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    """Returns what one call takes, until the device is done."""
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def times_within(
    call: Callable[[], None], layers: Mapping[str, nn.Module], device: torch.device
) -> dict[str, float]:
    """Returns the seconds of one call spent in each layer, all its turns together."""
    marks: dict[str, list[Any]] = {name: [] for name in layers}
    clock = _clock(device)
    handles = []
    for name, layer in layers.items():

        def mark(*_: Any, at: list[Any] = marks[name]) -> None:
            at.append(clock())

        handles += [layer.register_forward_pre_hook(mark), layer.register_forward_hook(mark)]
    try:
        call()
    finally:
        for handle in handles:
            handle.remove()
    wait(device)
    return {n: sum(map(_between, at[::2], at[1::2])) for n, at in marks.items()}


def _clock(device: torch.device) -> Callable[[], Any]:
    if device.type == "cuda":
        return _event  # what was begun goes on meanwhile

    def waited() -> float:
        wait(device)
        return time.perf_counter()

    return waited


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _between(start: Any, end: Any) -> float:
    return float(end - start if isinstance(start, float) else start.elapsed_time(end) / 1e3)
