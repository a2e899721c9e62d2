"""Searches of one's own for the set of units to take out."""

from collections.abc import Callable, Mapping, Sequence

from layer_importance._entry_points import PLANNERS, loaded, no_function, offered
from layer_importance._plan_search import Damages, Found, Search
from layer_importance._plan_space import Names, Space

Planner = Callable[[Space, Damages, Mapping[str, float], int], Names]
"""``planner(space, damages, prior, evaluations)`` returns the names of the units that should go.

``damages(sets)`` measures sets, each at most once, ``evaluations`` of them in all; one more is a
``ValueError``. ``space`` says what may go and whether a set frees enough; ``prior`` is what is
known of single units beforehand, less is cheaper.
"""


def planner_of(which: str | Planner) -> Planner | None:
    """Returns the planner called so, or the one given; ``None`` for ``auto``.

    Raises:
        ValueError: if there is none of that name.
    """
    if not isinstance(which, str):
        return which
    if which == "auto":
        return None
    found: Planner | None = loaded(PLANNERS, which, no_function)
    if found is None:
        known = ", ".join(["auto", *offered(PLANNERS)])
        raise ValueError(f"planner must be a function or one of {known}, got {which!r}")
    return found


def search(
    planner: Planner | None,
    space: Space,
    damages: Damages,
    prior: Mapping[str, float],
    evaluations: int,
) -> Found:
    """Returns what a planner, or :class:`Search` if there is none, finds.

    Raises:
        ValueError: if no set of units frees enough, or the planner's does not or is not allowed.
    """
    if planner is None:
        return Search(space, damages, prior, evaluations).run()
    measured = _Measured(damages, evaluations)
    best = frozenset(planner(space, measured, prior, evaluations))
    known = {name for group in space.groups for name in group}
    torn = [group for group in space.groups if set(group) & best and not set(group) <= best]
    if not best <= known or torn or not space.fits(best):
        raise ValueError(
            "planner must return units that may go, whole groups of them, and that free enough, "
            f"got {sorted(best)}"
        )
    end = space.from_the_end()
    assert end is not None  # as there is a set that fits
    new = [names for names in dict.fromkeys((best, end)) if names not in measured.seen]
    measured.seen |= dict(zip(new, damages(new), strict=True))
    return Found(best=best, from_the_end=end, seen=measured.seen, note="a planner of one's own")


class _Measured:
    """Damages, each measured once, up to a number of them."""

    def __init__(self, damages: Damages, most: int) -> None:
        self._damages, self._most = damages, most
        self.seen: dict[Names, float] = {}

    def __call__(self, sets: Sequence[Names]) -> list[float]:
        wanted = [frozenset(names) for names in sets]
        new = [names for names in dict.fromkeys(wanted) if names not in self.seen]
        if len(self.seen) + len(new) > self._most:
            raise ValueError(
                f"planner must measure at most {self._most} sets, got {len(self.seen) + len(new)}"
            )
        if new:
            self.seen |= dict(zip(new, self._damages(new), strict=True))
        return [self.seen[names] for names in wanted]
