"""Inputs spoiled on purpose, for causal methods: another sample, noise, other tokens."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from layer_importance._batch import input_keys, size, take, with_entries
from layer_importance._streams import derangement
from layer_importance._structure import mapped, tensors
from layer_importance._subject import Subject

Corruption = Callable[[Any, torch.Generator], Any]
"""``corruption(batch, generator)`` returns the batch spoiled; labels in it are not looked at."""


class NobodyElseError(ValueError):
    """There is no other sample in the batch to stand in."""


def resample(batch: Any, generator: torch.Generator) -> Any:
    """Returns the batch with another sample in the place of each: fits everything.

    Raises:
        NobodyElseError: if there is only one sample; a ``ValueError``.
    """
    if size(batch) < 2:
        raise NobodyElseError("another sample needs batches of at least 2 samples, got 1")
    return take(batch, derangement(size(batch), generator).tolist())


def usual(subject: Subject) -> tuple[Corruption, str]:
    """Returns how inputs of the subject's modality are spoiled, and a word for it.

    Where no modality is known, or it leaves a batch as it is, another sample stands in.
    """
    modality = subject.modality
    if modality is None:
        return resample, "another sample"

    def corrupt(batch: Any, generator: torch.Generator) -> Any:
        spoiled = modality.corrupt(batch, generator)
        pairs = zip(tensors(batch), tensors(spoiled), strict=False)
        same = all(a is b or torch.equal(a, b) for a, b in pairs)
        return resample(batch, generator) if same else spoiled

    return corrupt, f"as {modality.name} is spoiled"


def gaussian_noise(scale: float = 3.0) -> Corruption:
    """Returns the corruption that adds noise to floating inputs.

    Its standard deviation is ``scale`` times that of the input over the whole batch.

    Raises:
        ValueError: if ``scale`` is negative.

    Source: Meng et al., arXiv 2202.05262, section 2.1, who take 3.
    """
    if not scale >= 0:
        raise ValueError(f"scale must be at least 0, got {scale}")

    def corrupt(batch: Any, generator: torch.Generator) -> Any:
        def noisy(tensor: Tensor) -> Tensor:
            if not tensor.is_floating_point() or not tensor.ndim:
                return tensor
            noise = torch.randn(
                tensor.shape, generator=generator, device=generator.device, dtype=tensor.dtype
            )
            return tensor + scale * tensor.std(correction=0) * noise.to(tensor.device)

        return _inputs(batch, noisy)

    return corrupt


def token_swap(rate: float = 0.5) -> Corruption:
    """Returns the corruption that puts other tokens of the same batch in the place of some.

    Each real token is drawn with probability ``rate`` and replaced by a real one from anywhere in
    the batch. Tokens are integers ``[N, T]`` whose name does not say otherwise (masks, positions,
    types); padding is where ``attention_mask`` is 0.

    Raises:
        ValueError: if ``rate`` is no probability.
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"rate must be in 0..1, got {rate}")

    def corrupt(batch: Any, generator: torch.Generator) -> Any:
        mask = batch.get("attention_mask") if hasattr(batch, "get") else None
        keys = [key for key in input_keys(batch) if _may_be_tokens(key)]

        def swapped(key: Any, value: Any) -> Any:
            if key not in keys or not _is_tokens(value):
                return value
            fits = isinstance(mask, Tensor) and mask.shape == value.shape
            return _swap(value, mask.bool() if fits else None, rate, generator)  # type: ignore[union-attr]

        return with_entries(batch, swapped)

    return corrupt


def permuted_features(batch: Any, generator: torch.Generator) -> Any:
    """Returns the batch with each column of ``[N, D]`` floating inputs in an order of its own.

    For tables: every feature keeps its distribution and loses its company.
    """

    def shuffled(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point() or tensor.ndim != 2:
            return tensor
        order = torch.rand(tensor.shape, generator=generator, device=generator.device).argsort(0)
        return tensor.gather(0, order.to(tensor.device))

    return _inputs(batch, shuffled)


def _inputs(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    keys = input_keys(batch)
    return with_entries(batch, lambda key, v: mapped(v, change) if key in keys else v)


def _may_be_tokens(key: int | str | None) -> bool:
    return not any(word in str(key) for word in ("mask", "position", "type"))


def _is_tokens(value: Any) -> bool:
    whole = isinstance(value, Tensor) and value.ndim == 2 and not value.is_floating_point()
    return whole and value.dtype != torch.bool


def _swap(ids: Tensor, real: Tensor | None, rate: float, generator: torch.Generator) -> Tensor:
    known = torch.ones_like(ids, dtype=torch.bool) if real is None else real
    pool = ids[known]
    if not len(pool):
        return ids
    device = generator.device
    drawn = torch.rand(ids.shape, generator=generator, device=device).to(ids.device) < rate
    places = torch.randint(len(pool), ids.shape, generator=generator, device=device)
    return torch.where(drawn & known, pool[places.to(ids.device)], ids)
