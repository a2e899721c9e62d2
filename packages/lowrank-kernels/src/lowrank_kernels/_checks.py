"""Say what is wrong with the arguments of a product.

The fast paths test a handful of sizes; only when one of those fails, or torch itself refuses, is
the reason looked for here. Every function returns None when it finds nothing.
"""

import operator
from collections.abc import Sequence

import torch
from torch import Tensor

from lowrank_kernels._autocast import autocast_on

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def rank_value(rank: object, size: int) -> int:
    """Return the rank as an int in 0..size; raise TypeError or ValueError for anything else."""
    r = size if rank is None else integer(rank)
    if not 0 <= r <= size:
        raise ValueError(f"rank must be in 0..{size}, got {r}")
    return r


def check_rank_tensor(rank: Tensor) -> None:
    """Raise unless `rank` is a 0-dim integer tensor."""
    if rank.dim() != 0:
        raise ValueError(f"rank must be 0-dim where it is a tensor, got shape {_shape(rank)}")
    if rank.dtype not in INTEGERS:
        raise TypeError(f"rank must be an integer tensor, got {rank.dtype}")


def integer(rank: object) -> int:
    """Return the rank as an int, symbolic where it came so."""
    if isinstance(rank, Tensor):
        check_rank_tensor(rank)
        try:
            return int(rank)
        except RuntimeError as error:
            raise ValueError(f"rank must be readable as one number: {error}") from error
    if isinstance(rank, bool):
        raise TypeError(f"rank must be an int, a 0-dim integer tensor or None, got {rank}")
    # before operator.index, which would make a constant of a symbolic size
    if isinstance(rank, (int, torch.SymInt)):
        return rank  # type: ignore[return-value]
    try:
        return operator.index(rank)  # type: ignore[arg-type]
    except TypeError:
        kind = type(rank).__name__
        raise TypeError(
            f"rank must be an int, a 0-dim integer tensor or None, got {kind} {rank!r}"
        ) from None


def check_linear(x: object, down: object, up: object, bias: object, inner: object = None) -> None:
    """Raise for tensors that `lowrank_linear` cannot take."""
    x, down, up, bias, inner = _tensors(x, down, up, bias, inner)
    _dims("down", down, "[R, in]", 2)
    _dims("up", up, "[out, R]", 2)
    if x.dim() < 1:
        raise ValueError("x must be [..., in], got a 0-dim tensor")
    fits("x", x, "[..., in]", -1, in_=("down", down, 1))
    fits("up", up, "[out, R]", 1, R=("down", down, 0))
    _bias("bias", bias, (up.shape[0],))
    _bias("inner_bias", inner, (down.shape[0],))


def check_factors(down: object, up: object, bias: object, inner: object = None) -> None:
    """Raise for factors that no linear product can take."""
    named = {"down": down, "up": up}
    named |= {} if bias is None else {"bias": bias}
    named |= {} if inner is None else {"inner_bias": inner}
    check_tensors(named)
    check_linear(down, down, up, bias, inner)


def check_batched(x: object, down: object, up: object, bias: object, inner: object) -> None:
    """Raise for tensors that `lowrank_linear_batched` cannot take."""
    x, down, up, bias, inner = _tensors(x, down, up, bias, inner)
    _dims("down", down, "[L, R, in]", 3)
    _dims("up", up, "[L, out, R]", 3)
    if x.dim() < 2:
        raise ValueError(f"x must be [L, ..., in], got {_shape(x)}")
    fits("x", x, "[L, ..., in]", 0, L=("down", down, 0))
    fits("up", up, "[L, out, R]", 0, L=("down", down, 0))
    fits("x", x, "[L, ..., in]", -1, in_=("down", down, 2))
    fits("up", up, "[L, out, R]", 2, R=("down", down, 1))
    _bias("bias", bias, tuple(up.shape[:2]))
    _bias("inner_bias", inner, tuple(down.shape[:2]))


def check_ranks(ranks: object, lead: torch.Size, *, is_meta: bool) -> None:
    """Raise unless `ranks` is an integer tensor that has the shape of leading axes."""
    if not isinstance(ranks, Tensor):
        raise TypeError(f"ranks must be an integer tensor or None, got {type(ranks).__name__}")
    if ranks.dtype not in INTEGERS:
        raise TypeError(f"ranks must be an integer tensor, got {ranks.dtype}")
    if ranks.is_meta is not is_meta:
        raise ValueError(f"ranks must have values where x has, got ranks on {ranks.device}")
    if ranks.shape != lead[: ranks.dim()]:
        raise ValueError(
            f"ranks must have the shape of leading axes of x, {list(lead)}, got {_shape(ranks)}"
        )


def check_conv2d(
    x: object, down: object, up: object, bias: object, groups: object, inner: object = None
) -> None:
    """Raise for tensors or groups that `lowrank_conv2d` cannot take."""
    x, down, up, bias, inner = _tensors(x, down, up, bias, inner)
    g = _positive("groups", groups)
    if x.dim() not in (3, 4):
        raise ValueError(f"x must be [N, in, H, W] or [in, H, W], got {_shape(x)}")
    if g > 1:
        _dims("down", down, "[groups, R, in/groups, kh, kw] with groups > 1", 5)
        _dims("up", up, "[groups, out/groups, R] with groups > 1", 3)
        _groups("down", down, "[groups, R, in/groups, kh, kw]", g)
        _groups("up", up, "[groups, out/groups, R]", g)
    else:
        _dims("down", down, "[R, in, kh, kw] with groups=1", 4)
        _dims("up", up, "[out, R] with groups=1", 2)
    fits("x", x, "[N, in, H, W] or [in, H, W]", -3, in_=("down", down, -3), times=g)
    layout = "[out, R]" if g == 1 else "[groups, out/groups, R]"
    fits("up", up, layout, -1, R=("down", down, -4))
    _bias("bias", bias, (g * up.shape[-2],))
    _bias("inner_bias", inner, tuple(down.shape[:-3]))


def pair(name: str, value: object, *, least: int) -> tuple[int, int]:
    """Return `value` as two ints >= least; raise naming the argument otherwise."""
    both = tuple(value) if isinstance(value, Sequence) and not isinstance(value, str) else None
    both = both or (value, value)
    if len(both) == 1:
        both = both * 2
    if len(both) != 2 or any(isinstance(v, bool) or not hasattr(v, "__index__") for v in both):
        raise TypeError(f"{name} must be an int or two ints, got {value!r}")
    if any(v < least for v in both):
        raise ValueError(f"{name} must be at least {least}, got {value!r}")
    return both[0], both[1]


def whole(name: str, value: object, least: int) -> int:
    """Return `value` as an int >= least; raise naming the argument otherwise."""
    if isinstance(value, Tensor) and (value.dim() or value.dtype not in INTEGERS):
        raise TypeError(f"{name} must be an int, got a tensor {_shape(value)} of {value.dtype}")
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    number = operator.index(value)
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}")
    return number


def flag(name: str, value: object) -> bool:
    """Return `value`, True or False; raise naming the argument otherwise."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {type(value).__name__} {value!r}")
    return value


def number(name: str, value: object, *, above: float) -> float:
    """Return `value` as a float > above; raise naming the argument otherwise."""
    if isinstance(value, (bool, str)) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} must be a number, got {type(value).__name__} {value!r}")
    real = float(value)
    if not real > above:
        raise ValueError(f"{name} must be above {above:g}, got {value}")
    return real


def _positive(name: str, value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an int, got {type(value).__name__} {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}")
    return value  # type: ignore[return-value]


def _tensors(
    x: object, down: object, up: object, bias: object, inner: object
) -> tuple[Tensor, ...]:
    """Check that all are floating tensors of one kind and place; the last two may be None."""
    named = {"x": x, "down": down, "up": up}
    named |= {} if bias is None else {"bias": bias}
    named |= {} if inner is None else {"inner_bias": inner}
    check_tensors(named)
    return x, down, up, bias, inner  # type: ignore[return-value]


def check_tensors(named: dict[str, object]) -> None:
    """Raise unless all are floating tensors of the dtype and device of the first."""
    for name, value in named.items():
        if not isinstance(value, Tensor):
            kind = type(value).__name__
            if name == "bias" and type(value) is int:
                raise TypeError(f"bias must be a tensor or None, got int {value}; a rank is rank=")
            raise TypeError(f"{name} must be a tensor, got {kind}")
        if value.dtype not in FLOATS:
            raise TypeError(
                f"{name} must be float64, float32, float16 or bfloat16, got {value.dtype}"
            )
    (of, x), *_ = named.items()
    assert isinstance(x, Tensor)
    mixed = autocast_on(x)
    for name, value in named.items():
        assert isinstance(value, Tensor)
        if value.device != x.device:
            raise ValueError(
                f"{name} must be on the device of {of}, {x.device}, got {value.device}"
            )
        if value.dtype != x.dtype and not mixed:
            raise TypeError(f"{name} must have the dtype of {of}, {x.dtype}, got {value.dtype}")


def _dims(name: str, tensor: Tensor, layout: str, dims: int) -> None:
    if tensor.dim() != dims:
        raise ValueError(f"{name} must be {layout}, got {_shape(tensor)}")


def fits(
    name: str,
    tensor: Tensor,
    layout: str,
    axis: int,
    times: int = 1,
    **size: tuple[str, Tensor, int],
) -> None:
    """Raise unless an axis, named by its letter, is as long as that of another tensor says."""
    ((letter, (of, other, its)),) = size.items()
    want = times * other.shape[its]
    if tensor.shape[axis] != want:
        groups = "" if times == 1 else f" for {times} groups"
        raise ValueError(
            f"{name} must be {layout} with {letter.rstrip('_')} = {want}, "
            f"as {of} {_shape(other)} has it{groups}, got {_shape(tensor)}"
        )


def _groups(name: str, tensor: Tensor, layout: str, groups: int) -> None:
    if tensor.shape[0] != groups:
        raise ValueError(f"{name} must be {layout} with groups = {groups}, got {_shape(tensor)}")


def _bias(name: str, bias: Tensor | None, shape: tuple[int, ...]) -> None:
    if bias is not None and tuple(bias.shape) != shape:
        raise ValueError(f"{name} must be {list(shape)}, got {_shape(bias)}")


def _shape(tensor: Tensor) -> list[int]:
    return list(tensor.shape)
