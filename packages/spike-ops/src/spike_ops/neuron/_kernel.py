"""A neuron's step as two kernels over all steps: spikes forward, gradients backward."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from spike_ops._c_build import call, check, function
from spike_ops._spike_tensor import SpikeTensor
from spike_ops.neuron._c_source import Loop, Pass, source
from spike_ops.neuron._c_trace import body

# (current, states, constants) -> (spikes, states after)
Transition = Callable[..., tuple[Tensor, tuple[Tensor, ...]]]


class Kernel:
    """A loop over blocks of neurons, built; call it with the arrays that it names."""

    def __init__(
        self, loop: Loop, run: Callable[..., None], numbers: Sequence[float], dtype: torch.dtype
    ) -> None:
        self.loop, self.names, self._run, self._numbers = loop, loop.arrays(), run, numbers
        streams = loop.streams()
        self._kinds = [streams.get(name, dtype) for name in self.names]

    def __call__(self, steps: int, size: int, data: dict[str, Tensor]) -> None:
        """Run over [steps, size]; `data` maps every name to a contiguous tensor."""
        rows, arrays = self.loop.scratch_rows(steps), [data[name] for name in self.names]
        check(arrays, self._kinds)
        call(self._run, (steps, size), rows, arrays, self._numbers)


def built(loops: dict[str, Loop], numbers: list[float], dtype: torch.dtype) -> dict[str, Kernel]:
    """Return the kernels of loops, built together."""
    text = source(loops, numbers, dtype)
    return {
        name: Kernel(loop, function(text, name), numbers, dtype) for name, loop in loops.items()
    }


@dataclass(frozen=True)
class Kernels:
    """What runs a neuron over time: dense or boolean spikes forward, and gradients backward."""

    dense: Kernel
    fired: Kernel
    backward: Kernel
    states: int
    constants: int


def in_memory(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values of a tensor as kernels read them: plain, in order, of a type."""
    plain = type(tensor) is Tensor and tensor.dtype is dtype and tensor.is_contiguous()
    if plain and not tensor.is_neg():
        return tensor
    dense = tensor.to_dense() if isinstance(tensor, SpikeTensor) else tensor.detach()
    return dense.to(dtype).contiguous().resolve_neg()


def named(letter: str, count: int) -> list[str]:
    """Return the names of states and constants in a kernel: v0, v1, ..."""
    return [f"{letter}{place}" for place in range(count)]


def kernels(transition: Transition, states: int, constants: int, dtype: torch.dtype) -> Kernels:
    """Return the kernels of a step, built.

    The backward kernel goes through the steps of a block again to find the states, which stay in
    the cache, and then back: nothing is kept but the currents, which exist already.

    Raises:
        NotInC: The step does something else than known elementwise operations.
        CompilerError: There is no compiler, or it fails.
    """
    v, p = named("v", states), named("p", constants)
    numbers: list[float] = []

    def forward(*given: Tensor) -> list[Tensor]:
        s, after = transition(given[0], given[1 : states + 1], *given[states + 1 :])
        return [s, *after]

    once = body(forward, {name: example(dtype) for name in ("x", *v, *p)}, numbers)
    carried = dict(zip(v, once.results[1:], strict=True))

    def ahead(kind: torch.dtype) -> Loop:
        return Loop([Pass(once, {"x": dtype}, {"s": (kind, once.results[0])}, carried, p)])

    before = {f"b{k}": (dtype, v[k]) for k in range(states)}
    replay = Pass(once, {"x": dtype}, before, carried, p)
    back = _backward_pass(transition, states, constants, dtype, numbers)
    loops = {
        "dense": ahead(dtype),
        "fired": ahead(torch.bool),
        "backward": Loop([replay, back], list(before)),
    }
    return Kernels(**built(loops, numbers, dtype), states=states, constants=constants)


def example(dtype: torch.dtype) -> Tensor:
    """Return what a step is traced with."""
    return torch.full((2,), 0.5, dtype=dtype, device="cpu")


def _backward_pass(
    transition: Transition, states: int, constants: int, dtype: torch.dtype, numbers: list[float]
) -> Pass:
    b, p, g = named("b", states), named("p", constants), named("g", states)

    def joint(*given: Tensor) -> list[Tensor]:
        inputs, gradients = given[: 1 + states + constants], given[1 + states + constants :]
        s, after = transition(inputs[0], inputs[1 : states + 1], *inputs[states + 1 :])
        pairs = [(o, d) for o, d in zip((s, *after), gradients, strict=True) if o.requires_grad]
        found = torch.autograd.grad(
            [o for o, _ in pairs], inputs, [d for _, d in pairs], allow_unused=True
        )
        return [torch.zeros_like(s) if each is None else each for each in found]

    names = ["x", *b, *p]
    examples = {name: example(dtype).requires_grad_() for name in names}
    examples |= {name: example(dtype) for name in ("gs", *g)}
    back = body(joint, examples, numbers)
    results = dict(zip(names, back.results, strict=True))
    return Pass(
        back,
        reads={"x": dtype, "gs": dtype, **dict.fromkeys(b, dtype)},
        writes={"gx": (dtype, results["x"])},
        carried={g[k]: results[b[k]] for k in range(states)},
        fixed=p,
        summed={f"d{k}": results[p[k]] for k in range(constants)},
        backwards=True,
    )
