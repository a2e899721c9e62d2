"""Which connections between layers are legal."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from neuro_morph._edge import GrownEdge
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._graph import evaluating
from neuro_morph._inputs import ExampleInputs
from neuro_morph._untouched import untouched
from neuro_morph._visits import Visit, main_tensor, place_of, visits_of


class Flow:
    """What the ends of connections give, in which order, and for which samples.

    Args:
        model: the model.
        inputs: example inputs of it.
        ends: the paths of modules that may be connected.
    """

    def __init__(self, model: nn.Module, inputs: ExampleInputs, ends: Sequence[str]) -> None:
        self.model, self.inputs = model, inputs
        self.visits = visits_of(model, inputs)
        self._samples = _samples_in(inputs)
        self._doubled = self._run_doubled(ends)

    def ends(self, source: str, target: str) -> tuple[Tensor, Tensor]:
        """Returns what source and target give.

        Raises:
            GrowthRefusedError: if they cannot be connected.
        """
        first, second = self._visit(source), self._visit(target)
        if first.finished > second.finished:
            raise GrowthRefusedError(f"{source!r} ends after {target!r}: it cannot lead to it")
        x, y = first.output, second.output
        assert x is not None
        assert y is not None
        if x.device != y.device:
            raise GrowthRefusedError(f"{source!r} is on {x.device}, {target!r} on {y.device}")
        for path, value in ((source, x), (target, y)):
            self._check_samples(path, value)
        if x.shape[0] != y.shape[0]:
            raise GrowthRefusedError(
                f"{source!r} gives {x.shape[0]} rows, {target!r} {y.shape[0]}: they must be the "
                "same samples"
            )
        return x, y

    def nothing_new(self, source: str, target: str) -> str | None:
        """Returns why a connection is not worth making, None if it may be.

        One that is there already is not, nor one beside a linear map that reads what the source
        gives: the sum of two linear maps is one.
        """
        grown = (m.shape for m in self.model.modules() if isinstance(m, GrownEdge))
        if any((shape.source, shape.target) == (source, target) for shape in grown):
            return f"a connection from {source!r} to {target!r} is there already"
        first, second = self.visits[source], self.visits[target]
        linear = _is_linear(self.model.get_submodule(target), first.output, second.output)
        if linear and not first.changed and place_of(first.output) == second.given:
            return f"{target!r} reads what {source!r} gives already, and is linear itself"
        return None

    def overwritten(self, path: str) -> bool:
        """Whether something writes into what a module gives."""
        return self.visits[path].changed

    def _visit(self, path: str) -> Visit:
        visit = self.visits.get(path)
        if visit is None:
            raise GrowthRefusedError(f"{path!r} is not called by the model")
        if visit.calls > 1:
            raise GrowthRefusedError(f"{path!r} is called {visit.calls} times in one run")
        output = visit.output
        if output is None or not output.is_floating_point() or output.dim() < 2:
            raise GrowthRefusedError(
                f"{path!r} gives no tensor of floating point numbers with samples and features"
            )
        return visit

    def _check_samples(self, path: str, value: Tensor) -> None:
        """Samples are rows: with twice as many of them there are twice as many rows."""
        if self._samples is None or path not in self._doubled:
            return
        doubled, own = self._doubled[path], list(value.shape)
        if doubled != [2 * own[0], *own[1:]] or own[0] != self._samples:
            raise GrowthRefusedError(
                f"{path!r} gives a tensor of shape {tuple(own)} whose first axis is not the "
                f"{self._samples} samples"
            )

    def _run_doubled(self, ends: Sequence[str]) -> dict[str, list[int]]:
        """Returns the shapes that the ends give for twice the samples; none if that fails."""
        found: dict[str, list[int]] = {}
        if self._samples is None:
            return found
        hooks = []
        for path in ends:
            module = self.model.get_submodule(path)
            hooks.append(module.register_forward_hook(_shape_into(found, path)))
        try:
            args, kwargs = tree_map(
                lambda x: _twice(x, self._samples), (self.inputs.args, self.inputs.kwargs)
            )
            with untouched(self.model), evaluating(self.model), torch.no_grad():
                self.model(*args, **kwargs)
        except Exception:  # a model may be made for as many samples as there are
            return {}
        finally:
            for hook in hooks:
                hook.remove()
        return found


def _is_linear(module: nn.Module, x: Tensor | None, y: Tensor | None) -> bool:
    """Whether a module is as general as any linear map of its input that keeps positions apart."""
    if isinstance(module, nn.Linear):
        return True
    plain = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d) and module.groups == 1
    return plain and x is not None and y is not None and x.shape[2:] == y.shape[2:]


def _shape_into(found: dict[str, list[int]], path: str) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> None:
        main = main_tensor(output)
        if main is not None:
            found[path] = list(main.shape)

    return hook


def _samples_in(inputs: ExampleInputs) -> int | None:
    leaves = tree_leaves((inputs.args, inputs.kwargs))
    tensors = [x for x in leaves if isinstance(x, Tensor) and x.dim() > 0]
    return len(tensors[0]) if tensors else None


def _twice(value: Any, samples: int | None) -> Any:
    whole = isinstance(value, Tensor) and value.dim() > 0 and len(value) == samples
    return torch.cat([value, value]) if whole else value
