"""In which order the nodes of a graph run, and which edges wait one step.

Nodes that hear each other in a circle run together, step by step; in each such group some edges
carry the value of the step before. They begin as those that lead back to a node that the search
from the outside came through; where all that a stateless node gives waits, what it hears waits
instead: spikes wait, not the currents made of them, and a bias acts from the first step on.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from spike_ops.nir._errors import NirError
from spike_ops.nir._graph import Edge, Plan


@dataclass
class Group:
    """Nodes that run together, in order; `late` are the edges among them that wait one step."""

    names: list[str]
    late: set[Edge] = field(default_factory=set)


def groups(plan: Plan, holds: Callable[[str], bool], passes: Callable[[str], bool]) -> list[Group]:
    """Return all nodes in groups, each after those that it hears.

    Args:
        plan: The graph.
        holds: Whether a node has a state, so that a circle may go through it.
        passes: Whether a node is linear without a state, so that a wait may move through it.

    Raises:
        NirError: A circle has no node with a state.
    """
    found = []
    for names in _components(plan):
        group = Group(names)
        if len(names) > 1 or (names[0], names[0]) in plan.edges:
            group = _circle(plan, names, holds, passes)
        found.append(group)
    return found


def _components(plan: Plan) -> list[list[str]]:
    """Return the strongly connected components in topological order."""
    forward = _finished(plan.nodes, plan.after)
    left, found = set(plan.nodes), []

    def before(name: str) -> list[str]:
        return [each for each in plan.before(name) if each in left]

    for name in reversed(forward):
        if name in left:
            members = set(_finished([name], before))
            left -= members
            found.append([each for each in plan.nodes if each in members])
    return found


def _finished(starts: Iterable[str], after: Callable[[str], list[str]]) -> list[str]:
    """Return nodes in the order in which a depth-first search leaves them."""
    seen: set[str] = set()
    left: list[str] = []
    for start in starts:
        stack = [] if start in seen else [(start, iter(after(start)))]
        seen.add(start)
        while stack:
            name, rest = stack[-1]
            following = next((each for each in rest if each not in seen), None)
            if following is None:
                stack.pop()
                left.append(name)
            else:
                seen.add(following)
                stack.append((following, iter(after(following))))
    return left


def _circle(
    plan: Plan, names: list[str], holds: Callable[[str], bool], passes: Callable[[str], bool]
) -> Group:
    inside = set(names)
    edges = [edge for edge in plan.edges if inside.issuperset(edge)]
    free = Plan({name: None for name in names if not holds(name)}, [])
    free.edges = [edge for edge in edges if edge[0] in free.nodes and edge[1] in free.nodes]
    for each in _components(free):
        if len(each) > 1 or (each[0], each[0]) in free.edges:
            raise NirError(each[0], f"a circle must go through a neuron or a delay, got {each}")
    heard = {b for a, b in plan.edges if b in inside and a not in inside}
    starts = [each for each in names if each in heard and holds(each)]
    starts += [each for each in names if holds(each) and each not in starts]
    within = Plan(dict.fromkeys(names), edges)
    order = list(reversed(_finished(starts[:1], within.after)))
    place = {name: k for k, name in enumerate(order)}
    late = {(a, b) for a, b in edges if place[a] >= place[b]}
    return _settled(within, late, passes)


def _settled(within: Plan, late: set[Edge], passes: Callable[[str], bool]) -> Group:
    """Return the group with waits moved from what linear nodes give to what they hear."""
    moved = True
    while moved:
        moved = False
        for name in within.nodes:
            given = {(name, each) for each in within.after(name)}
            if passes(name) and given and given <= late:
                late = late - given | {(each, name) for each in within.before(name)}
                moved = True
    now = Plan(dict(within.nodes), [edge for edge in within.edges if edge not in late])
    return Group([name for each in _components(now) for name in each], late)
