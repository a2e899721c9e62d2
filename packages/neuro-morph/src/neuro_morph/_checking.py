"""Whether a model still computes what it did."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _disable_current_modes

from neuro_morph._finer import FINER, called, called_in_float32, is_coarse, part_of_tolerance
from neuro_morph._graph import evaluating
from neuro_morph._inputs import ExampleInputs, FailsOnInputsError
from neuro_morph._outputs import tensors_in
from neuro_morph._probing import (
    OTHER,
    SCORES,
    TRAINING,
    LoneScores,
    OtherTokens,
    SteadyNoise,
    is_own,
    perturbed,
    some_of,
    training,
)
from neuro_morph._scales import differences
from neuro_morph._untouched import RandomStates, untouched, without_autocast

Call = Callable[[nn.Module, ExampleInputs], Any]


@dataclass(frozen=True)
class OutputChange:
    """How far two outputs of a model are from each other.

    Attributes:
        absolute: the largest difference of two numbers.
        relative: the largest difference in a tensor over the largest number it held, or over 1 if
            it held zeros only; where it held numbers of very different sizes, over those that the
            difference is found among.
        finite: whether both outputs hold finite numbers only.
        where: in which runs ``relative`` was found: nothing for that on the example inputs in
            evaluation mode, else how it differed.
        part: of a tolerance: what ``relative`` has to stay within in these runs.
    """

    absolute: float
    relative: float
    finite: bool
    where: str = ""
    part: float = 1.0

    def within(self, tolerance: float) -> bool:
        """Whether the outputs are the same up to a relative ``tolerance``."""
        return self.finite and self.relative <= self.part * tolerance


def outputs_of(model: nn.Module, inputs: ExampleInputs) -> dict[str, Tensor]:
    """Returns the tensors a model gives in evaluation mode, by where they stand in its output.

    Two further runs show what this one cannot, as far as the model can be run so, on a few of the
    examples where it can, and in float32 where its numbers are coarser: one on other numbers and
    tokens (example inputs may be all alike), and one with the modules of own classes in training
    mode (they may do more then). Dropout drops nothing there; where other random numbers are drawn,
    zeros stand for what comes out. The model and random states are left as they were.

    Raises:
        FailsOnInputsError: if the model fails.
        GrowthRefusedError: if it gives no floating point numbers.
    """
    with untouched(model), evaluating(model), torch.no_grad(), without_autocast():
        try:
            result = model(*inputs.args, **inputs.kwargs)
        except Exception as error:  # of a model, or of inputs it is not made for
            raise FailsOnInputsError("run", error) from error
        found = {key: value.detach().clone() for key, value in tensors_in(result).items()}
    runs = {OTHER: _on_other_inputs}
    if any(is_own(module) for module in model.modules()):
        runs[TRAINING] = _in_training
    calls = {FINER: called_in_float32} if is_coarse(model) else {}
    few = some_of(inputs)
    examples = [inputs] if few is inputs else [few, inputs]
    with _disable_current_modes():  # nobody counts what these runs take
        for kind, run in runs.items():
            tries = product({**calls, "": called}.items(), examples)
            further = (
                _further(kind + name, model, partial(run, call, model, some))
                for (name, call), some in tries
            )
            found |= next(filter(None, further), {})
    return found


def _on_other_inputs(call: Call, model: nn.Module, inputs: ExampleInputs) -> dict[str, Tensor]:
    with evaluating(model), LoneScores() as lone, OtherTokens():
        found = tensors_in(call(model, perturbed(inputs)))
    return found | {f"{SCORES}{k}": score for k, score in enumerate(lone.scores)}


def _in_training(call: Call, model: nn.Module, inputs: ExampleInputs) -> dict[str, Tensor]:
    with training(model), SteadyNoise():
        return tensors_in(call(model, inputs))


def _further(
    kind: str, model: nn.Module, run: Callable[[], dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Returns the outputs of another kind of run; none if the model cannot be run so."""
    try:
        with untouched(model), torch.no_grad(), without_autocast(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            before = RandomStates()
            found = run()
            drawn = before != RandomStates()
            return {f"{key}{kind}": _comparable(v, drawn=drawn) for key, v in found.items()}
    except Exception:  # a model may be made for its own inputs or mode only
        return {}


def _comparable(tensor: Tensor, *, drawn: bool) -> Tensor:
    """Returns a tensor's numbers, zeros for random ones and where they are not finite."""
    usable = not drawn and bool(tensor.isfinite().all())
    return tensor.detach().clone() if usable else torch.zeros_like(tensor)


def change_between(
    before: dict[str, Tensor], after: dict[str, Tensor], *, rounded: bool = True
) -> OutputChange:
    """Returns how far two outputs are from each other.

    Further runs count that were possible before. Nothing is not the same as nothing. Scores of
    attention are looked for among those of their shape: there may be more of them, or more heads.
    Runs in float32 of coarser parameters have to be as near as float32 is if none of these had to
    be ``rounded``.
    """
    scores = {k: v for k, v in before.items() if k.startswith(SCORES)}
    its_scores = [v for k, v in after.items() if k.startswith(SCORES)]
    changes = [c for k, v in scores.items() if (c := _nearest(k, v, its_scores)) is not None]
    before = {k: v for k, v in before.items() if k not in scores}
    for key, old in before.items():
        if key not in after or after[key].shape != old.shape:
            return OutputChange(float("inf"), float("inf"), finite=False, where=_kind(key))
    news = [key for key in after.keys() - before.keys() if not _kind(key)]
    if news or not before:
        return OutputChange(float("inf"), float("inf"), finite=False)
    changes += [_change(key, old, after[key]) for key, old in before.items() if old.numel()]
    changes = [replace(c, part=part_of_tolerance(c.where, rounded=rounded)) for c in changes]
    same = OutputChange(0.0, 0.0, finite=True)
    worst = max(changes, key=lambda c: (not c.finite, c.relative / c.part), default=same)
    return replace(worst, absolute=max((change.absolute for change in changes), default=0.0))


def _nearest(key: str, old: Tensor, all_new: list[Tensor]) -> OutputChange | None:
    found = [_change(key, old, new) for new in all_new if new.shape == old.shape and old.numel()]
    return min(found, key=lambda change: change.relative, default=None)


def _change(key: str, old: Tensor, new: Tensor) -> OutputChange:
    mine, its = (torch.view_as_real(t) if t.is_complex() else t for t in (old, new))
    if not bool(mine.isfinite().all() and its.isfinite().all()):
        return OutputChange(float("inf"), float("inf"), finite=False, where=_kind(key))
    return OutputChange(*differences(mine, its), True, _kind(key))


def _kind(key: str) -> str:
    """Returns what kind of run an output is from."""
    finer = FINER if key.endswith(FINER) else ""
    key = key.removesuffix(FINER)
    return next((kind + finer for kind in (OTHER, TRAINING) if key.endswith(kind)), "")


def tolerance_of(model: nn.Module) -> float:
    """Returns the relative change allowed for the coarsest dtype of a model's parameters."""
    known: dict[Any, float] = {torch.float64: 1e-12, torch.float32: 1e-5}
    kinds = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return max((known.get(kind, 2e-2) for kind in kinds), default=1e-5)
