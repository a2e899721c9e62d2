"""A short text for a long one."""

from collections.abc import Callable
from typing import Any

from layer_importance import _batch
from layer_importance._tasks.translation import Translation


class Summarization(Translation):
    """A short text for a long one, in the form of :class:`Translation`; quality is ROUGE-L.

    A decoder that continues its prompt is task ``generation``, the prompt labelled -100.

    Args:
        pad: see :class:`SequenceTask`.
        metric: see :class:`SequenceTask`.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    name = "summarization"

    def __init__(
        self,
        *,
        pad: int | None = None,
        metric: str = "rouge_l",
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(pad=pad, metric=metric, inputs=inputs, labels=labels)
