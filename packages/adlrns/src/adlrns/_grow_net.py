"""The network that `adlrns grow` begins with, and its fit to the data."""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from adlrns._config import Config
from adlrns._config_sections import NETS, Model
from adlrns._datasets import Task
from adlrns._errors import UseError, from_user
from adlrns._nets import make_net
from adlrns._source import HF, open_model

Losses = Callable[[nn.Module, Any], Tensor]
_SIZES = ("hidden", "width", "blocks", "depth", "heads", "patch", "dropout")
_LISTS = ("hidden", "blocks")


def open_net(spec: str, options: tuple[str, ...], task: Task) -> nn.Module:
    """Returns the network, drawn by torch's random state.

    Args:
        spec: a reference net's name, or `module:factory`.
        options: `KEY=VALUE` of a reference net.
        task: what a reference net must fit.

    Raises:
        UseError: if there is no such network, or it is not for such data.
        RunError: if the user's factory raises an error.
    """
    config = check_net(spec, options)
    if config is None:
        return open_model(spec).model
    try:
        return make_net(config, task, dense=True)
    except UseError as error:
        kind, said = "model.type ", str(error)
        text = said.replace(kind, "MODEL ", 1) if said.startswith(kind) else said
        raise UseError(text.replace("model: ", "--net: ", 1)) from None


def check_net(spec: str, options: tuple[str, ...]) -> Config | None:
    """Returns what a reference net is to be, None for a network of the user's.

    Raises:
        UseError: for what can be told of it without data.
    """
    if spec in NETS:
        model = {"type": spec, **_parsed(spec, options)}
        try:
            return Config(model=Model.model_validate(model, strict=True))
        except ValidationError as error:
            first = error.errors()[0]
            rule = first["msg"].replace("Input should", "must")
            raise UseError(f"--net {first['loc'][0]} {rule}, got {first['input']!r}") from None
    if options:
        raise UseError(f"--net is for {', '.join(NETS)}, got it beside {spec}")
    if ":" not in spec:
        raise UseError(f"MODEL must be one of {', '.join(NETS)} or module:factory, got {spec!r}")
    if spec.startswith(f"{HF}:"):
        raise UseError(f"MODEL {spec} gives no scores: give a module:factory that adds its head")
    return None


def _parsed(spec: str, options: tuple[str, ...]) -> dict[str, Any]:
    takes = [name for name in _SIZES if name in inspect.signature(NETS[spec]).parameters]
    found: dict[str, Any] = {}
    for option in options:
        key, equals, text = option.partition("=")
        if key not in takes or not equals or key in found:
            raise UseError(
                f"--net of {spec} must be KEY=VALUE, each once of {', '.join(takes)}, "
                f"got {option!r}"
            )
        try:
            found[key] = yaml.safe_load(f"[{text}]" if key in _LISTS else text)
        except yaml.YAMLError:
            raise UseError(f"--net {key} must be a number, got {text!r}") from None
    return found


def losses_of(task: Task) -> Losses:
    """Returns what gives the loss of every item of a batch ``(inputs, targets)``."""
    each = _squared if task.kind == "regression" else _cross_entropy
    return lambda model, batch: each(model(batch[0]), batch[1])


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return (output.squeeze(-1) - target).square()


def _cross_entropy(output: Tensor, target: Tensor) -> Tensor:
    found = F.cross_entropy(output.flatten(0, -2), target.flatten(), reduction="none")
    return found.view(target.shape).flatten(1).mean(1) if target.dim() > 1 else found


def check_answers(spec: str, net: nn.Module, task: Task, batch: tuple[Tensor, Tensor]) -> None:
    """Raises UseError for a network that gives no answers to such data, RunError if it fails."""
    where = f"MODEL {spec} on the data"
    with from_user(f"{where}, inputs of {list(batch[0].shape)}"), torch.no_grad():
        output = net.eval()(batch[0])
    shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    wanted = _wanted(task, batch[1])
    if not isinstance(output, Tensor) or output.shape != wanted:
        raise UseError(f"{where} must give {list(wanted)}, got {shape}")
    if not output.isfinite().all():
        raise UseError(f"{where} must give finite numbers")


def _wanted(task: Task, target: Tensor) -> tuple[int, ...]:
    if task.kind == "regression":
        return (*target.shape, 1)
    return (*target.shape, int(task.model["vocabulary" if task.kind == "language" else "classes"]))
