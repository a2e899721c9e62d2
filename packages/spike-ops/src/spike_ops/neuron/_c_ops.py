"""What elementwise operations of torch are in C: one row per operator.

A row takes the C expressions of the operands and returns that of the result. Numbers are written
with `R(...)`, the floating-point type in use; functions that end in `_R` are defined per type.
"""

import math
from collections.abc import Callable
from typing import Any

import torch

aten = torch.ops.aten
Row = Callable[..., str]


def number(value: float) -> str:
    """Return a number as C writes it, in the floating-point type in use."""
    if math.isinf(value):
        return "R(INFINITY)" if value > 0 else "R(-INFINITY)"
    return "R(NAN)" if math.isnan(value) else f"R({float(value)!r})"


def _infix(sign: str) -> Row:
    return lambda a, b: f"({a} {sign} {b})"


def _call(name: str) -> Row:
    return lambda *operands: f"{name}({', '.join(operands)})"


def _sum(sign: str) -> Row:
    def row(a: str, b: str, alpha: str = "") -> str:
        return f"({a} {sign} {f'{alpha} * {b}' if alpha else b})"

    return row


def _clamp(a: str, low: str = "", high: str = "") -> str:
    a = f"least_R({a}, {low})" if low else a
    return f"most_R({a}, {high})" if high else a


def _power(a: str, exponent: str) -> str:
    if exponent in {number(2), number(3)}:
        return f"({' * '.join([a] * (2 if exponent == number(2) else 3))})"
    return f"pow_R({a}, {exponent})"


def _same(a: str, *rest: str) -> str:
    del rest
    return a


def _filled(value: str) -> Row:
    return lambda *operands: value


_compare = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<", "eq": "==", "ne": "!="}
_plain = {
    "exp": "exp_R", "sigmoid": "sigmoid_R", "tanh": "tanh_R", "log": "log_R", "sqrt": "sqrt_R",
    "sin": "sin_R", "cos": "cos_R", "atan": "atan_R", "erf": "erf_R", "abs": "fabs_R",
    "floor": "floor_R", "round": "rint_R", "maximum": "max_R", "minimum": "min_R",
    "sign": "sign_R", "sgn": "sign_R",
}  # fmt: skip


def _rows() -> dict[Any, Row]:
    rows: dict[Any, Row] = {}
    for name, sign in _compare.items():
        packet = getattr(aten, name)
        rows |= dict.fromkeys((packet.Scalar, packet.Tensor), _infix(sign))
    rows |= {getattr(aten, name).default: _call(c) for name, c in _plain.items()}
    rows |= {aten.mul.Tensor: _infix("*"), aten.mul.Scalar: _infix("*")}
    rows |= {aten.div.Tensor: _infix("/"), aten.div.Scalar: _infix("/")}
    for sign, packet in (("+", aten.add), ("-", aten.sub)):
        rows |= dict.fromkeys((packet.Tensor, packet.Scalar), _sum(sign))
    rows |= {
        aten.rsub.Scalar: lambda a, b, alpha="": f"({b} - {f'{alpha} * {a}' if alpha else a})",
        aten.neg.default: lambda a: f"(-{a})",
        aten.reciprocal.default: lambda a: f"(R(1) / {a})",
        aten.square.default: lambda a: f"({a} * {a})",
        aten.pow.Tensor_Scalar: _power,
        aten.relu.default: lambda a: f"least_R({a}, R(0))",
        aten.clamp.default: _clamp,
        aten.clamp_min.default: lambda a, low: f"least_R({a}, {low})",
        aten.clamp_max.default: lambda a, high: f"most_R({a}, {high})",
        aten.where.self: lambda c, a, b: f"({c} ? {a} : {b})",
        aten.masked_fill.Scalar: lambda a, c, b: f"({c} ? {b} : {a})",
        aten.threshold_backward.default: lambda g, a, b: f"({a} <= {b} ? R(0) : {g})",
        aten.sigmoid_backward.default: lambda g, s: f"({g} * (R(1) - {s}) * {s})",
        aten.tanh_backward.default: lambda g, s: f"({g} * (R(1) - {s} * {s}))",
        aten.zeros_like.default: _filled("R(0)"),
        aten.ones_like.default: _filled("R(1)"),
        aten.full_like.default: lambda a, value, *rest: value,
        aten.scalar_tensor.default: _same,
    }
    rows |= dict.fromkeys((aten.logical_not.default, aten.bitwise_not.default), lambda a: f"(!{a})")
    rows |= dict.fromkeys((aten.logical_and.default, aten.bitwise_and.Tensor), _infix("&"))
    rows |= dict.fromkeys((aten.logical_or.default, aten.bitwise_or.Tensor), _infix("|"))
    same = (aten.clone, aten.detach, aten.alias, aten.expand, aten.view, aten.lift_fresh_copy)
    return rows | {packet.default: _same for packet in same}


ROWS = _rows()

# exp by Cody and Waite's reduction and a Taylor polynomial: compilers vectorise it, unlike libm's
PRELUDE = """
#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif
typedef {real} real;
typedef {integer} integer;
#define R(x) ((real)(x))
/* a bound on a, which stays NaN if it is: one comparison, which compilers turn into vector code */
static inline real least_R(real a, real low) {{ return a < low ? low : a; }}
static inline real most_R(real a, real high) {{ return a > high ? high : a; }}
static inline real max_R(real a, real b) {{ return a != a ? a : a > b ? a : b; }}
static inline real min_R(real a, real b) {{ return a != a ? a : a < b ? a : b; }}
static inline real sign_R(real a) {{ return R((a > 0) - (a < 0)); }}
static inline real exp_R(real x) {{
  real z = x > R({most}) ? R({most}) : x < R({least}) ? R({least}) : x;
  real k = rint{f}(z * R(1.4426950408889634));
  real r = (z - k * R({ln2_high})) - k * R({ln2_low});
  real p = R({last});
  {horner}
  integer bits = ((integer)k + {bias}) << {mantissa};
  real scale;
  memcpy(&scale, &bits, sizeof scale);
  real value = p * scale;
  value = x > R({most}) ? R(INFINITY) : x < R({least}) ? R(0) : value;
  return x != x ? x : value;
}}
static inline real sigmoid_R(real x) {{ return R(1) / (R(1) + exp_R(-x)); }}
"""
LIBM = ("tanh", "log", "sqrt", "sin", "cos", "atan", "erf", "fabs", "floor", "rint", "pow")


def prelude(dtype: torch.dtype) -> str:
    """Return the C functions that the rows use, for a floating-point type."""
    single = dtype == torch.float32
    degree, f = (7, "f") if single else (13, "")
    terms = [repr(1 / math.factorial(k)) for k in range(degree + 1)]
    text = PRELUDE.format(
        real="float" if single else "double",
        integer="int32_t" if single else "int64_t",
        most=88.0 if single else 709.0,
        least=-87.0 if single else -708.0,
        ln2_high=0.693145751953125 if single else 0.6931471803691238,
        ln2_low=1.4286068203094173e-06 if single else 1.9082149292705877e-10,
        last=terms[-1],
        horner=" ".join(f"p = p * r + R({term});" for term in terms[-2::-1]),
        bias=127 if single else 1023,
        mantissa=23 if single else 52,
        f=f,
    )
    return text + "\n".join(f"#define {name}_R {name}{f}" for name in LIBM) + "\n"
