"""What makes a measurement of one machine worthless on another."""

import hashlib
import json
import os
import platform
import tempfile
from pathlib import Path

import torch


def fingerprint(device: torch.device) -> dict[str, str | int]:
    """Return what the time of a product depends on beside the product.

    Model and number of the processor's cores, the threads that torch uses, its instruction set
    and version, and the name of the device.

    Example:
        >>> sorted(fingerprint(torch.device("cpu")))
        ['capability', 'cores', 'cpu', 'device', 'threads', 'torch']
    """
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count() or 0,
        "threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "device": device_name(device),
    }


def digest(machine: dict[str, str | int]) -> str:
    """Return a short name of a fingerprint, for a file."""
    text = json.dumps(machine, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def cache_folder() -> Path:
    """Return where calibrations are kept.

    `$LOWRANK_KERNELS_CACHE`, else `$XDG_CACHE_HOME/lowrank-kernels`, else
    `~/.cache/lowrank-kernels`; for a user without a home a folder among the temporary files.
    """
    if own := os.environ.get("LOWRANK_KERNELS_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or _home()) / "lowrank-kernels"


def _home() -> str:
    try:
        return str(Path("~/.cache").expanduser())
    except RuntimeError:  # a user without a home
        return tempfile.gettempdir()


def device_name(device: torch.device) -> str:
    """Return what the device is called: `cpu`, or the model of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return device.type


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()
