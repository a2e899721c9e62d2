"""Laws about data: however it is cut, ordered or repeated, the score is the same."""

import torch

from layer_importance._batch import take
from layer_importance._examined import ERRORS, SPLIT, Examined, error
from layer_importance._method import SweepMethod
from layer_importance._specimens import Scaled, classifier, unrelated

_OF_THE_LOSS = frozenset(
    {"labels", "gradients", "parameter_gradients", "per_sample", "sampled", "exact"}
)
_POWERS = {"1": 0, "nats": 1, "nats^2": 2}


def batch_split(it: Examined) -> None:
    """The same for one batch and for the same samples in several."""
    it.agree(it.intact, it.split, what="in four batches")


def batch_order(it: Examined) -> None:
    """The same for the same batches in another order."""
    specimen = classifier()
    turned = it.scores(specimen, specimen.batches(*SPLIT)[::-1])
    it.agree(it.split, turned, what="batches turned around")


def sample_order(it: Examined) -> None:
    """The same for the same samples in another order."""
    specimen = classifier()
    rows = torch.randperm(sum(SPLIT), generator=torch.Generator().manual_seed(0)).tolist()
    shuffled = it.scores(specimen, [take(specimen.data, rows)])
    it.agree(it.intact, shuffled, what="samples in another order")


def duplicates(it: Examined) -> None:
    """The same for the same data twice."""
    specimen = classifier()
    twice = it.scores(specimen, [specimen.data, specimen.data])
    it.agree(it.intact, twice, what="all data twice")


def merge(it: Examined) -> str:
    """States of two sweeps over halves of the data merge to that of one over all of it."""
    if not isinstance(it.method, SweepMethod):
        return "it runs the model itself and keeps no state"
    specimen = classifier()
    parts = []
    for batch in specimen.batches(24, 24):
        method = it.make()
        specimen.report(method, [batch])
        parts.append(method)
    first, second = parts
    assert isinstance(first, SweepMethod)
    assert isinstance(second, SweepMethod)
    for name, tensor in first.state().items():
        if tensor.dtype != torch.float64:
            raise AssertionError(f"its state must be float64 tensors, {name} is {tensor.dtype}")
    first.merge(second.state())
    halves = it.scores(specimen, specimen.batches(24, 24))
    it.agree(halves, first.scores(), what="states of two halves merged")
    return ""


def loss_scale(it: Examined) -> str:
    """Scales with the loss as its unit of measure says: ``nats`` once, ``nats^2`` twice."""
    on_loss = bool(it.method.needs & _OF_THE_LOSS)
    power = _POWERS.get(it.intact.measure) if on_loss else 0
    if power is None:
        return f"its unit of measure, {it.intact.measure}, says nothing about the loss"
    scaled = it.scores(classifier().with_task(Scaled(3.0)))
    scale = max(abs(score.value) for score in it.intact.values())
    for name, score in it.intact.items():
        expected = 3.0**power * score.value
        if not abs(scaled[name].value - expected) <= 1e-6 * 3.0**power * scale + 1e-12:
            raise AssertionError(
                f"with three times the loss, {name} must have {expected:.6g} "
                f"{it.intact.measure}, got {scaled[name].value:.6g}"
            )
    return ""


def sample_size(it: Examined) -> str:
    """Few samples say on average what many say: no bias that makes unrelated streams look alike.

    Where output and input of a unit are independent, a biased similarity or information is large
    with few samples and falls as they become more, or grows with the logarithm of their number.
    """
    if it.method.needs & _OF_THE_LOSS or "data" not in it.method.needs:
        return "for what compares streams, without the loss"
    count, parts = 128, 4
    specimen = unrelated(samples=count)
    many = it.scores(specimen)
    few = [it.scores(specimen, [part]) for part in specimen.batches(*[count // parts] * parts)]
    for name, whole in many.items():
        values = torch.tensor([one[name].value for one in few if name in one])
        if len(values) < 2:
            continue
        spread = float(values.std()) / len(values) ** 0.5
        mean, slack = float(values.mean()), ERRORS * (spread + error(whole)) / 2
        if not abs(mean - whole.value) <= 0.05 * abs(whole.value) + slack:
            raise AssertionError(
                f"{name} has {whole.value:.4g} over {count} samples, and {mean:.4g} on average "
                f"over {count // parts}"
            )
    return ""
