"""Where a model attends: what its attention is, and which layer mixes the heads."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from layer_importance._opened import opened
from layer_importance._preserve import preserved
from layer_importance._probe import few
from layer_importance._structure import stream
from layer_importance._subject import Subject
from layer_importance._units import Unit

_SOFTMAX = {F.softmax, torch.softmax, Tensor.softmax}


class Attending(TorchFunctionMode):
    """Tells of every attention matrix ``[..., heads, T, S]`` that is computed, as it is.

    Attention is a softmax over the last of four dimensions, or
    ``scaled_dot_product_attention``, whose matrix is computed beside it.

    Args:
        tell: called with each matrix, or with its shape alone.
        values: whether matrices are wanted; else empty tensors of their shape come.
    """

    def __init__(self, tell: Callable[[Tensor], None], *, values: bool) -> None:
        super().__init__()
        self._tell, self._values = tell, values

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        output = func(*args, **kwargs)
        if func in _SOFTMAX and isinstance(output, Tensor) and output.ndim == 4:
            self._tell(output.detach())
        if func is F.scaled_dot_product_attention:
            self._tell(_weights(*args, **kwargs) if self._values else _shape(*args, **kwargs))
        return output


def _shape(query: Tensor, key: Tensor, *_: Any, **__: Any) -> Tensor:
    return query.new_empty(1).expand(*query.shape[:-1], key.shape[-2])


def _weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The matrix that ``scaled_dot_product_attention`` multiplies the values with."""
    del value, dropout_p
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    scores = (query @ key.transpose(-2, -1)).detach().double() * factor
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(later, -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


@dataclass(slots=True)
class Open:
    """The units that run at a moment, innermost last."""

    units: list[Unit] = field(default_factory=list)


@contextmanager
def running(subject: Subject, changed: Callable[[], None] = lambda: None) -> Iterator[Open]:
    """Keeps track of which units run; ``changed`` is called when one begins or ends."""
    now, counts = Open(), {unit.path: 0 for unit in subject.units}
    by_call = {(unit.path, unit.call or 0): unit for unit in subject.units}
    several = {unit.path for unit in subject.units if unit.call is not None}
    handles: list[Any] = []

    def watch(path: str, module: nn.Module) -> None:
        def before(*_: Any) -> None:
            now.units.append(by_call[path, counts[path] if path in several else 0])
            counts[path] += 1
            changed()

        def after(*_: Any) -> None:
            now.units.pop()
            changed()

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    try:
        for path in counts:
            watch(path, subject.model.get_submodule(path))
        yield now
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True, slots=True)
class Mixer:
    """One call of the layer that mixes the heads of one attention.

    Attributes:
        path: where the layer is.
        call: which of its calls this is.
        units: the units it is in, by name.
        heads: how many heads its input holds, one after the other.
    """

    path: str
    call: int
    units: tuple[str, ...]
    heads: int


def mixers(subject: Subject) -> list[Mixer]:
    """Returns the layers that mix heads: the first linear one called after an attention.

    Nothing is known of names: one run on two copies of the first sample shows what attends, and
    leaves the model as it was.
    """
    found: list[Mixer] = []
    heads: list[int] = []
    calls: dict[str, int] = {}

    def attended(matrix: Tensor) -> None:
        heads[:] = [matrix.shape[-3]]

    def watch(path: str, module: nn.Module, now: Open) -> Any:
        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            x = stream((args, kwargs))
            call = calls[path] = calls.get(path, -1) + 1
            if heads and now.units and x is not None and x.shape[-1] % heads[0] == 0:
                found.append(Mixer(path, call, tuple(u.name for u in now.units), heads[0]))
            heads.clear()

        return module.register_forward_pre_hook(before, with_kwargs=True)

    with (
        preserved(subject.model, gradients=False),
        opened(subject.model),
        running(subject, heads.clear) as now,
    ):
        handles = [
            watch(path, module, now)
            for path, module in subject.model.named_modules()
            if isinstance(getattr(module, "weight", None), Tensor) and module.weight.ndim == 2
        ]
        try:
            with Attending(attended, values=False):
                subject.forward(few(subject.first, 2) if subject.divisible else subject.first)
        finally:
            for handle in handles:
                handle.remove()
    return found
