"""The C of a loop over time: all steps of a block of neurons before the next block.

What is carried from step to step stays in the cache meanwhile.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from spike_ops.neuron._c_ops import prelude
from spike_ops.neuron._c_trace import Body

# numbers below the normal range count as zero: a state that decays into them makes a core slow
SIGNATURE = """
void NAME(int64_t T, int64_t n, int64_t low, int64_t high, int64_t width,
          void *const *p, real *scratch, const double *q) {
#if defined(__SSE2__)
const unsigned mode = _mm_getcsr();
_mm_setcsr(mode | 0x8040);
#define RESTORE _mm_setcsr(mode);
#else
#define RESTORE
#endif"""


@dataclass
class Pass:
    """One run through the steps of a block: what streams in and out at each, what is carried.

    `reads` and `writes` name streams [T, n] and their types; `carried` maps a state to the result
    that is its next value, `summed` a sum over time to the result added to it.
    """

    body: Body
    reads: dict[str, torch.dtype]
    writes: dict[str, tuple[torch.dtype, str]]
    carried: dict[str, str]
    fixed: list[str] = field(default_factory=list)
    summed: dict[str, str] = field(default_factory=dict)
    backwards: bool = False


@dataclass
class Loop:
    """Passes over the same blocks, one after the other; streams `inside` stay in the cache."""

    passes: Sequence[Pass]
    inside: Sequence[str] = ()

    def arrays(self) -> list[str]:
        """Return the names of the arrays that its function takes, in order."""
        names: list[str] = []
        for each in self.passes:
            names += [*each.reads, *each.writes, *each.fixed]
            names += [f"{name}_{end}" for name in each.carried for end in ("first", "last")]
            names += [f"{name}_sum" for name in each.summed]
        return [name for name in dict.fromkeys(names) if name not in self.inside]

    def streams(self) -> dict[str, torch.dtype]:
        """Return the types of the arrays that have a row for each step; others are real."""
        kinds: dict[str, torch.dtype] = {}
        for each in self.passes:
            kinds |= {**each.reads, **{name: kind for name, (kind, _) in each.writes.items()}}
        return kinds

    def scratch_rows(self, steps: int) -> int:
        """Return how many numbers a neuron of a block takes in scratch memory."""
        held = {name for each in self.passes for name in (*each.carried, *each.summed)}
        return len(self.inside) * steps + len(held)


def source(loops: dict[str, Loop], numbers: Sequence[float], dtype: torch.dtype) -> str:
    """Return the C of loops, each a function `name(T, n, low, high, width, p, scratch, q)`.

    It runs neurons `low` to `high` in blocks of `width`, with arrays `p` and numbers `q`.
    """
    text = [prelude(dtype)]
    for name, loop in loops.items():
        text += _function(name, loop, len(numbers))
    return "\n".join([*text, ""])


def _function(name: str, loop: Loop, numbers: int) -> list[str]:
    slots = {array: place for place, array in enumerate(loop.arrays())}
    text = [SIGNATURE.replace("NAME", name)]
    text += [f"const real q{k} = R(q[{k}]);" for k in range(numbers)]
    held = [*loop.inside, *(key for each in loop.passes for key in (*each.carried, *each.summed))]
    for key in dict.fromkeys(held):
        rows = "T" if key in loop.inside else "1"
        text.append(f"real *const in_{key} = scratch; scratch += {rows} * width;")
    text.append("for (int64_t b = low; b < high; b += width) {")
    text.append("const int64_t m = high - b < width ? high - b : width;")
    for each in loop.passes:
        text += _pass_lines(each, slots, set(loop.inside))
    return [*text, "}", "RESTORE", "}"]


def _pass_lines(each: Pass, slots: dict[str, int], inside: set[str]) -> list[str]:
    first = {name: f"((const real *)p[{slots[f'{name}_first']}] + b)" for name in each.carried}
    lines = ["{", *(_copied(f"in_{name}", start) for name, start in first.items())]
    lines += [f"memset(in_{name}, 0, m * sizeof(real));" for name in each.summed]
    for name in each.fixed:
        lines.append(f"const real *const restrict f_{name} = (const real *)p[{slots[name]}] + b;")
    count = "t = T - 1; t >= 0; t--" if each.backwards else "t = 0; t < T; t++"
    lines.append(f"for (int64_t {count}) {{")
    streams = {**each.reads, **{name: kind for name, (kind, _) in each.writes.items()}}
    for name, kind in streams.items():
        lines.append(_stream(name, kind, slots, inside, constant=name in each.reads))
    for name in (*each.carried, *each.summed):
        lines.append(f"real *const restrict c_{name} = in_{name};")
    lines += ["#if defined(__GNUC__) && !defined(__clang__)", "#pragma GCC ivdep", "#endif"]
    lines.append("for (int64_t i = 0; i < m; i++) {")
    lines += [f"const {_local(k)} {name} = s_{name}[i];" for name, k in each.reads.items()]
    lines += [f"const real {name} = f_{name}[i];" for name in each.fixed]
    lines += [f"const real {name} = c_{name}[i];" for name in each.carried]
    lines += each.body.lines
    for name, (kind, result) in each.writes.items():
        lines.append(f"s_{name}[i] = ({_stored(kind)}){result};")
    lines += [f"c_{name}[i] = {result};" for name, result in each.carried.items()]
    lines += [f"c_{name}[i] += {result};" for name, result in each.summed.items()]
    lines += ["}", "}"]
    for name in each.carried:
        lines.append(_copied(f"((real *)p[{slots[f'{name}_last']}] + b)", f"in_{name}"))
    for name in each.summed:
        lines.append(_copied(f"((real *)p[{slots[f'{name}_sum']}] + b)", f"in_{name}"))
    return [*lines, "}"]


def _stored(kind: torch.dtype) -> str:
    return "uint8_t" if kind in {torch.bool, torch.uint8} else "real"


def _local(kind: torch.dtype) -> str:
    return "int" if kind in {torch.bool, torch.uint8} else "real"


def _copied(to: str, origin: str) -> str:
    return f"memcpy({to}, {origin}, m * sizeof(real));"


def _stream(
    name: str, kind: torch.dtype, slots: dict[str, int], inside: set[str], *, constant: bool
) -> str:
    c_type = _stored(kind)
    array = "" if name in inside else f"({c_type} *)p[{slots[name]}] + t * n + b"
    start = array or f"in_{name} + t * width"
    return f"{'const ' if constant else ''}{c_type} *const restrict s_{name} = {start};"
