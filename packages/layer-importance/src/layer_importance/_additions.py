"""What is added to what while a model runs: skips around layers, branches onto a stream."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

if TYPE_CHECKING:
    from layer_importance._probe import Probe

_ADD = frozenset(
    {
        torch.add,
        torch.Tensor.add,
        torch.Tensor.add_,
        torch.Tensor.__add__,
        torch.Tensor.__radd__,
        torch.Tensor.__iadd__,
    }
)
# zeros stay zeros: a branch that goes through these is still the branch of its module
_THROUGH = frozenset(
    {
        "mul",
        "__mul__",
        "__rmul__",
        "mul_",
        "div",
        "__truediv__",
        "view",
        "reshape",
        "permute",
        "transpose",
        "movedim",
        "flatten",
        "unflatten",
        "squeeze",
        "unsqueeze",
        "contiguous",
        "dropout",
        "to",
        "type_as",
        "float",
        "roll",
        "__getitem__",
    }
)
_ATTEND = frozenset({F.scaled_dot_product_attention, F.multi_head_attention_forward})
_SOFTMAX = frozenset({F.softmax, torch.softmax, torch.Tensor.softmax})


class Additions(TorchFunctionMode):
    """Notes in a probe whose input, or sum with its input, is an operand of each addition."""

    def __init__(self, seen: "Probe") -> None:
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Runs the function, and looks at what goes in and comes out."""
        seen = self._seen
        operands = [arg for arg in args if isinstance(arg, Tensor)]
        if func in _ADD:
            self._skips({id(operand) for operand in operands})
        if func in _ATTEND:
            seen.attends.update(path for path, _ in seen.open)
        result = func(*args, **(kwargs or {}))
        if not isinstance(result, Tensor):
            return result
        if func in _SOFTMAX and result.ndim > 2:
            seen.attends.update(path for path, _ in seen.open)
        if func in _ADD and len(operands) == 2:
            self._branches(operands, result)
        elif getattr(func, "__name__", "") in _THROUGH:
            makers = {seen.made_by[id(o)] for o in operands if id(o) in seen.made_by}
            if len(makers) == 1 and id(result) not in seen.made_by:
                self._keep(result)
                seen.made_by[id(result)] = makers.pop()
        return result

    def _skips(self, operands: set[int]) -> None:
        for place, (path, x_id) in enumerate(self._seen.open):
            if x_id in operands:
                inside = frozenset(inner for inner, _ in self._seen.open[place + 1 :])
                self._seen.skips.setdefault(path, []).append(inside)

    def _branches(self, operands: list[Tensor], result: Tensor) -> None:
        seen = self._seen
        running = {path for path, _ in seen.open}
        for base, branch in (operands, operands[::-1]):
            maker = seen.made_by.get(id(branch))
            if maker is not None and maker in seen.streams.get(id(base), ()):
                seen.added.add(maker)
            owners = seen.streams.get(id(base), set()) & running
            for path in owners if maker is not None else ():
                if maker is not None and maker.startswith(path + "."):
                    found = seen.branches.setdefault(path, [])
                    if maker not in found:
                        found.append(maker)
                    self._keep(result)
                    seen.streams.setdefault(id(result), set()).add(path)

    def _keep(self, tensor: Tensor) -> None:
        """Keeps a tensor alive, so that its identity stays its own."""
        self._seen.alive.append(tensor)
