"""What a policy knows of its run: as numbers that a file can hold, and as it was before a step."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from neuro_morph._triggers import Traces

if TYPE_CHECKING:
    from neuro_morph._policy import GrowthPolicy


def state_of(policy: "GrowthPolicy") -> dict[str, Any]:
    """Returns what a policy knows, as JSON can hold it."""
    return {
        "taken": policy.taken,
        "last": policy._last,
        "traces": {name: list(held) for name, held in vars(policy.traces).items()},
        "back_off": policy.back_off.state_dict(),
        "trained": policy.work.trained,
        "tried": policy.work.tried,
        "norms": list(policy._watch.norms or []),
    }


def load_state(policy: "GrowthPolicy", state: Mapping[str, Any]) -> None:
    """Lets a policy know what :func:`state_of` returned."""
    traces = Traces(**{name: list(held) for name, held in state["traces"].items()})
    policy.back_off.load_state_dict(state["back_off"])
    policy.traces, policy.taken, policy._last = traces, state["taken"], state["last"]
    policy.work.trained, policy.work.tried = state["trained"], state["tried"]
    policy._watch.norms = list(state["norms"])


@contextmanager
def whole_or_not_at_all(policy: "GrowthPolicy") -> Iterator[None]:
    """Lets a policy forget a step that an error or an interrupt cuts short.

    Where an edit stands already the step does, too.
    """
    edits, decisions = len(policy.morpher.spec.steps), len(policy.decisions)
    counts = {name: len(held) for name, held in vars(policy.traces).items()}
    work, watch, steps = policy.work, policy._watch, policy.morpher.steps
    numbers = policy.taken, policy._last, policy.back_off.state_dict(), work.trained, work.tried
    norms = list(watch.norms or [])
    try:
        yield
    except BaseException:
        if len(policy.morpher.spec.steps) == edits:
            for name, held in vars(policy.traces).items():
                del held[counts[name] :]
            del policy.decisions[decisions:]
            policy.taken, policy._last, back_off, work.trained, work.tried = numbers
            policy.back_off.load_state_dict(back_off)
            policy.morpher.steps, watch.norms = steps, norms
        raise
