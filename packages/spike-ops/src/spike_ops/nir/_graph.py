"""A graph without graphs inside: nodes by name, and edges whose ends exist."""

from dataclasses import dataclass
from typing import Any

from spike_ops.nir._errors import NirError
from spike_ops.nir._library import library

KNOWN = (
    "Input", "Output", "Affine", "Linear", "Conv1d", "Conv2d", "SumPool2d", "AvgPool2d", "Flatten",
    "Scale", "Threshold", "Delay", "I", "LI", "IF", "LIF", "CubaLI", "CubaLIF",
)  # fmt: skip
DEEPEST = 32
Edge = tuple[str, str]


@dataclass
class Plan:
    """Nodes by name and edges between them; two edges between the same nodes count twice."""

    nodes: dict[str, Any]
    edges: list[Edge]

    def before(self, name: str) -> list[str]:
        """Return the nodes that a node hears."""
        return [a for a, b in self.edges if b == name]

    def after(self, name: str) -> list[str]:
        """Return the nodes that hear a node."""
        return [b for a, b in self.edges if a == name]

    def kinds(self, kind: str) -> list[str]:
        """Return the names of the nodes of a type."""
        return [name for name, node in self.nodes.items() if kind_of(node) == kind]

    def drop(self, name: str) -> None:
        """Take a node out and join what it stood between."""
        joined = [(a, b) for a in self.before(name) for b in self.after(name)]
        self.edges = [edge for edge in self.edges if name not in edge] + joined
        del self.nodes[name]


def kind_of(node: Any) -> str:
    """Return the name of a node's type."""
    return type(node).__name__


def flat(graph: Any) -> Plan:
    """Return the plan of a graph: inner graphs in place, their nodes named `outer.inner`.

    Raises:
        NirError: An edge has no node, a node no known type, no input or no way out.
    """
    plan = _flat(graph, "", 0)
    for name, node in list(plan.nodes.items()):
        if kind_of(node) in {"Input", "Output"} and name not in graph.nodes:
            plan.drop(name)
    for name, node in plan.nodes.items():
        _check_ends(plan, name, kind_of(node))
    for kind in ("Input", "Output"):
        if not plan.kinds(kind):
            raise NirError("graph", f"a graph must have an {kind} node, got {sorted(plan.nodes)}")
    return plan


def _flat(graph: Any, prefix: str, depth: int) -> Plan:
    if depth > DEEPEST:
        raise NirError(prefix, f"graphs must be inside each other at most {DEEPEST} deep")
    nodes: dict[str, Any] = {}
    ports: dict[str, Edge] = {}  # of an inner graph, its input and output
    edges: list[Edge] = []
    for name, node in graph.nodes.items():
        if kind_of(node) == "NIRGraph":
            inner = _flat(node, f"{prefix}{name}.", depth + 1)
            outer = prefix + name
            ports[name] = (_port(node, outer, "Input"), _port(node, outer, "Output"))
            for each, held in inner.nodes.items():
                _enter(nodes, each, held)
            edges += inner.edges
            continue
        if kind_of(node) not in KNOWN or not isinstance(node, library().NIRNode):
            rule = f"a node's type must be one of {', '.join(KNOWN)}, got {kind_of(node)}"
            raise NirError(prefix + name, rule)
        _enter(nodes, prefix + name, node)
    _check_edges(graph, prefix)
    for a, b in graph.edges:
        start = ports[a][1] if a in ports else prefix + a
        edges.append((start, ports[b][0] if b in ports else prefix + b))
    return Plan(nodes, edges)


def _enter(nodes: dict[str, Any], name: str, node: Any) -> None:
    if name in nodes:
        raise NirError(name, "a node's name must be there once, with the graphs that it is in")
    nodes[name] = node


def _port(inner: Any, name: str, kind: str) -> str:
    own = [each for each, node in inner.nodes.items() if kind_of(node) == kind]
    if len(own) != 1:
        raise NirError(name, f"a graph inside a graph must have one {kind}, got {len(own)}")
    return f"{name}.{own[0]}"


def _check_edges(graph: Any, prefix: str) -> None:
    seen: set[Edge] = set()
    for edge in graph.edges:
        if not (isinstance(edge, tuple | list) and len(edge) == 2):
            raise NirError(prefix or "graph", f"an edge must be two names, got {edge!r}")
        for end in edge:
            if end not in graph.nodes:
                rule = f"the ends of an edge must be nodes, got {edge[0]!r} to {edge[1]!r}"
                raise NirError(f"{prefix}{end}", rule)
        if tuple(edge) in seen:
            raise NirError(prefix + edge[0], f"an edge must be there once, {edge[1]!r} came twice")
        seen.add((edge[0], edge[1]))


def _check_ends(plan: Plan, name: str, kind: str) -> None:
    heard, hearers = plan.before(name), plan.after(name)
    if kind == "Input" and heard:
        raise NirError(name, f"an Input must hear no node, got {heard}")
    if kind == "Output" and hearers:
        raise NirError(name, f"an Output must be heard by no node, got {hearers}")
    if kind != "Input" and not heard:
        raise NirError(name, f"a node of type {kind} must hear a node, got none")
