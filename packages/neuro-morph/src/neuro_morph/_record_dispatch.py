"""A program from a real run, operation by operation: for models that cannot be exported."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from neuro_morph._inputs import ExampleInputs
from neuro_morph._outputs import tensors_in
from neuro_morph._program import Call, Program, Ref, op_name
from neuro_morph._record_recurrent import recording
from neuro_morph._sizes import SizesMode


def record_by_dispatch(model: nn.Module, inputs: ExampleInputs) -> Program:
    """Returns the program of one run of ``model`` on ``inputs``."""
    recorder = _Recorder(model)
    sizes = recorder.sizes
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack, torch.no_grad():
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)  # one opaque operation for all of attention
        for path, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(recorder.enter(path)).remove)
            hook = module.register_forward_hook(recorder.leave, always_call=True)
            stack.callback(hook.remove)
            stack.enter_context(recording(recorder, module))
        with recorder, sizes:
            result = model(*inputs.args, **inputs.kwargs)
    recorder.program.ties = sizes.ties
    recorder.program.outputs = [(k, recorder.ref(v)) for k, v in tensors_in(result).items()]
    return recorder.program


class _Recorder(TorchDispatchMode):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.program = Program("dispatch")
        self.seen: dict[int, Ref] = {}
        self.alive: list[Tensor] = []  # so that no two tensors share an id
        self.path: list[str] = []
        self.quiet = False  # inside an operation that is recorded as a whole
        self.sizes = SizesMode(self.ref)
        for names, tensors in (
            (self.program.parameters, model.named_parameters()),
            (self.program.buffers, model.named_buffers()),
        ):
            for name, tensor in tensors:
                names[self.ref(tensor).index] = name

    def enter(self, path: str) -> Any:
        return lambda module, args: self.path.append(path)

    def leave(self, module: nn.Module, args: Any, output: Any) -> None:
        self.path.pop()

    def ref(self, tensor: Tensor) -> Ref:
        if id(tensor) not in self.seen:
            self.alive.append(tensor)
            self.seen[id(tensor)] = self.program.add(tensor.shape)
        return self.seen[id(tensor)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.quiet:
            return func(*args, **kwargs)
        given = self._given(args, kwargs)
        result = func(*args, **kwargs)
        self._add(op_name(func._schema.name), given, result)
        return result

    def note(self, op: str, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Adds an operation that was done elsewhere."""
        self._add(op, self._given(args, kwargs), result)

    def _given(self, args: Any, kwargs: Any) -> Any:
        return tree_map(lambda x: self.ref(x) if isinstance(x, Tensor) else x, (args, kwargs))

    def _add(self, op: str, given: Any, result: Any) -> None:
        leaves = [result] if isinstance(result, Tensor) else tree_flatten(result)[0]
        outputs = tuple(self._new(x) if isinstance(x, Tensor) else None for x in leaves)
        call = Call(op, tuple(given[0]), given[1], outputs, tuple(self.path), self.sizes.given)
        self.program.calls.append(call)

    def _new(self, tensor: Tensor) -> Ref:
        """Returns a number of its own also for a tensor changed in place."""
        self.alive.append(tensor)
        self.seen[id(tensor)] = self.program.add(tensor.shape)
        return self.seen[id(tensor)]
