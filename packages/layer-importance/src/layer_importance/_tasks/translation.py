"""A text for a text, by an encoder and a decoder."""

from collections.abc import Callable, Mapping
from typing import Any

from layer_importance import _batch
from layer_importance._tasks._sequence import SequenceTask


class Translation(SequenceTask):
    """A text for a text: the decoder's logits ``[N, T, V]``, labels ``[N, T]``, each under its own.

    A mapping with ``decoder_input_ids``, or a tuple ``(source, decoder_input, labels)``, calls the
    model without labels. A mapping without them hands the labels to the model, which makes the
    decoder's input of them, as Hugging Face's encoder-decoders do.

    Args:
        pad: see :class:`SequenceTask`.
        metric: see :class:`SequenceTask`.
        inputs: see :class:`Task`.
        labels: see :class:`Task`.
    """

    name = "translation"

    def __init__(
        self,
        *,
        pad: int | None = None,
        metric: str = "accuracy",
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(pad=pad, metric=metric, inputs=inputs or _decoding, labels=labels)


def _decoding(batch: Any) -> _batch.Call:
    call = _batch.inputs(batch)
    told = isinstance(batch, Mapping) and "labels" in batch
    if not told or any(key.startswith("decoder_input") for key in call.kwargs):
        return call
    return _batch.Call(call.args, {**call.kwargs, "labels": batch["labels"]})
