"""The race run on a model: leave one out, for as many samples as it takes."""

from collections.abc import Callable, Sequence

from torch import Tensor

from layer_importance._ablation import Ablation, Mode
from layer_importance._racing import Race, RaceResult
from layer_importance._replay import Replay
from layer_importance._subject import Subject


def bottom_units(
    subject: Subject,
    k: int,
    *,
    delta: float = 0.05,
    epsilon: float = 0.0,
    mode: Mode = "auto",
    prior: Sequence[str] = (),
    budget: float | None = None,
    progress: Callable[[str, int], None] = lambda what, done: None,
) -> tuple[RaceResult, int]:
    """Returns the ``k`` removable units of least damage, and how many units were run for it.

    A :class:`Race` of the units' damages ``l(without it) - l``, batch by batch, until it is
    decided, the batches end or the budget is spent. Batches are taken in their order, so that they
    must come shuffled. The model must be inside :func:`preserved`.

    Args:
        subject: what is studied.
        k: how many units to find.
        delta: probability, at most, that a decision is wrong.
        epsilon: differences of damage up to this do not matter.
        mode: what stands in for a unit, ``identity``, ``zero`` or ``resample``; ``mean`` would need
            all batches first.
        prior: units in the order in which they are expected to go.
        budget: stop before a batch with which more units than this would have run.
        progress: told how many batches are done.

    Raises:
        ValueError: if an argument is out of its range, or ``mode`` is ``mean``.
    """
    if mode == "mean":
        raise ValueError("mode must not be 'mean': the means need all batches first")
    race = Race(subject.units.removable.names, k, delta=delta, epsilon=epsilon, prior=prior)
    ablation = Ablation(subject, mode)
    spent = last = 0
    for done, batch in enumerate(subject.batches(), 1):
        if race.done or (budget is not None and spent + last > budget):
            break
        ablation.begin(batch)
        with Replay(subject, batch) as replay:
            race.add({name: _damage(ablation, replay, name) for name in race.alive})
        # who is alive only gets fewer: the next batch of this size costs no more
        last = replay.executed
        spent += last
        progress("race", done)
    return race.result(), spent


def _damage(ablation: Ablation, replay: Replay, name: str) -> Tensor:
    edit = ablation.edit(replay, ablation.subject.units[name])
    if isinstance(edit, str):
        raise ValueError(f"unit {name} cannot be ablated: {edit}")
    return replay.losses_with({name: edit}) - replay.losses
