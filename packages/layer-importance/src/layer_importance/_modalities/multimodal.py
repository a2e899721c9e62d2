"""Several kinds of data together."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from layer_importance._batch import input_keys
from layer_importance._modalities.audio import Audio
from layer_importance._modalities.tabular import Tabular
from layer_importance._modalities.text import Text
from layer_importance._modalities.vision import Vision
from layer_importance._modality import LENGTHS, MASKS, Modality
from layer_importance._units import Unit, Units

_COMPANIONS = (*MASKS, *LENGTHS)


class Multimodal(Modality):
    """Several inputs of different kinds: each is masked and spoiled as its own modality is.

    Args:
        parts: modality of each input, by its key in the batch or its place in a tuple; found by
            the form of the batch if not given.
        towers: which tower reads which input, from a part of the tower's path to the input's key;
            without it, a stream has the mask of the input with as many tokens, if there is one.
        spoiled: the inputs that :meth:`corrupt` spoils; all if not given.
    """

    name = "multimodal"

    def __init__(
        self,
        parts: Mapping[str | int, Modality] | None = None,
        *,
        towers: Mapping[str, str | int] | None = None,
        spoiled: Sequence[str | int] | None = None,
    ) -> None:
        super().__init__()
        self.parts, self._towers, self.spoiled = parts, towers or {}, spoiled

    def recognises(self, batch: Any) -> str:
        """Two inputs or more that look like different modalities."""
        found = _kinds(batch)
        if len({kind.name for kind in found.values()}) < 2:
            return ""
        return " and ".join(f"{key}: {kind.reason}" for key, kind in found.items())

    def mask(self, batch: Any, tokens: int, tower: str = "") -> Tensor | None:
        """Which tokens are real, as the input that the tower reads says it."""
        parts = self._of(batch)
        if (key := self._read_by(tower)) is not None:
            return parts[key].mask(_alone(batch, key), tokens, tower)
        for key, part in parts.items():
            one = _alone(batch, key)
            longest = batch[key].shape[-1 if isinstance(part, Audio) else 1]
            if longest == tokens and (known := part.mask(one, tokens, tower)) is not None:
                return known
        return None

    def towers(self, units: Units) -> dict[str, list[Unit]]:
        """The units by the input that their tower reads; the others by tower."""
        grouped: dict[str, list[Unit]] = {}
        for unit in units:
            key = self._read_by(unit.tower)
            grouped.setdefault(unit.tower if key is None else str(key), []).append(unit)
        return grouped

    def corrupt(self, batch: Any, generator: torch.Generator) -> Any:
        """Every input spoiled as its modality says, one independent of the other."""
        parts = self._of(batch)
        chosen = list(parts) if self.spoiled is None else self.spoiled
        if missing := [key for key in chosen if key not in parts]:
            raise ValueError(f"spoiled must name inputs among {list(parts)}, got {missing[0]!r}")
        changed = {}
        for key in chosen:
            spoilt = parts[key].corrupt(_alone(batch, key), generator)
            changed[key] = spoilt[key] if isinstance(spoilt, Mapping) else spoilt
        return _replaced(batch, changed)

    def _read_by(self, tower: str) -> str | int | None:
        return next((key for path, key in self._towers.items() if path in tower), None)

    def _of(self, batch: Any) -> Mapping[str | int, Modality]:
        return _kinds(batch) if self.parts is None else self.parts


def _kinds(batch: Any) -> dict[str | int, Modality]:
    """The modality of every input that has one to be seen."""
    found: dict[str | int, Modality] = {}
    for key in input_keys(batch):
        value = None if key is None else batch[key]
        if key is None or key in _COMPANIONS or not isinstance(value, Tensor) or value.ndim < 2:
            continue
        for kind in (Audio, Vision, Text, Tabular):
            one = kind()
            if reason := one.recognises({key: value}) or one.recognises(value):
                one.reason = reason
                found[key] = one
                break
    return found


def _alone(batch: Any, key: str | int) -> Any:
    """One input, with the mask and lengths of the batch if it may be theirs."""
    if not isinstance(batch, Mapping):
        return batch[key]
    value = batch[key]
    kept = {
        k: batch[k]
        for k in _COMPANIONS
        if isinstance(batch.get(k), Tensor)
        and (batch[k].ndim == 1 or batch[k].shape[1:2] == value.shape[1:2])
    }
    return {key: value, **kept}


def _replaced(batch: Any, changed: Mapping[str | int, Any]) -> Any:
    if isinstance(batch, Mapping):
        return {**batch, **changed}
    return type(batch)(changed.get(place, value) for place, value in enumerate(batch))
