"""What a model is called with for an example, as an analysis of the same task calls it."""

from collections.abc import Callable
from typing import Any

from torch import nn

from layer_importance._batch import Call, inputs, without_cache
from layer_importance._task import Task
from layer_importance._tasks import task as find_task


def inputs_of(task: str | Task | None) -> Callable[[Any], Call]:
    """Returns what makes a call of a batch: the task's way, or the usual forms.

    Raises:
        ValueError: if there is no task of that name.
    """
    return inputs if task is None else find_task(task).inputs


def called(model: nn.Module, example: Any, task: str | Task | None, call: Call | None) -> Call:
    """Returns ``call``, or the call for ``example`` that the task makes; without a cache."""
    return without_cache(model, inputs_of(task)(example) if call is None else call)
