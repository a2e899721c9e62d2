"""The modalities that come with the package: one file each, one row here."""

from typing import Any

from layer_importance._entry_points import ADAPTERS, loaded, no_subclass, offered
from layer_importance._modalities.audio import Audio
from layer_importance._modalities.graph import Graph
from layer_importance._modalities.multimodal import Multimodal
from layer_importance._modalities.tabular import Tabular
from layer_importance._modalities.text import Text
from layer_importance._modalities.vision import Vision
from layer_importance._modality import Modality
from layer_importance._structure import outline

# in the order in which they are asked whether they recognise a batch
BUILT_IN: tuple[type[Modality], ...] = (Graph, Multimodal, Audio, Vision, Text, Tabular)


def find_modality(which: str | Modality, batch: Any) -> Modality:
    """Returns the modality called so, the one given, or for ``auto`` what a batch looks like.

    What it went by is in the ``reason`` of what is returned. Those that other packages offer by
    entry points (group ``layer_importance.adapters``) come first.

    Raises:
        ValueError: if there is none of that name, or a batch looks like none.

    Example:
        >>> import torch
        >>> found = find_modality("auto", (torch.rand(8, 3, 32, 32), torch.zeros(8)))
        >>> found.name, found.reason
        ('vision', 'images float32 [8, 3, 32, 32]')
    """
    if isinstance(which, Modality):
        return which
    others = {name: loaded(ADAPTERS, name, no_subclass(Modality)) for name in offered(ADAPTERS)}
    named = {kind.name: kind for kind in BUILT_IN} | {n: kind for n, kind in others.items() if kind}
    if which in named:
        return named[which]()
    if which != "auto":
        raise ValueError(
            f"modality must be a Modality, auto or one of {', '.join(named)}, got {which!r}"
        )
    for kind in dict.fromkeys([*filter(None, others.values()), *BUILT_IN]):
        found: Modality = kind()
        if reason := found.recognises(batch):
            found.reason = reason
            return found
    raise ValueError(
        f"modality must be given, one of {', '.join(named)}: the batch {outline(batch):.80} "
        "looks like none"
    )
