"""Recordings of sound as currents over time: the energy of frequency bands."""

import math
import wave
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from adlrns._errors import UseError

# of a window; what a cochlea resolves at speech's rates
_WINDOW_S = 0.032
_FLOOR = 1e-6


def read_wav(path: Path) -> tuple[Tensor, int]:
    """Returns samples in -1..1 [N], channels averaged, and samples a second.

    Raises:
        UseError: if it is no whole PCM file, or holds nothing.
    """
    try:
        with wave.open(str(path), "rb") as file:
            channels, width, rate, count = file.getparams()[:4]
            raw = file.readframes(count)
    except (wave.Error, EOFError, OSError) as error:
        raise UseError(
            f"{path}: not a readable wav file: {str(error) or 'it ends early'}"
        ) from None
    if len(raw) != count * width * channels or not raw or not rate:
        raise UseError(f"{path}: must hold {count} frames, got {len(raw)} bytes")
    if width not in {1, 2, 4}:
        raise UseError(f"{path}: samples must have 8, 16 or 32 bits, got {8 * width}")
    kind = np.dtype({1: "u1", 2: "<i2", 4: "<i4"}[width])
    values = np.frombuffer(raw, kind).astype(np.float32)
    scaled = values / 128 - 1 if width == 1 else values / float(2 ** (8 * width - 1))
    return torch.from_numpy(scaled).view(-1, channels).mean(1), rate


def spectrogram(samples: Tensor, rate: int, *, steps: int, bands: int) -> Tensor:
    """Returns log energies of bands over time, of mean 0 and deviation 1: [steps, bands].

    Bands are triangles evenly spaced on the mel scale; time is stretched to the steps.
    """
    window = 2 ** max(4, round(math.log2(_WINDOW_S * rate)))
    padded = F.pad(samples, (0, max(0, window - len(samples))))
    waves = torch.stft(
        padded, window, window // 4, window=torch.hann_window(window), return_complex=True
    )
    energies = (mel_bands(bands, window // 2 + 1, rate) @ waves.abs().square() + _FLOOR).log()
    timed = F.interpolate(energies[None], steps, mode="linear", align_corners=False)[0].T
    return (timed - timed.mean()) / timed.std().clamp(min=_FLOOR)


def mel_bands(bands: int, bins: int, rate: int) -> Tensor:
    """Returns triangles of height 1 over the bins of a spectrum: [bands, bins]."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    edges = 700 * (10 ** (torch.linspace(0, top, bands + 2) / 2595) - 1)
    places = torch.linspace(0, rate / 2, bins)
    left, middle, right = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    up, down = (places - left) / (middle - left), (right - places) / (right - middle)
    return torch.minimum(up, down).clamp(min=0)
