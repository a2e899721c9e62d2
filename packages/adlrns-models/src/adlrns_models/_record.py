"""Which dynamic layers ran inside a ``with`` block, and what they decided."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from adlrns_models import _observe
from adlrns_models._recording import Open, Recording, board, name_of

if TYPE_CHECKING:
    from adlrns_models._dynamic import DynamicLayer
    from adlrns_models._gate import Decision

_open = Open()
_places, _numbers = count(), count(1)


@contextmanager
def record(model: nn.Module) -> Iterator[Recording]:
    """Lists what the dynamic layers of a model decide inside a ``with`` block.

    All calls in the block count, in the order they ran: several passes add up, and a layer that a
    pass calls twice is listed twice. They are those of the thread that the block is in, and of its
    task and the tasks that this one starts. Not listed are what activation checkpointing computes
    once more, and calls inside a transform of ``torch.func`` that began in the block. The recording
    holds the graph of the decisions, and is the only one to do so. In compiled models, too, and in
    blocks around blocks; once a compiled model has been recorded, the graph of its last call lives
    until the thread's next one.

    Args:
        model: any module; layers outside of it are not listed.

    Yields:
        A sequence of pairs ``(layer, decision)``, for :func:`rank_penalty` and
        :func:`mean_flops`; it stays when the block ends.

    Raises:
        TypeError: for what is no module.
        RuntimeError: from a layer that ``nn.DataParallel`` copied to another device while the block
            runs: its decisions are out of reach. ``DistributedDataParallel`` makes no copies. At
            the end of a block in which a compiled call failed, or a layer was put in that ran in a
            compiled graph alone.

    Example:
        >>> import torch
        >>> from adlrns_models import DynamicLinear, rank_penalty, record
        >>> layer = DynamicLinear(16, 16, r_max=8, gate="learned")
        >>> with record(layer) as ran:
        ...     loss = layer(torch.randn(4, 16)).square().mean() + rank_penalty(ran)
        >>> loss.backward()
        >>> [decision.rows for _, decision in ran]
        [4]
    """
    recording = _begin(model)
    try:
        yield recording
        recording.settle(whole=True)
        recording.check_layers()
    finally:
        recording.settle(whole=False)
        _open.end(recording)


@torch.compiler.disable
def _begin(model: nn.Module) -> Recording:
    recording = Recording(model)
    _open.begin(recording)
    return recording


def note(layer: "DynamicLayer", x: Tensor, decision: "Decision") -> None:
    """Adds a call of ``layer`` on ``x`` to the recordings that it belongs to."""
    grad = torch.is_grad_enabled()
    if torch.compiler.is_compiling():
        if layer._recorded and not torch.compiler.is_exporting():
            place = _next_place()
            number = torch.ops.adlrns_models.ran(x.detach(), place)
            setattr(board, place, (number, layer, decision, grad))
        return
    if not _open.all:
        return
    if getattr(layer, "_is_replica", False) and any(each.has_copy(layer) for each in _open.all):
        raise RuntimeError(
            f"{type(layer).__name__} is a copy made by DataParallel, whose decisions cannot be "
            "recorded: use DistributedDataParallel"
        )
    if not _observe.recomputing():
        for recording in _open.of_task():
            recording.add(layer, decision, grad)


@torch.compiler.assume_constant_result  # a trace has its own places
def _next_place() -> str:
    return name_of(next(_places))


@torch.library.custom_op("adlrns_models::ran", mutates_args=())
def _ran(x: Tensor, place: str) -> Tensor:
    """Tells the recordings where the running graph will leave a decision, and under which number.

    Takes the layer's input, so that it runs in every pass.
    """
    number = next(_numbers)
    open_here = _open.of_thread()
    for recording in open_here:  # before another task's graph takes the places
        recording.settle(whole=False)
    if not _observe.recomputing():
        for recording in _open.of_task():
            recording.wait_for(int(place.removeprefix("call")), number)
    if not open_here:
        vars(board).clear()
    return torch.tensor(number, device="cpu")


@_ran.register_fake
def _(x: Tensor, place: str) -> Tensor:
    del x, place
    return torch.empty((), dtype=torch.int64, device="cpu")
