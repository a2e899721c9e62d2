"""A program from ``torch.export``: nothing is computed, control flow must not depend on data."""

import operator
from typing import Any

import torch
from torch import nn
from torch.export.graph_signature import InputKind
from torch.utils._pytree import tree_flatten_with_path

from neuro_morph._inputs import ExampleInputs
from neuro_morph._program import Call, Program, Ref, op_name


def record_by_export(model: nn.Module, inputs: ExampleInputs) -> Program:
    """Returns the program of ``model`` on ``inputs``; raises what export raises."""
    exported = torch.export.export(model, inputs.args, inputs.kwargs, strict=False)
    return _Reader(exported).read()


class _Reader:
    def __init__(self, exported: Any) -> None:
        self.exported = exported
        self.program = Program("export")
        self.values: dict[Any, Any] = {}

    def read(self) -> Program:
        kinds = {spec.arg.name: spec for spec in self.exported.graph_signature.input_specs}
        for node in self.exported.graph.nodes:
            if node.op == "placeholder":
                self._placeholder(node, kinds.get(node.name))
            elif node.op == "call_function":
                self._call(node)
            elif node.op == "output":
                self._outputs(node)
        return self.program

    def _placeholder(self, node: Any, spec: Any) -> None:
        if not isinstance(node.meta.get("val"), torch.Tensor):
            return
        ref = self.values[node] = self.program.add(node.meta["val"].shape)
        if spec is not None and spec.kind == InputKind.PARAMETER:
            self.program.parameters[ref.index] = spec.target
        elif spec is not None and spec.kind == InputKind.BUFFER:
            self.program.buffers[ref.index] = spec.target

    def _call(self, node: Any) -> None:
        if node.target is operator.getitem:
            held = self.values.get(node.args[0])
            self.values[node] = held[node.args[1]] if isinstance(held, tuple) else None
            return
        outputs = node.meta.get("val")
        single = isinstance(outputs, torch.Tensor)
        found = (outputs,) if single else outputs if isinstance(outputs, list | tuple) else ()
        refs = tuple(
            self.program.add(v.shape) if isinstance(v, torch.Tensor) else None for v in found
        )
        self.values[node] = refs[0] if single else refs
        args, kwargs = torch.fx.map_arg((node.args, node.kwargs), self.values.get)
        name = (
            op_name(node.target._schema.name)
            if hasattr(node.target, "_schema")
            else str(node.target)
        )
        self.program.calls.append(Call(name, tuple(args), dict(kwargs), refs, _path(node)))

    def _outputs(self, node: Any) -> None:
        spec = self.exported.graph_signature.user_outputs
        by_name = {each.name: value for each, value in self.values.items()}
        returned = [by_name.get(name) for name in spec]
        tree = torch.utils._pytree.tree_unflatten(returned, self.exported.call_spec.out_spec)
        is_ref = lambda x: isinstance(x, Ref)  # noqa: E731
        for path, ref in tree_flatten_with_path(tree, is_leaf=is_ref)[0]:
            if isinstance(ref, Ref):
                self.program.outputs.append((torch.utils._pytree.keystr(path), ref))


def _path(node: Any) -> tuple[str, ...]:
    stack = node.meta.get("nn_module_stack") or {}
    return tuple(path for path, _ in stack.values())
