"""What a unit adds to its stream, and the tokens and samples of it: worked out once an event."""

import numpy as np
import torch
from torch import Tensor

from layer_importance._comoments import wide
from layer_importance._events import UnitEvent

PLACES = 64
"""How many places of a map stand for all of them where a covariance is taken."""


def branch(event: UnitEvent) -> Tensor | None:
    """Returns what the unit adds to the stream, ``y - x``; ``None`` if the shape changes.

    For a unit whose output its parent adds, that is ``y`` itself. At least in float32.
    """
    if event.unit.removal == "zero":
        return single(event.y)
    if event.x.shape != event.y.shape:
        return None
    if "branch" not in event.shared:
        event.shared["branch"] = single(event.y) - single(event.x)
    return event.shared["branch"]


def pooled(event: UnitEvent, side: str) -> Tensor:
    """Returns the mean of each sample's real tokens or places, ``[N, D]``, in float64.

    ``side`` is ``x`` or ``y``.
    """
    name = f"pooled {side}"
    if name not in event.shared:
        tensor = event.x if side == "x" else event.y
        if event.channels == 1 and tensor.ndim > 2 and event.mask is None:
            event.shared[name] = tensor.flatten(2).mean(2, dtype=torch.float64)
        else:
            event.shared[name] = wide(event.pooled(single(tensor)))
    return event.shared[name]


def squares(event: UnitEvent, side: str) -> Tensor:
    """Returns the squared norm of every token or place, ``[N, T]``, in float64."""
    name = f"squares {side}"
    if name not in event.shared:
        tensor = event.x if side == "x" else event.y
        event.shared[name] = dots(event, tensor, tensor)
    return event.shared[name]


def dots(event: UnitEvent, a: Tensor, b: Tensor) -> Tensor:
    """Returns the inner product of every token or place of two streams, ``[N, T]``, in float64."""
    if a.ndim == 1:
        return (wide(a) * wide(b))[:, None]
    a, b = (single(t).movedim(event.channels, -1) for t in (a, b))
    if a.device.type != "cpu":
        return (wide(a) * wide(b)).sum(-1).reshape(len(a), -1)
    # numpy: neither the products nor a copy in float64 are ever in memory
    found = np.einsum("...d,...d->...", a.numpy(), b.numpy(), dtype=np.float64)
    return torch.from_numpy(np.asarray(found)).reshape(len(a), -1)


def rows(event: UnitEvent, what: str, chosen: Tensor | None = None) -> Tensor:
    """Returns the real tokens of a stream, ``[M, D]``, of all samples or of ``chosen`` ones.

    ``what`` is ``x``, ``y`` or ``branch``. Of a map, ``PLACES`` places spread evenly: neighbours
    say nearly the same.
    """
    if event.mask is not None and event.channels == 1:
        tensor, real = _stream(event, what), event.mask
        if chosen is not None:
            tensor, real = tensor[chosen.to(tensor.device)], real[chosen.to(real.device)]
        return real_places(tensor, real)
    tokens, mask = _tokens(event, what), event.mask
    if mask is not None and mask.shape != tokens.shape[:2]:
        mask = None
    if chosen is not None:
        chosen = chosen.to(tokens.device)
        tokens, mask = tokens[chosen], mask if mask is None else mask[chosen]
    return tokens.reshape(-1, tokens.shape[-1]) if mask is None else tokens[mask.bool()]


def _stream(event: UnitEvent, what: str) -> Tensor:
    tensor = {"x": event.x, "y": event.y}.get(what)
    if tensor is None:
        tensor = branch(event)
    assert tensor is not None
    return tensor


def _tokens(event: UnitEvent, what: str) -> Tensor:
    tensor = _stream(event, what)
    if event.channels != 1 or tensor.ndim < 3:
        return event.tokens(tensor)
    name = f"places {what}"
    if name not in event.shared:
        event.shared[name] = spread_places(tensor.flatten(2)).movedim(1, -1).contiguous()
    return event.shared[name]


def spread_places(tensor: Tensor) -> Tensor:
    """Returns at most ``PLACES`` entries of the last dimension, evenly spread."""
    count = tensor.shape[-1]
    if count <= PLACES:
        return tensor
    index = (torch.arange(PLACES, device=tensor.device) * 2 + 1) * count // (2 * PLACES)
    return tensor.index_select(-1, index)


def real_places(tensor: Tensor, mask: Tensor) -> Tensor:
    """Returns at most ``PLACES`` of each sample's real places, evenly spread, ``[M, C]``.

    Of ``[N, C, T]`` with the mask ``[N, T]``: however long the padding is, they are the same.
    """
    found = []
    for row, known in zip(tensor, mask.bool().to(tensor.device), strict=True):
        places = known.nonzero()[:, 0]
        found.append(row[:, spread_places(places)].T)
    return torch.cat(found)


def single(tensor: Tensor) -> Tensor:
    """At least float32: half precision has too few digits for a difference or a mean."""
    return tensor if tensor.dtype.itemsize > 2 else tensor.float()
