"""A model as a program for other runtimes, each checked against the model itself."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from adlrns._errors import RunError, need
from adlrns._inputs import Example, outputs

# two runtimes add the same numbers in another order
TOLERANCE = 1e-3


def export_program(model: nn.Module, example: Example, check: Example, path: Path) -> str:
    """Writes a `torch.export` program (`.pt2`) and returns how far off the re-read one is."""
    with _quiet():
        torch.export.save(_program(model, example), path)
        program = torch.export.load(path).module()
    return _compare(model, check, lambda e: outputs(program(*e.args, **e.kwargs)))


def export_onnx(model: nn.Module, example: Example, check: Example, path: Path) -> str:
    """Writes an ONNX file and returns how far off onnxruntime is.

    Raises:
        MissingExtraError: without onnx, onnxscript or onnxruntime.
    """
    need("onnxscript")
    onnx, runtime = need("onnx"), need("onnxruntime")
    with _quiet():
        program: Any = torch.onnx.export(
            _program(model, example), dynamo=True, verbose=False, external_data=False
        )
        program.save(path)
    onnx.checker.check_model(str(path))
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]

    def run(example: Example) -> list[Tensor]:
        feed = zip(names, (tensor.numpy() for tensor in example.tensors), strict=True)
        return outputs([torch.as_tensor(array) for array in session.run(None, dict(feed))])

    return _compare(model, check, run)


def export_torchscript(model: nn.Module, example: Example, check: Example, path: Path) -> str:
    """Writes TorchScript, while torch still ships it, and returns how far off it is.

    Raises:
        RunError: with a torch that has no `torch.jit.script`.
    """
    if not hasattr(torch, "jit") or not hasattr(torch.jit, "script"):
        raise RunError(f"torch {torch.__version__} ships no TorchScript any more")
    with _quiet():
        try:
            scripted: Any = torch.jit.script(model)
            how = "scripted"
        except Exception:  # it knows a part of Python only: record one run instead
            args, kwargs = example.args or None, example.kwargs or None
            scripted = torch.jit.trace(model, args, example_kwarg_inputs=kwargs, strict=False)
            how = "traced"
        scripted.save(str(path))
        loaded: Any = torch.jit.load(str(path))
    return f"{how}, " + _compare(model, check, lambda e: outputs(loaded(*e.args, **e.kwargs)))


EXPORTERS: dict[str, tuple[str, Callable[[nn.Module, Example, Example, Path], str]]] = {
    "torch-export": (".pt2", export_program),
    "onnx": (".onnx", export_onnx),
    "torchscript": (".pt", export_torchscript),
}
"""Suffix and exporter of each target."""


def _program(model: nn.Module, example: Example) -> torch.export.ExportedProgram:
    """Returns the exported program, for any batch size where the model allows it."""
    batch = {0: torch.export.Dim.AUTO}
    # a batch is one tensor or a mapping, never both
    shapes: Any = dict.fromkeys(example.kwargs, batch) or tuple(batch for _ in example.args)
    with torch.no_grad():
        return torch.export.export(
            model.eval(), example.args, example.kwargs, dynamic_shapes=shapes, strict=False
        )


def _compare(model: nn.Module, check: Example, run: Callable[[Example], list[Tensor]]) -> str:
    with torch.no_grad(), _quiet():
        want = outputs(model(*check.args, **check.kwargs))
        got = run(check)
    if len(want) != len(got) or any(a.shape != b.shape for a, b in zip(want, got, strict=True)):
        raise RunError(
            f"the exported program must return shapes {[list(t.shape) for t in want]}, "
            f"got {[list(t.shape) for t in got]}"
        )
    pairs = list(zip(want, got, strict=True))
    worst = max((float((a - b).abs().max()) for a, b in pairs if a.numel()), default=0.0)
    scale = max((float(a.abs().max()) for a in want if a.numel()), default=1.0)
    if not worst <= TOLERANCE * max(scale, 1e-30):
        raise RunError(f"the exported program is off by {worst:.2e} in outputs up to {scale:.2e}")
    return f"off by at most {worst:.1e} in outputs up to {scale:.1e}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps exporters' notes about themselves away from the result."""
    before = logging.root.manager.disable
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
