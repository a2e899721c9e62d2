"""Laws about units: a score is about the unit, and one that does nothing has the least."""

import torch

from layer_importance._examined import ERRORS, Examined, error
from layer_importance._specimens import UNITS, classifier

_LOSS = frozenset({"nats", "nats^2"})


def reads_the_unit(it: Examined) -> None:
    """Another unit in its place has another score: it is no constant, no place and no noise."""
    for place in range(UNITS):
        unit = f"blocks.{place}"
        zeroed = it.zeroed(place)
        if unit not in zeroed or unit not in it.intact:
            continue
        before, after = it.intact[unit].value, zeroed[unit].value
        if abs(before - after) <= 1e-9 * max(abs(before), abs(after)):
            raise AssertionError(f"{unit} has {after:.6g} with weights and with zeros as weights")
    if not any(f"blocks.{place}" in it.intact for place in range(UNITS)):
        raise AssertionError(f"no unit has a score: {dict(it.intact.missing)}")


def zero_branch(it: Examined) -> str:
    """A block whose branch is zero is the least important, wherever it stands."""
    if it.method.direction == "diagnostic":
        return "a diagnostic does not say what is important"
    for place in range(UNITS):
        scores = it.zeroed(place)
        unit = f"blocks.{place}"
        if unit not in scores:
            raise AssertionError(f"{unit} has no score: {scores.missing.get(unit, 'no reason')}")
        for other, score in scores.items():
            slack = 0.0 if it.exact else ERRORS * error(score, scores[unit])
            if other != unit and not scores[unit].value < score.value + slack:
                raise AssertionError(
                    f"{unit} adds nothing and has {scores[unit].value:.6g}, "
                    f"{other} has {score.value:.6g}"
                )
    return ""


def dead_unit(it: Examined) -> str:
    """What cannot change the loss has a score of 0, where scores are in units of the loss."""
    if it.method.direction == "diagnostic" or it.intact.measure not in _LOSS:
        return "its values are no shares of the loss"
    for place in range(UNITS):
        scores, unit = it.zeroed(place), f"blocks.{place}"
        if unit not in scores:
            continue
        scale = max(abs(score.value) for score in scores.values())
        slack = 0.0 if it.exact else ERRORS * error(scores[unit])
        if not abs(scores[unit].value) <= 1e-9 * scale + slack:
            raise AssertionError(f"{unit} does nothing and has {scores[unit].value:.6g}")
    return ""


def renaming(it: Examined) -> None:
    """The same for the same model with its blocks under another name."""
    it.agree(it.intact, it.scores(classifier(name="towers")), what="blocks renamed")


def determinism(it: Examined) -> None:
    """The same again, whatever random numbers were drawn before."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(123)
        again = it.scores(classifier())
    for name, score in it.intact.items():
        if again[name].value != score.value:
            raise AssertionError(
                f"{name} has {score.value!r}, and the second time {again[name].value!r}"
            )
