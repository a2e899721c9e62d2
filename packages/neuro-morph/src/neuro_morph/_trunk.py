"""What is proved from a program: outputs that cannot be negative, branches that can be shut off."""

from collections.abc import Callable, Iterable, Iterator

from neuro_morph._grafts import CONTAINER
from neuro_morph._program import Call, Program, Ref


def _ops(names: str) -> frozenset[str]:
    return frozenset(names.split())


_MOVES = _ops(
    "view _unsafe_view reshape flatten unflatten transpose permute t clone contiguous alias detach "
    "expand squeeze unsqueeze dropout native_dropout movedim slice select _reshape_alias "
    "lift_fresh_copy _to_copy to"
)
_POOLS = _ops(
    "max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices "
    "max_pool3d_with_indices avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d _adaptive_avg_pool2d adaptive_max_pool2d mean amax"
)
_PRODUCTS = _ops(
    "linear addmm mm matmul bmm baddbmm convolution _convolution conv1d conv2d conv3d "
    "conv_transpose1d conv_transpose2d conv_transpose3d addmv"
)
_NORMS = _ops(
    "batch_norm native_batch_norm _native_batch_norm_legit_no_training cudnn_batch_norm "
    "_batch_norm_no_update layer_norm native_layer_norm rms_norm _fused_rms_norm group_norm "
    "native_group_norm instance_norm"
)
_ZERO_AT_ZERO = _ops("gelu silu relu tanh hardswish leaky_relu elu mish div prelu")


class Trace:
    """The operations of a program, found by what they give."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._makers = {
            ref.index: call for call in program.calls for ref in call.outputs if ref is not None
        }

    def maker(self, ref: Ref) -> Call | None:
        """Returns the operation that gives a tensor, None for one that is given."""
        return self._makers.get(ref.index)

    def parameter(self, ref: Ref) -> str | None:
        """Returns the parameter that a tensor is, seen through views; None if it is none."""
        while ref.index not in self.program.parameters:
            call = self.maker(ref)
            if call is None or call.op not in _MOVES:
                return None
            ref = next(call.inputs())
        return self.program.parameters[ref.index]

    def output_of(self, path: str, shape: Iterable[int]) -> Ref | None:
        """Returns the tensor of a shape that a module gives, None if it is not found."""
        wanted = tuple(shape)
        for call in reversed(self.program.calls):
            ref = call.outputs[0] if call.outputs else None
            if path in call.path and ref is not None and self.program.shape(ref) == wanted:
                return ref
        return None


def why_negative(trace: Trace, ref: Ref) -> str | None:
    """Returns what may make a tensor negative; None if it comes out of rectifiers only."""
    call = trace.maker(ref)
    if call is None:
        return "it is given"
    if call.op in ("relu", "relu6") or _clamped(call):
        return None
    if call.op in _MOVES or call.op in _POOLS:
        return why_negative(trace, next(call.inputs()))
    operands = list(call.inputs())
    summed = call.op == "add" and len(operands) == 2 and call.kwargs.get("alpha", 1) >= 0
    if summed or call.op in ("cat", "concat"):
        whys = [why_negative(trace, each) for each in operands]
        return next((why for why in whys if why is not None), None)
    return f"it is made by {call.op}"


def _clamped(call: Call) -> bool:
    """Whether an operation cuts off what is below zero."""
    if call.op not in ("hardtanh", "clamp", "clamp_min"):
        return False
    low = call.args[1] if len(call.args) > 1 else call.kwargs.get("min_val", call.kwargs.get("min"))
    return isinstance(low, int | float) and low >= 0


class Branches:
    """The branches that a module adds to its input."""

    def __init__(self, trace: Trace, path: str) -> None:
        self.trace = trace
        mine = [call for call in trace.program.calls if path in call.path]
        self._inside = {ref.index for call in mine for ref in call.outputs if ref is not None}
        self.blocked = "its input alone"

    def last_projections(self, ref: Ref) -> list[str] | None:
        """Returns parameters that, all zero, make the module give its input; None if none are.

        They are the last projections (or scales) of each branch that is added to the trunk. What
        was grown at the module is no part of it.
        """
        own = self._ungrown(ref)
        return None if own is None else self._projections(own)

    def _projections(self, ref: Ref) -> list[str] | None:
        if ref.index not in self._inside:
            return []
        call = self.trace.maker(ref)
        assert call is not None
        if call.op in _MOVES or call.op == "relu":
            return self._projections(next(call.inputs()))
        operands = list(call.inputs())
        if call.op == "add" and len(operands) == 2:
            return self._added(*operands) or self._added(*reversed(operands))
        self.blocked = call.op
        return None

    def _ungrown(self, ref: Ref) -> Ref | None:
        """Returns the module's output before connections and layers that follow by a hook."""
        call = self.trace.maker(ref)
        if call is None:
            return ref
        operands = list(call.inputs())
        alien = [each for each in operands if is_grown(self.trace.maker(each))]
        if not is_grown(call) and (call.op != "add" or not alien):
            return ref
        if call.op in _MOVES or call.op == "add":
            trunks = [each for each in operands if each not in alien] or alien
            found = (self._ungrown(each) for each in trunks)
            return next((each for each in found if each is not None), None)
        self.blocked = f"{call.op} of a layer that was grown behind it"
        return None

    def _added(self, trunk: Ref, branch: Ref) -> list[str] | None:
        below = self._projections(trunk)
        if below is None:
            return None
        ends = self._ends(branch)
        return None if ends is None else below + ends

    def _ends(self, ref: Ref) -> list[str] | None:
        call = self.trace.maker(ref)
        if ref.index not in self._inside or call is None:
            return None
        own = [n for n in map(self.trace.parameter, call.inputs()) if n is not None]
        if call.op in _PRODUCTS | _NORMS or (call.op == "mul" and own):
            return own or None
        rest = [each for each in call.inputs() if self.trace.parameter(each) is None]
        if call.op in _MOVES | _POOLS | _ZERO_AT_ZERO:
            return self._ends(rest[0]) if rest else None
        if call.op in ("add", "cat", "concat"):
            return _all(self._ends, rest, own)
        if call.op == "mul":
            return next((found for found in map(self._ends, rest) if found), None)
        self.blocked = call.op
        return None


def is_grown(call: Call | None) -> bool:
    """Whether an operation is one of a part that was grown."""
    paths = call.path if call is not None else ()
    return any(CONTAINER in path.split(".") for path in paths)


def _all(
    ends: Callable[[Ref], list[str] | None], refs: Iterable[Ref], own: list[str]
) -> list[str] | None:
    found = list(own)
    for each in _each(ends, refs):
        if each is None:
            return None
        found += each
    return found


def _each(
    ends: Callable[[Ref], list[str] | None], refs: Iterable[Ref]
) -> Iterator[list[str] | None]:
    return (ends(ref) for ref in refs)
