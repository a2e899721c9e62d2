"""In which order a model's layers run, which of them read the same input, and what they do."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

Seen = Callable[[str, Tensor, Tensor], None]
Calls = dict[str, list[tuple[Tensor, Tensor]]]


class Order(NamedTuple):
    """The layers that one pass of a model calls.

    Attributes:
        groups: names of layers that read the same input, in the order of their first calls.
        calls: how often each is called.
    """

    groups: list[list[str]]
    calls: Counter[str]


class _Enough(BaseException):
    """Ends a pass that has shown what was asked for."""


@contextmanager
def hooked(layers: Mapping[str, nn.Module], seen: Seen) -> Iterator[None]:
    """Has ``seen(name, input, output)`` called whenever one of ``layers`` has run."""

    def hook(name: str) -> Callable[..., None]:
        def watch(
            layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor
        ) -> None:
            del layer
            seen(name, (args[0] if args else kwargs["input"]).detach(), output.detach())

        return watch

    handles = [
        layer.register_forward_hook(hook(name), with_kwargs=True) for name, layer in layers.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def order_of(layers: Mapping[str, nn.Module], run: Callable[[], Any]) -> Order:
    """Returns the order in which ``run()`` calls the layers."""
    groups: dict[tuple[int, int], list[str]] = {}
    held: list[Tensor] = []  # while it is, nothing else can come to lie at an input's address
    calls: Counter[str] = Counter()

    def seen(name: str, x: Tensor, y: Tensor) -> None:
        del y
        calls[name] += 1
        if calls[name] == 1:
            held.append(x)
            version = 0 if x.is_inference() else x._version
            groups.setdefault((x.data_ptr(), version), []).append(name)

    with torch.no_grad(), hooked(layers, seen):
        run()
    return Order(list(groups.values()), calls)


def calls_of(
    layers: Mapping[str, nn.Module], names: Sequence[str], order: Order, run: Callable[[], Any]
) -> Calls:
    """Returns inputs and outputs of the named layers; ``run()`` ends once they are all there."""
    found: Calls = {name: [] for name in names}

    def seen(name: str, x: Tensor, y: Tensor) -> None:
        found[name].append((x, y))
        if all(len(found[name]) >= order.calls[name] for name in names):
            raise _Enough

    with torch.no_grad(), hooked({name: layers[name] for name in names}, seen), suppress(_Enough):
        run()
    return found
