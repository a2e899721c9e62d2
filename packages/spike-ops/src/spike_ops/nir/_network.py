"""A graph as a module that runs."""

from typing import Any

import torch
from torch import Tensor, nn

from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron import Neuron
from spike_ops.neuron._base import State
from spike_ops.nir._graph import Plan, kind_of
from spike_ops.nir._layers import Scale
from spike_ops.nir._order import Group, groups
from spike_ops.nir._shapes import Shape
from spike_ops.nn._stepwise import Stepwise

LINEAR = (nn.Linear, Stepwise, Scale, nn.Flatten, nn.Identity)
Memory = dict[str, Any]


class NirNetwork(nn.Module):
    """Return what a graph's Output gives for inputs [T, B, ...]: a graph of modules that runs.

    Made by `from_nir`. Nodes run over all steps one after the other; nodes in a circle run together
    step by step, and what closes the circle is the value of the step before. A node that hears
    several adds them up. Weights are parameters, so that the network can be trained.

    With several Input nodes, inputs are a mapping from their names; with several Output nodes,
    so is what comes out.

    Attributes:
        dt: The time step.

    Raises:
        ValueError: Inputs do not have the shape of the Input node, or names are missing.
    """

    def __init__(
        self, plan: Plan, layers: dict[str, nn.Module], shapes: dict[str, Shape], dt: float
    ) -> None:
        super().__init__()
        self.dt, self.edges, self.shapes = dt, list(plan.edges), dict(shapes)
        self.inputs, self.outputs = plan.kinds("Input"), plan.kinds("Output")
        self.kinds = {name: kind_of(node) for name, node in plan.nodes.items()}
        # names may hold dots, which modules may not
        self._keys = {name: f"{name.replace('.', '_')}_{k}" for k, name in enumerate(layers)}
        self.layers = nn.ModuleDict({self._keys[name]: each for name, each in layers.items()})
        self._groups = groups(
            plan,
            lambda name: isinstance(layers[name], Neuron),
            lambda name: isinstance(layers[name], LINEAR),
        )

    def layer(self, name: str) -> nn.Module:
        """Return the module of a node.

        Raises:
            KeyError: There is no such node.
        """
        return self.layers[self._keys[name]]

    def forward(self, inputs: Tensor | dict[str, Tensor]) -> Any:
        """Return the output [T, B, ...], from the initial state."""
        return self.run(inputs)[0]

    def run(
        self, inputs: Tensor | dict[str, Tensor], memory: Memory | None = None
    ) -> tuple[Any, Memory]:
        """Return the output, and a memory with which the next call goes on where this one ended.

        Args:
            inputs: [T, B, ...], or a mapping from the names of the Input nodes.
            memory: What the call before returned; None begins anew.
        """
        given = self._given(inputs)
        first = next(iter(given.values()))
        values: dict[str, Tensor] = dict(given)
        memory = dict(memory or {})
        for group in self._groups:
            if group.late or len(group.names) > 1:
                self._together(group, values, memory, first)
                continue
            (name,) = group.names
            if name not in given:
                values[name], state = self._over_time(name, self._heard(name, values), memory)
                memory |= state
        out = {name: values[name] for name in self.outputs}
        return (out if len(out) > 1 else next(iter(out.values()))), memory

    def _given(self, inputs: Tensor | dict[str, Tensor]) -> dict[str, Tensor]:
        named = inputs if isinstance(inputs, dict) else dict.fromkeys(self.inputs[:1], inputs)
        if set(named) != set(self.inputs):
            raise ValueError(f"inputs must be of the nodes {self.inputs}, got {sorted(named)}")
        leading = {tuple(each.shape[:2]) for each in named.values()}
        for name, each in named.items():
            wanted = self.shapes[name]
            if tuple(each.shape[2:]) != wanted or each.ndim < 2 or not each.shape[0]:
                shape = ", ".join(map(str, ("T", "B", *wanted)))
                raise ValueError(f"inputs must be [{shape}] for {name!r}, got {tuple(each.shape)}")
        if len(leading) > 1:
            raise ValueError(f"inputs must agree in time and batch, got {sorted(leading)}")
        return {
            name: each.to_dense() if isinstance(each, SpikeTensor) else each
            for name, each in named.items()
        }

    def _heard(self, name: str, values: dict[str, Tensor]) -> Tensor:
        heard = [values[a] for a, b in self.edges if b == name]
        total = heard[0]
        for each in heard[1:]:
            total = total + each
        return total

    def _over_time(self, name: str, heard: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        layer = self.layer(name)
        if isinstance(layer, Neuron):
            out, state = layer.run(heard, memory.get(name))
            return out, {name: state}
        return layer(heard), {}

    def _together(
        self, group: Group, values: dict[str, Tensor], memory: Memory, first: Tensor
    ) -> None:
        """Run nodes in a circle step by step; their values over all steps go into `values`."""
        late: dict[str, Tensor] = {
            a: memory.get(f"late {a}", first.new_zeros(first.shape[1], *self.shapes[a]))
            for a, _ in sorted(group.late)
        }
        made: dict[str, list[Tensor]] = {name: [] for name in group.names}
        states: dict[str, State] = {name: memory[name] for name in group.names if name in memory}
        for t in range(first.shape[0]):
            now: dict[str, Tensor] = {}
            for name in group.names:
                heard = self._heard_at(t, name, group, values, now, late)
                now[name] = self._step(name, heard, states)
                made[name].append(now[name])
            late = {name: now[name] for name in late}
        values |= {name: torch.stack(each) for name, each in made.items()}
        memory |= states | {f"late {name}": each for name, each in late.items()}

    def _heard_at(
        self,
        t: int,
        name: str,
        group: Group,
        values: dict[str, Tensor],
        now: dict[str, Tensor],
        late: dict[str, Tensor],
    ) -> Tensor:
        total: Tensor | None = None
        outside_first = sorted(
            ((a, b) for a, b in self.edges if b == name), key=lambda edge: edge[0] in group.names
        )
        for a, b in outside_first:
            if a not in group.names:
                each = values[a][t]
            else:
                each = late[a] if (a, b) in group.late else now[a]
            total = each if total is None else total + each
        assert total is not None
        return total

    def _step(self, name: str, heard: Tensor, states: dict[str, State]) -> Tensor:
        layer = self.layer(name)
        if not isinstance(layer, Neuron):
            out: Tensor = layer(heard[None])[0]
            return out
        state = states[name] if name in states else layer.initial(heard)
        out, states[name] = layer.step(heard, state)
        return out
