"""Networks traced by torch.fx, in which the modules of the package are parts of their own."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import fx, nn

from spike_ops.neuron import BaseNode, Neuron


class Tracer(fx.Tracer):
    """Traces a network down to torch's own modules and those of the package."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Return whether a module is a part of its own."""
        ours = type(m).__module__.partition(".")[0] == __name__.partition(".")[0]
        return ours or isinstance(m, Neuron) or super().is_leaf_module(m, module_qualified_name)

    def trace(self, root: Any, concrete_args: dict[str, Any] | None = None) -> fx.Graph:
        """Return the graph of a network."""
        with _nodes_as_modules():
            return super().trace(root, concrete_args)


@contextmanager
def _nodes_as_modules() -> Iterator[None]:
    """Have nodes called as any module: torch.fx puts itself in the place of that call alone."""
    own = BaseNode.__call__

    def call(self: BaseNode, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.__call__(self, *args, **kwargs)

    BaseNode.__call__ = call  # type: ignore[method-assign]
    try:
        yield
    finally:
        BaseNode.__call__ = own  # type: ignore[method-assign]


def warn_of_training(net: nn.Module, norms: tuple[type[nn.Module], ...]) -> None:
    """Warn of norms that train, where their running statistics are taken."""
    for name, each in net.named_modules():
        if isinstance(each, norms) and each.training:
            told = "its running statistics are taken, as of net.eval()"
            warnings.warn(f"{name or type(each).__name__} is in training: {told}", stacklevel=3)
            return
