"""What every module of a model gives on the example inputs: shapes, order, calls."""

from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from neuro_morph._graph import evaluating
from neuro_morph._inputs import ExampleInputs
from neuro_morph._untouched import untouched

Place = tuple[int, int, int]  # where a tensor begins, and how many numbers it has


@dataclass
class Visit:
    """What a module did in one run.

    Attributes:
        calls: how often it was called.
        finished: its place in the order in which calls ended, that of its last one.
        output: the tensor it gave (the first one of several), None if it gave none; its numbers
            only where they were asked for.
        values: the numbers of ``output`` as they were when the module gave it.
        version: how often ``output`` had been written into then.
        changed: whether something writes into ``output`` afterwards, also if only in training.
        given: where the tensor lies that it was given, None if it was given none.
    """

    calls: int
    finished: int
    output: Tensor | None
    values: Tensor | None = None
    version: int = 0
    changed: bool = False
    given: Place | None = None


def visits_of(
    model: nn.Module, inputs: ExampleInputs, keep: Collection[str] = ()
) -> dict[str, Visit]:
    """Returns what every module did in one run in evaluation mode, by path.

    Args:
        model: the model; it is left as it was.
        inputs: what it is called with.
        keep: the modules whose outputs are wanted as numbers.
    """
    found: dict[str, Visit] = {}
    with ExitStack() as stack, untouched(model), evaluating(model), torch.no_grad():
        for path, module in model.named_modules():
            hook: Any = partial(_note, found, path, path in keep)
            stack.callback(module.register_forward_hook(hook).remove)
            if getattr(module, "inplace", False):
                before = module.register_forward_pre_hook(partial(_note_writer, found))
                stack.callback(before.remove)
        model(*inputs.args, **inputs.kwargs)
    for visit in found.values():
        written = visit.output is not None and visit.output._version != visit.version
        visit.changed = visit.changed or written
    return found


def _note(
    found: dict[str, Visit], path: str, keep: bool, module: nn.Module, args: Any, output: Any
) -> None:
    main = main_tensor(output)
    calls = found[path].calls + 1 if path in found else 1
    finished = max((visit.finished for visit in found.values()), default=-1) + 1
    found[path] = visit = Visit(calls, finished, None)
    visit.given = place_of(main_tensor(args))
    if main is not None:
        visit.output, visit.version = main.detach(), main._version
        visit.values = main.detach().clone() if keep else None


def _note_writer(found: dict[str, Visit], module: nn.Module, args: Any) -> None:
    """Notes what a module that works in place is given: dropout writes in training only."""
    given = main_tensor(args)
    if given is None:
        return
    place = given.untyped_storage().data_ptr()
    for visit in found.values():
        if visit.output is not None and visit.output.untyped_storage().data_ptr() == place:
            visit.changed = True


def place_of(value: Tensor | None) -> Place | None:
    """Returns where a tensor lies; two that are there at once lie in one place if they are one."""
    if value is None:
        return None
    return value.untyped_storage().data_ptr(), int(value.storage_offset()), value.numel()


def main_tensor(output: Any) -> Tensor | None:
    """Returns the tensor a module gives, the first one of several; None if it gives none."""
    if isinstance(output, Tensor):
        return output
    if isinstance(output, dict):
        output = tuple(output.values())
    if isinstance(output, tuple | list) and output and isinstance(output[0], Tensor):
        return output[0]
    return None


def with_main(output: Any, new: Tensor) -> Any:
    """Returns what a module gave with its (first) tensor replaced."""
    if isinstance(output, Tensor):
        return new
    if isinstance(output, dict):
        copied = output.copy()
        copied[next(iter(copied))] = new
        return copied
    if hasattr(output, "_replace"):  # a named tuple
        return output._replace(**{output._fields[0]: new})
    return type(output)([new, *output[1:]])


def module_at(model: nn.Module, path: str, argument: str) -> nn.Module:
    """Returns the module at a path.

    Raises:
        ValueError: if there is none, naming the argument.
    """
    try:
        return model.get_submodule(path)
    except AttributeError:
        known = [name for name, _ in model.named_modules() if name][:20]
        raise ValueError(
            f"{argument} must be the path of a module ({', '.join(known)}, ...), got {path!r}"
        ) from None
