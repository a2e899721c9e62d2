"""The network that a configuration and a data set make together."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns._config_file import Config
from adlrns._config_sections import NETS
from adlrns._datasets import Task
from adlrns._errors import UseError
from adlrns_models import create_model, iter_dynamic_layers, rank_budget
from rank_sched import RankScheduler

_PADDING = 0  # the number of the padding word


class Masked(nn.Module):
    """An encoder that is told which words are there."""

    def __init__(self, net: nn.Module):
        super().__init__()
        self.net = net

    def forward(self, tokens: Tensor) -> Tensor:
        """Returns the scores of rows of words."""
        return self.net(tokens, tokens != _PADDING)


def make_net(config: Config, task: Task, *, dense: bool = False) -> nn.Module:
    """Returns the network, untrained; drawn by torch's random state.

    Args:
        config: its section `model` says which.
        task: what it must fit.
        dense: plain layers in place of dynamic ones.

    Raises:
        UseError: if the network is not for such data.
    """
    check_fit(config, task)
    kind = config.model.type
    takes = inspect.signature(NETS[kind]).parameters
    options = {name: value for name, value in task.model.items() if name in takes}
    options |= config.model.options()
    if not dense:
        options |= _deciding(config)
    try:
        net = create_model(kind, dense=dense, **options)
    except (ValueError, TypeError) as error:  # such as heads that do not divide the width
        sized = task.notes and "image_size" in str(error)
        more = "; --size, or data.size in a file, brings pictures to another" if sized else ""
        raise UseError(f"model: {error}{more}") from None
    return Masked(net) if kind == "adlrns_transformer" and task.kind != "language" else net


def check_fit(config: Config, task: Task) -> None:
    """Raises `UseError` for a network that cannot read such data."""
    words, kind = "vocabulary" in task.model, config.model.type
    if words and kind != "adlrns_transformer":
        raise UseError(f"model.type must be adlrns_transformer for text, got {kind}")
    if not words and kind == "adlrns_transformer":
        raise UseError(f"model.type must be a net for images, got {kind}")


def _deciding(config: Config) -> dict[str, Any]:
    options: dict[str, Any] = {"estimator": config.hardware.estimator()}
    if config.scheduler.type is not None:
        # layers keep their own r_min; some are too small for that of the others
        high = config.scheduler.r_max or config.model.r_max or 64
        options["scheduler"] = RankScheduler(config.scheduler.type, 1, high)
    return options


@contextmanager
def serving(config: Config, net: nn.Module) -> Iterator[None]:
    """Has the dynamic layers of a network keep to the budget of a configuration, inside."""
    budget = config.scheduler.energy_budget_mJ_per_sample
    if budget is None or not any(True for _ in iter_dynamic_layers(net)):
        yield
        return
    calls_of = config.training(0).calls_of
    with rank_budget(net, budget, "energy_mj_per_sample", batch=calls_of):
        yield


def loss_of(task: Task) -> Callable[[Any, Any], Tensor] | None:
    """Returns the loss of a task; None leaves it to the trainer: cross entropy."""
    return _squared if task.kind == "regression" else None


def _squared(output: Tensor, target: Tensor) -> Tensor:
    return F.mse_loss(output.squeeze(-1), target)


def device_of(name: str) -> torch.device:
    """Returns the device of a name; `auto` is the first accelerator, or the processor.

    Raises:
        UseError: for one that torch does not know or that is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rule = f"--device must be one that is here, got {name!r}"
    try:
        device = torch.device(name)
    except RuntimeError:  # it lists all that any build of torch could have
        raise UseError(f"{rule}: no device's name, such as auto, cpu or cuda:0") from None
    if device.type == "meta":
        raise UseError(f"{rule}: nothing is computed there")
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        said = str(error).splitlines()[0]
        said = "this torch has none" if said.startswith("Could not run") else said
        raise UseError(f"{rule}: {said}") from None
    return device
