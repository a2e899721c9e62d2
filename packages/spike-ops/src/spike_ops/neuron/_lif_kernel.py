"""The kernels of a LIF layer: what is kept is written forward and read backward."""

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from spike_ops.neuron._c_source import Loop, Pass
from spike_ops.neuron._c_trace import body
from spike_ops.neuron._kernel import Kernel, built, example, in_memory
from spike_ops.neuron._lif_loops import Kept, Run, by_membrane, keep, slope_of, stored
from spike_ops.neuron._lif_rule import LifRule

_built: set[tuple[LifRule, Kept, torch.dtype]] = set()


class LifKernels(NamedTuple):
    """Dense or boolean spikes forward, and gradients backward."""

    dense: Kernel
    fired: Kernel
    backward: Kernel


def is_built(rule: LifRule, kept: Kept, dtype: torch.dtype) -> bool:
    """Say whether the kernels of a rule have been built."""
    return (rule, kept, dtype) in _built


@lru_cache(maxsize=256)
def lif_kernels(rule: LifRule, kept: Kept, dtype: torch.dtype) -> LifKernels:
    """Return the kernels of a rule, built now if they are not yet.

    Raises:
        NotInC: The surrogate does something else than known elementwise operations.
        CompilerError: There is no compiler, or it fails.
    """
    rule.surrogate.peak  # noqa: B018 - found now: a tensor of its own cannot be traced

    def ahead(x: Tensor, v: Tensor) -> list[Tensor]:
        h = rule.charge(x, v)
        s = rule.fire(h)
        return [s, keep(rule, h, kept), rule.after(h, s.to(dtype))]

    numbers: list[float] = []
    once = body(ahead, {"x": example(dtype), "v": example(dtype)}, numbers)
    s, saved, after = once.results

    def forward(*, dense: bool) -> Loop:
        writes = {"k": (stored(kept, dtype), saved)}
        writes |= {"s": (dtype, s)} if dense else {}
        writes |= {} if dense and kept == "membrane" else {"f": (torch.bool, s)}
        return Loop([Pass(once, {"x": dtype}, writes, {"v": after})])

    loops = {"dense": forward(dense=True), "fired": forward(dense=False)}
    loops["backward"] = _backward(rule, kept, dtype, numbers)
    made = LifKernels(**built(loops, numbers, dtype))
    _built.add((rule, kept, dtype))
    return made


def _backward(rule: LifRule, kept: Kept, dtype: torch.dtype, numbers: list[float]) -> Loop:
    def back(gs: Tensor, k: Tensor, gv: Tensor, *given: Tensor) -> list[Tensor]:
        s = given[0] if given else rule.fire(k)
        h = k if kept == "membrane" else None
        slope = slope_of(rule, k, kept, dtype)
        gh = by_membrane(rule, gs, gv, slope, s.to(dtype), h)
        return [rule.gain * gh, rule.beta * gh]

    kinds = {"gs": dtype, "k": stored(kept, dtype), "gv": dtype}
    kinds |= {} if kept == "membrane" else {"f": torch.bool}
    examples = {name: torch.ones(2, dtype=kind, device="cpu") for name, kind in kinds.items()}
    once = body(back, examples, numbers)
    gx, gv = once.results
    reads = {name: kind for name, kind in kinds.items() if name != "gv"}
    return Loop([Pass(once, reads, {"gx": (dtype, gx)}, {"gv": gv}, backwards=True)])


def kernel_forward(rule: LifRule, x: Tensor, v: Tensor, *, kept: Kept, dense: bool) -> Run:
    """Return the run of currents x [T, n] from v [n], as `eager_forward` does."""
    kernel = getattr(lif_kernels(rule, kept, x.dtype), "dense" if dense else "fired")
    data = {
        "x": in_memory(x, x.dtype),
        "v_first": in_memory(v, v.dtype),
        "v_last": torch.empty_like(v),
    }
    data["k"] = x.new_empty(x.shape, dtype=stored(kept, x.dtype))
    data |= {"s": x.new_empty(x.shape)} if dense else {}
    data |= {"f": x.new_empty(x.shape, dtype=torch.bool)} if "f" in kernel.names else {}
    kernel(x.shape[0], x.shape[1], data)
    return Run(data.get("s"), data.get("f"), data["k"], data["v_last"])


def kernel_backward(
    rule: LifRule, gs: Tensor, gv: Tensor, fired: Tensor | None, saved: Tensor, kept: Kept
) -> tuple[Tensor, Tensor]:
    """Return gx [T, n] and gv [n] before the first step, as `eager_backward` does."""
    data = {"gs": in_memory(gs, gs.dtype), "k": saved, "gv_first": in_memory(gv, gv.dtype)}
    data |= {"gv_last": torch.empty_like(gv), "gx": gs.new_empty(gs.shape)}
    data |= {} if fired is None else {"f": fired}
    lif_kernels(rule, kept, gs.dtype).backward(gs.shape[0], gs.shape[1], data)
    return data["gx"], data["gv_last"]
