"""Whether a compressed model does what was meant: the proof before success is reported."""

import inspect
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._batch import Call
from layer_importance._execute.stand_in import Refused
from layer_importance._preserve import preserved
from layer_importance._structure import tensors
from layer_importance._task import logits

PASSED = "passed"
NOT_APPLICABLE = "not applicable"


def check_forward(model: nn.Module, call: Call, expected: Sequence[Tensor]) -> str:
    """The answer is that of the model with its units removed while it runs."""
    return difference(answers(model, call), expected, 64)


def check_cache(model: nn.Module, call: Call) -> str:
    """What a causal model says of a token does not depend on whether the past was cached."""
    ids = token_ids(model, call)
    known = inspect.signature(model.forward).parameters
    if ids is None or "past_key_values" not in known:
        return f"{NOT_APPLICABLE}: it has no cache of past tokens"
    read = _decoder_ids(model, call)  # of an encoder-decoder alone
    given = {} if read is None else {"input_ids": ids}
    name, ids = ("input_ids", ids) if read is None else ("decoder_input_ids", read)
    if ids.shape[1] < 2:
        return f"{NOT_APPLICABLE}: the example has one token"

    def say(tokens: Tensor, **words: Any) -> Any:
        return model(**given, **{name: tokens}, **words)

    with torch.no_grad():
        whole = logits(say(ids, use_cache=False))[:, -1]
        past = say(ids[:, :-1], use_cache=True).past_key_values
        if past is None:
            return f"{NOT_APPLICABLE}: it has no cache of past tokens"
        last = logits(say(ids[:, -1:], past_key_values=past, use_cache=True))[:, -1]
    return difference([last], [whole], None)


def check_generate(model: nn.Module, call: Call) -> str:
    """What it writes does not depend on whether the past is cached."""
    ids = token_ids(model, call)
    can = getattr(model, "can_generate", None)
    if ids is None or can is None or not can():
        return f"{NOT_APPLICABLE}: it does not generate"
    words = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "num_beams": 1}
    with torch.no_grad():
        cached, anew = (
            model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), use_cache=use, pad_token_id=0, **words
            )
            for use in (True, False)
        )
    same = cached.shape == anew.shape and bool((cached == anew).all())
    return PASSED if same else f"writes {cached.tolist()} with a cache, {anew.tolist()} without"


def token_ids(model: nn.Module, call: Call) -> Tensor | None:
    """The first sample's tokens; ``None`` if the model does not read tokens one after another."""
    ids = call.kwargs.get("input_ids", call.args[0] if call.args else None)
    if not isinstance(ids, Tensor) or ids.ndim != 2 or ids.is_floating_point():
        return None
    return ids[:1] if "input_ids" in inspect.signature(model.forward).parameters else None


def _decoder_ids(model: nn.Module, call: Call) -> Tensor | None:
    """The first sample's tokens for an encoder-decoder's decoder; ``None`` for other models."""
    if not getattr(model.__dict__.get("config"), "is_encoder_decoder", False):
        return None
    named = (call.kwargs.get(name) for name in ("decoder_input_ids", "labels"))
    found = next((ids for ids in named if isinstance(ids, Tensor)), token_ids(model, call))
    assert found is not None
    return found[:1].clamp_min(0)  # any tokens will do, but for the -100 of labels


def answers(model: nn.Module, call: Call) -> list[Tensor]:
    """Returns the floating tensors a model answers with, its logits or stream first."""
    with torch.no_grad():
        output = call.of(model)
    first = logits(output)
    return [first, *(t for t in tensors(output) if t.is_floating_point() and t is not first)]


def difference(got: Sequence[Tensor], expected: Sequence[Tensor], grains: int | None) -> str:
    """Says whether two answers are equal but for rounding.

    The first tensors count, and the others if both answers have them in the same shapes.

    Args:
        got: floating tensors.
        expected: floating tensors.
        grains: how many units of rounding, of the largest value, are allowed; ``None`` is the
            square root of one, for sums taken in another order.
    """
    same = [t.shape for t in got] == [t.shape for t in expected]
    for a, b in list(zip(got, expected, strict=False))[: None if same else 1]:
        if a.shape != b.shape:
            return f"answers with {list(a.shape)} where {list(b.shape)} was to come"
        a, b = a.double(), b.double()
        finite = b.isfinite()
        if not torch.equal(finite, a.isfinite()) or not torch.equal(a[~finite], b[~finite]):
            return "answers with other infinite values or NaN"
        grain = torch.finfo(got[0].dtype).eps
        allowed = grains * grain if grains else grain**0.5
        scale, worst = _largest(b[finite]), _largest((a - b)[finite])
        if worst > allowed * scale:
            return f"differs by {worst:.2g} where values reach {scale:.2g}"
    return PASSED


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, no warnings or progress bars, and the model as it was afterwards."""
    words = getattr(sys.modules.get("transformers"), "logging", None)
    bars = words is not None and words.is_progress_bar_enabled()
    verbosity = words.get_verbosity() if words is not None else 0
    try:
        if words is not None:
            words.disable_progress_bar()
            words.set_verbosity_error()
        with preserved(model, gradients=False), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if words is not None:
            words.set_verbosity(verbosity)
            if bars:
                words.enable_progress_bar()


def outcome(check: Callable[..., str], *arguments: Any) -> str:
    """Returns what a check says; an exception is its message."""
    try:
        return check(*arguments)
    except Refused as error:
        return str(error)
    except Exception as error:  # whatever a broken model raises
        return f"{type(error).__name__}: {str(error)[:200]}"


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="layer-importance-") as folder:
        yield Path(folder) / "model"
