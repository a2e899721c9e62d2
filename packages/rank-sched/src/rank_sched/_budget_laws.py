"""The laws of budgets over time; `rank_sched.testing` offers them."""

from collections.abc import Iterable

from rank_sched._budget import BudgetManager
from rank_sched._budget_state import BudgetState, Grant


def check_budget(
    manager: BudgetManager, trace: Iterable[tuple[float, float, float | None]], *, start: float
) -> list[bool]:
    """Assert the laws of a budget for one piece of work after the other; return what was granted.

    With t the furthest time seen less `start`, after every event: what was spent is at most
    initial + rate·t, and beyond that no more than the excess of the last piece of work over its
    charge; nothing is granted in debt or beyond the tokens; what is refused could not be paid; no
    tokens are above the capacity; and the same input gives the same output.

    Args:
        manager: The rules.
        trace: (time, cost, what is then measured; None for the charge itself). Times may run
            backwards; costs must be feasible.
        start: Time of `init`.
    """
    assert manager.initial is not None
    state, granted, spent, excess, latest = manager.init(start), [], 0.0, 0.0, start
    for now, cost, measured in trace:
        latest = max(latest, now)
        before = manager.at(state, now)
        grant, after = manager.admit(state, now, cost)
        assert (grant, after) == manager.admit(state, now, cost), "not pure"
        _check_admission(manager, before, cost, grant)
        granted.append(grant is not None)
        if grant is not None:
            spent += grant.charged if measured is None else measured
            excess = 0.0 if measured is None else max(measured - grant.charged, 0.0)
            after = manager.settle(after, grant, measured)
        envelope = manager.initial + manager.rate * (latest - start)
        slack = 1e-9 * (spent + manager.capacity)
        assert spent <= envelope + excess + slack, f"spent {spent}, may {envelope} + {excess}"
        assert after.tokens <= manager.capacity, f"{after.tokens} tokens are above the capacity"
        assert abs(after.spent - spent) <= slack, "the state lies about what was spent"
        state = after
    return granted


def _check_admission(
    manager: BudgetManager, state: BudgetState, cost: float, grant: Grant | None
) -> None:
    due = min(manager.margin * state.gain * cost, manager.capacity)
    if grant is None:
        assert due > state.tokens, f"{due} was refused with {state.tokens} tokens there"
    else:
        assert grant == (cost, due), f"{grant} is not what is due, {due}"
        assert due <= state.tokens, f"{due} was granted with {state.tokens} tokens there"
