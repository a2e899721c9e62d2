"""Register an operator in the namespace `lowrank_kernels` of torch."""

from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.utils.flop_counter import register_flop_formula

NAMESPACE = "lowrank_kernels"


def register(
    schema: str,
    kernel: Callable[..., Any],
    *,
    fake: Callable[..., Any],
    save: Callable[..., None],
    backward: Callable[..., Any],
    vmap: Callable[..., Any],
    flops: Callable[..., int],
) -> None:
    """Define the operator of `schema` with all that compilers ask of it.

    `define` and `impl` rather than `custom_op`: the wrapper of the latter costs some ten
    microseconds a call, more than a small product.

    Args:
        schema: name and signature, `shrink(Tensor x, ...) -> Tensor`.
        kernel: computes the result on every device, outside autograd.
        fake: returns an empty tensor of the result's shape.
        save: keeps what the backward needs, as `torch.library` calls `setup_context`.
        backward: maps the context and the gradient of the result to those of the arguments.
        vmap: the batching rule.
        flops: what a call costs, given its arguments and `out_val`.
    """
    name = schema.partition("(")[0]
    qualified = define(schema, _backward_alone(name, kernel), fake=fake, vmap=vmap)
    torch.library.register_autograd(qualified, backward, setup_context=save)
    register_flop_formula(getattr(getattr(torch.ops, NAMESPACE), name), get_raw=True)(flops)


def define(
    schema: str, kernel: Callable[..., Any], *, fake: Callable[..., Any], vmap: Callable[..., Any]
) -> str:
    """Define an operator of integers, or one whose derivatives follow; return its full name."""
    name, _, signature = schema.partition("(")
    qualified = f"{NAMESPACE}::{name}"
    torch.library.define(qualified, f"({signature}", tags=(torch.Tag.pt2_compliant_tag,))
    torch.library.impl(qualified, "default", kernel)
    torch.library.register_fake(qualified, fake)
    torch.library.register_vmap(qualified, vmap)
    return qualified


def in_forward_mode() -> bool:
    """Tell whether derivatives in forward mode are at work."""
    return forward_ad._current_level >= 0


def _backward_alone(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel, refused in forward mode: torch would drop the tangents and say nothing."""

    def guarded(*args: Any) -> Any:
        if in_forward_mode():
            raise NotImplementedError(
                f"{NAMESPACE}::{name} has no derivative in forward mode: call the function of this "
                "package that it is part of where the level of forward mode is entered already"
            )
        return kernel(*args)

    return guarded


_WITHOUT = "call vmap without torch.compile, or give the rank as an int"


def no_vmap(name: str, advice: str = _WITHOUT) -> Callable[..., Any]:
    """Return a batching rule that says what to do instead."""

    def rule(info: Any, in_dims: Any, *args: Any) -> Any:
        raise NotImplementedError(
            f"vmap over {NAMESPACE}::{name} is not defined for these arguments: {advice}"
        )

    return rule
