"""Tokens."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._batch import LABELS
from layer_importance._corruptions import gaussian_noise, token_swap
from layer_importance._modality import Modality, first_input, padding_mask, shape_words
from layer_importance._tasks._labels import IGNORED
from layer_importance._units import Unit, Units


class Text(Modality):
    """Tokens: integers ``[N, T]``, or vectors ``[N, T, D]``.

    Padding is where ``attention_mask`` is 0, or beyond ``lengths``; in the decoder of an
    encoder-decoder where ``decoder_attention_mask`` is, else where labels are -100.

    Spoiled: real tokens are swapped for others of the batch, or, with an ``embedding``, handed in
    as ``inputs_embeds`` with Gaussian noise of ``strength`` times the embedding's standard
    deviation (Meng et al., arXiv 2202.05262, section 2.1). Vectors get the noise themselves.

    Args:
        pad: the token that fills up, where the batch has no mask.
        rate: share of tokens that are swapped.
        embedding: the model's token embedding.
        strength: of the noise, in standard deviations.
    """

    name = "text"

    def __init__(
        self,
        *,
        pad: int | None = None,
        rate: float = 0.5,
        embedding: nn.Embedding | None = None,
        strength: float = 3.0,
    ) -> None:
        super().__init__()
        self.pad, self.embedding, self.strength = pad, embedding, strength
        self._swap, self._noise = token_swap(rate), gaussian_noise(strength)

    def recognises(self, batch: Any) -> str:
        """Integers of two dimensions, or vectors of three."""
        ids = first_input(batch, "input_ids", "inputs_embeds", "src", "tokens")
        if ids is None or ids.dtype == torch.bool:
            return ""
        whole = ids.ndim == 2 and not ids.is_floating_point()
        vectors = ids.ndim == 3 and ids.is_floating_point()
        return f"{'tokens' if whole else 'vectors'} {shape_words(ids)}" if whole or vectors else ""

    def mask(self, batch: Any, tokens: int, tower: str = "") -> Tensor | None:
        """Which tokens are real, in the encoder or in the decoder."""
        known = self._decoded(batch) if "decoder" in tower.split(".") else self._given(batch)
        return known if known is not None and known.shape[1] == tokens else None

    def towers(self, units: Units) -> dict[str, list[Unit]]:
        """Encoder and decoder, where the model has both."""
        grouped: dict[str, list[Unit]] = {}
        for unit in units:
            parts = unit.tower.split(".")
            side = next((part for part in ("encoder", "decoder") if part in parts), "")
            grouped.setdefault(side, []).append(unit)
        return grouped if {"encoder", "decoder"} <= grouped.keys() else units.towers

    def corrupt(self, batch: Any, generator: torch.Generator) -> Any:
        """Other tokens, or noise on their embeddings."""
        ids = first_input(batch, "input_ids", "inputs_embeds", "src", "tokens")
        if ids is not None and ids.is_floating_point():
            return self._noise(batch, generator)
        if self.embedding is None or not isinstance(batch, Mapping):
            return self._swap(batch, generator)
        return self._embedded(batch, generator)

    def _given(self, batch: Any) -> Tensor | None:
        if (known := padding_mask(batch)) is not None or self.pad is None:
            return known
        ids = first_input(batch, "input_ids", "src", "tokens")
        return None if ids is None or ids.ndim != 2 else ids != self.pad

    @staticmethod
    def _decoded(batch: Any) -> Tensor | None:
        if not isinstance(batch, Mapping):
            return None
        if (mask := batch.get("decoder_attention_mask")) is not None:
            return mask.bool()
        labels = next((batch[key] for key in LABELS if key in batch), None)
        fits = isinstance(labels, Tensor) and labels.ndim == 2
        return labels != IGNORED if fits and labels is not None else None

    def _embedded(self, batch: Mapping[str, Any], generator: torch.Generator) -> dict[str, Any]:
        assert self.embedding is not None
        vectors = self.embedding(batch["input_ids"]).detach()
        noise = _normal(vectors, generator) * self.strength * self.embedding.weight.detach().std()
        if (real := self.mask(batch, vectors.shape[1])) is not None:
            noise = noise * real[..., None].to(noise.dtype)
        rest = {key: value for key, value in batch.items() if key != "input_ids"}
        return {"inputs_embeds": vectors + noise, **rest}


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    return noise.to(like.device)
