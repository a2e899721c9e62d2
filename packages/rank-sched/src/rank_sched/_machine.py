"""Which machine a measurement belongs to."""

import os
import platform
from pathlib import Path


def this_machine(*, device: str = "cpu") -> dict[str, str]:
    """Return what tells this machine from another: system, processor, cores, and the device.

    Args:
        device: The part that did the work, for what the processor does not say, such as the name
            of a GPU.

    >>> sorted(this_machine())
    ['cores', 'device', 'processor', 'system']
    """
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": processor_name(),
        "cores": str(os.cpu_count()),
        "device": device,
    }


def processor_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Return the model of the processor, as far as the system says it."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
