"""Recurrent layers recorded as one operation each, with all their weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import Tensor, nn

from neuro_morph._program import Ref

OP = "recurrent"
GATES = {nn.LSTM: 4, nn.GRU: 3, nn.RNN: 1, nn.LSTMCell: 4, nn.GRUCell: 3, nn.RNNCell: 1}


class Recorder(Protocol):
    """What operations are recorded by."""

    quiet: bool

    def ref(self, tensor: Tensor) -> Ref:
        """Returns a tensor's number."""
        ...

    def note(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Adds an operation."""
        ...


@contextmanager
def recording(recorder: Recorder, module: nn.Module) -> Iterator[None]:
    """Lets a recurrent layer be recorded as one operation; other modules are left alone."""
    plain = type(module) in GATES and not getattr(module, "proj_size", 0)
    if not plain or "forward" in vars(module):
        yield
        return
    vars(module)["forward"] = _forward(recorder, module)
    try:
        yield
    finally:
        del vars(module)["forward"]


def _forward(recorder: Recorder, module: Any) -> Callable[..., Any]:
    own = module.forward

    def forward(input: Any, hx: Any = None) -> Any:
        if not isinstance(input, Tensor):  # packed sequences
            return own(input, hx)
        before, recorder.quiet = recorder.quiet, True
        try:
            result = own(input, hx)
        finally:
            recorder.quiet = before
        states = [hx] if isinstance(hx, Tensor) else list(hx or ())
        kwargs = {"gates": GATES[type(module)], "both": getattr(module, "bidirectional", False)}
        if not before:
            recorder.note(OP, (input, states, _weights(module)), kwargs, result)
        return result

    return forward


def _weights(module: Any) -> list[list[Tensor]]:
    """Returns input weight, state weight and biases of every layer and direction."""
    if isinstance(module, nn.RNNBase):
        return [list(each) for each in module.all_weights]
    held = module.weight_ih, module.weight_hh, module.bias_ih, module.bias_hh
    return [[each for each in held if each is not None]]
