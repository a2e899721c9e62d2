"""Waveforms and spectrograms."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from layer_importance._batch import input_keys, with_entries
from layer_importance._modality import LENGTHS, Modality, first_input, padding_mask, shape_words

_SHORTEST = 400  # samples: 25 ms at 16 kHz; what is shorter is a row of a table


class Audio(Modality):
    """Waveforms ``[N, T]`` or ``[N, C, T]``, or spectrograms with time in the last dimension.

    Padding is where ``attention_mask`` is 0, or beyond ``lengths``, in samples. A stream has fewer
    frames than the signal has samples: of ``F`` frames the first ``ceil(F * length / T)`` are real,
    those that begin before the sound ends, or as many as ``frames`` says.

    Spoiled: white noise as loud as the sound, where there is sound.

    Args:
        frames: from lengths in samples ``[N]`` to lengths in frames ``[N]``.
        strength: of the noise, in root mean squares of each sample's sound; 1 is 0 dB.
    """

    name = "audio"
    axes = (-1,)

    def __init__(
        self, *, frames: Callable[[Tensor], Tensor] | None = None, strength: float = 1.0
    ) -> None:
        super().__init__()
        if not strength >= 0:
            raise ValueError(f"strength must be at least 0, got {strength}")
        self.frames, self.strength = frames, strength

    def recognises(self, batch: Any) -> str:
        """Entries called so, or floats with a long last dimension."""
        named = first_input(batch, "input_values", "input_features", "waveform", "audio")
        if isinstance(batch, Mapping) and named is not None:
            return f"sound {shape_words(named)}"
        sound = first_input(batch, "x")
        if sound is None or not sound.is_floating_point() or sound.shape[-1] < _SHORTEST:
            return ""
        mono = sound.ndim == 2 or (sound.ndim == 3 and sound.shape[1] <= 2)
        timed = isinstance(batch, Mapping) and any(key in batch for key in LENGTHS)
        return f"sound {shape_words(sound)}" if mono or timed else ""

    def mask(self, batch: Any, tokens: int, tower: str = "") -> Tensor | None:
        """Which frames hold sound."""
        del tower
        known = padding_mask(batch, axis=-1)
        if known is None or known.shape[1] == tokens:
            return known
        lengths = known.sum(1)
        if self.frames is not None:
            real = self.frames(lengths)
        else:
            real = -(-lengths * tokens // known.shape[1])
        return torch.arange(tokens, device=known.device) < real[:, None]

    def corrupt(self, batch: Any, generator: torch.Generator) -> Any:
        """White noise over the sound."""
        keys, known = input_keys(batch), padding_mask(batch, axis=-1)

        def noisy(key: Any, value: Any) -> Any:
            sound = isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2
            return self._noisy(value, known, generator) if key in keys and sound else value

        return with_entries(batch, noisy)

    def _noisy(self, sound: Tensor, known: Tensor | None, generator: torch.Generator) -> Tensor:
        if known is None or known.shape[1] != sound.shape[-1]:
            known = torch.ones_like(sound[..., :1, :] if sound.ndim > 2 else sound).bool()
        real = known.reshape(len(sound), *[1] * (sound.ndim - 2), sound.shape[-1]).expand_as(sound)
        loud = torch.where(real, sound, 0).square().flatten(1).sum(1)
        loud = (loud / real.flatten(1).sum(1).clamp_min(1)).sqrt()
        noise = torch.randn(sound.shape, generator=generator, device=generator.device)
        level = self.strength * loud.reshape(-1, *[1] * (sound.ndim - 1))
        return torch.where(real, sound + level * noise.to(sound), sound)
