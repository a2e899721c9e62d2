"""What the laws of the two products share."""

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor

Product: TypeAlias = Callable[..., Tensor]
Law: TypeAlias = Callable[[Product, Tensor], None]

TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 5e-3,
    torch.bfloat16: 4e-2,
}


def assert_close(name: str, got: Tensor, want: Tensor, *, rtol: float | None = None) -> None:
    """Raise AssertionError unless `got` is `want` up to a relative error.

    The error is `rms(got - want) / rms(want)`, taken in float64; where `want` is all zeros `got`
    must be so too.

    Args:
        name: what the message calls the tensor.
        got: the tensor to judge.
        want: what it should be, of the same shape.
        rtol: the largest error; None takes it from the dtype of `got`.

    Example:
        >>> import torch
        >>> assert_close("y", torch.ones(3), torch.ones(3) * (1 + 1e-7))
    """
    assert got.shape == want.shape, f"{name}: shape {list(got.shape)}, not {list(want.shape)}"
    if not want.numel():
        return
    got, want = got.detach(), want.detach()
    limit = TOLERANCE[got.dtype] if rtol is None else rtol
    difference = (got.double() - want.double()).abs()
    error = rms(difference) / (rms(want.double()) or 1.0)
    worst = int(difference.flatten().nan_to_num(torch.inf).argmax())
    # nan is below no limit, and so fails
    assert error <= limit, (
        f"{name}: relative error {error:.3g} above {limit:.3g}; worst at flat index {worst}: "
        f"{got.flatten()[worst].item()}, not {want.flatten()[worst].item()}"
    )


def rms(x: Tensor) -> float:
    """Return the root of the mean square."""
    return float(x.square().mean().sqrt())


def random(like: Tensor, *shape: int, seed: int = 0) -> Tensor:
    """Return normal numbers; small magnitudes keep float16 far from its limits."""
    generator = torch.Generator().manual_seed(seed + 31 * sum(shape))
    x = (
        torch.randn(shape, generator=generator, dtype=torch.float64)
        / max(shape[-1:] or (1,)) ** 0.5
    )
    return x.to(like)


def ranks(R: int) -> Iterator[int]:
    """Yield the ranks worth trying: none, one, half, all but one, all."""
    yield from sorted({0, 1, R // 2, R - 1, R})


def doubles(*tensors: Tensor | None) -> Any:
    """Return the tensors in float64, apart from any graph."""
    return [None if t is None else t.detach().double() for t in tensors]


def truth(reference: Product, *tensors: Tensor | None, **options: Any) -> Tensor:
    """Return what the reference makes of the tensors in float64."""
    return reference(*doubles(*tensors), **options)


def no_worse(got: Tensor, plain: Tensor, want: Tensor) -> None:
    """Raise unless the error of `got` is at most twice that of `plain`."""
    error, allowed = rms(got.double() - want), rms(plain.double() - want)
    least = 1e-3 * torch.finfo(got.dtype).eps * rms(want)
    assert error <= 2 * allowed + least, f"error {error:.3g}, twice above torch's {allowed:.3g}"


def gradients(call: Product, tensors: Any) -> tuple[Tensor, ...]:
    """Return the gradients of a random weighing of the result."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = call(*leaves)
    return torch.autograd.grad(y, leaves, random(y.detach(), *y.shape, seed=4))


def second(call: Product, tensors: Any) -> tuple[Tensor, ...]:
    """Return second derivatives in the first three tensors, weighed at random."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    y = call(*leaves)
    weights = random(y.detach(), *y.shape, seed=4)
    first = torch.autograd.grad(y, leaves[:3], weights, create_graph=True)
    total = sum((g * random(g.detach(), *g.shape, seed=5)).sum() for g in first)
    assert isinstance(total, Tensor)
    return torch.autograd.grad(total, leaves[:3])
