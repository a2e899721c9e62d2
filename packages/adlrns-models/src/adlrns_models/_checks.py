"""Checks of arguments, with errors that name the argument, the rule and what came."""

from numbers import Real
from typing import TypeVar

import torch
from torch import Tensor

from adlrns_models._two_sided import OutputSensitivity
from fd_sketch import CovarianceSketch

T = TypeVar("T")


def check_int(name: str, value: object, low: int, high: int | None = None) -> int:
    """Returns ``value`` if it is an integer in ``low..high``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < low or (high is not None and value > high):
        raise ValueError(f"{name} must be in {low}..{'' if high is None else high}, got {value}")
    return value


def check_number(name: str, value: object) -> float:
    """Returns ``value`` if it is a number, one of numpy's included."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, got {value!r}")
    return float(value)


def check_fraction(name: str, value: object) -> float:
    """Returns ``value`` if it is a number in ``0..1``."""
    found = check_number(name, value)
    if not 0.0 <= found <= 1.0:  # also refuses nan
        raise ValueError(f"{name} must be in 0..1, got {value}")
    return found


def check_factorize(
    weight: object,
    bias: object,
    sketch: CovarianceSketch | None,
    sensitivity: object,
    max_rank: int | None,
) -> None:
    """Raises for arguments that :func:`adlrns_models.factorize` cannot take."""
    weight = _check_tensor("weight", weight)
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"weight must be [out, in] and not empty, got {list(weight.shape)}")
    m, n = weight.shape
    if bias is not None:
        _check_shape("bias", _check_tensor("bias", bias), [(m,)])
    if sketch is not None and not isinstance(sketch, CovarianceSketch):
        raise TypeError(f"sketch must be a covariance sketch, got {type(sketch).__name__}")
    if sketch is not None and sketch.n_features != n:
        raise ValueError(
            f"sketch must have as many features as weight has inputs ({n}), got {sketch.n_features}"
        )
    if sketch is not None and sketch.n_samples_seen == 0:
        raise ValueError(
            "sketch must have seen at least one finite row, got none: feed it by partial_fit, or "
            "leave it out for plain SVD"
        )
    if isinstance(sensitivity, CovarianceSketch):
        if sensitivity.n_features != m:
            raise ValueError(
                f"sensitivity must have as many features as weight has outputs ({m}), "
                f"got {sensitivity.n_features}"
            )
    elif sensitivity is not None and not isinstance(sensitivity, OutputSensitivity):
        tensor = _check_tensor("sensitivity", sensitivity)
        _check_shape("sensitivity", tensor, [(m,), (m, m)])
        _check_positive(tensor)
    if max_rank is not None:
        check_int("max_rank", max_rank, 0)


def _check_positive(sensitivity: Tensor) -> None:
    if sensitivity.ndim == 1:
        smallest, largest = sensitivity.min(), sensitivity.abs().max()
    else:
        if not torch.allclose(sensitivity, sensitivity.T, rtol=1e-4, atol=1e-6):
            raise ValueError("sensitivity must be symmetric")
        values = torch.linalg.eigvalsh(sensitivity.double())
        smallest, largest = values.min(), values.abs().max()
    if float(smallest) < -1e-6 * float(largest):
        raise ValueError(
            f"sensitivity must be positive semi-definite, got an eigenvalue of {float(smallest)}"
        )


def _check_tensor(name: str, value: object) -> Tensor:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if not value.dtype.is_floating_point:
        raise TypeError(f"{name} must be floating point, got {value.dtype}")
    if not bool(value.isfinite().all()):
        raise ValueError(f"{name} must be finite, got NaN or infinity")
    return value


def _check_shape(name: str, value: Tensor, allowed: list[tuple[int, ...]]) -> None:
    if tuple(value.shape) not in allowed:
        shapes = " or ".join(str(list(shape)) for shape in allowed)
        raise ValueError(f"{name} must have shape {shapes}, got {list(value.shape)}")


def check_input(name: str, value: object, weight: Tensor) -> Tensor:
    """Returns ``value`` if it is a tensor of a precision that can be multiplied by ``weight``."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(value).__name__}")
    if value.dtype != weight.dtype and not _is_lowered(value, weight):
        raise TypeError(
            f"{name} must be {weight.dtype}, the precision of the layer, got {value.dtype}"
        )
    return value


def _is_lowered(*tensors: Tensor) -> bool:
    """Whether autocast brings tensors to one precision."""
    place = tensors[0].device.type
    if not (torch.amp.is_autocast_available(place) and torch.is_autocast_enabled(place)):
        return False
    return all(t.is_floating_point() and t.dtype != torch.float64 for t in tensors)


def check_bool(name: str, value: object) -> bool:
    """Returns ``value`` if it is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def check_kind(name: str, value: object, kind: type[T]) -> T:
    """Returns ``value`` if it is an instance of ``kind``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {type(value).__name__}")
    return value


def check_budget(**budgets: float | None) -> tuple[str, float]:
    """Returns the name and value of the one budget given: a share, or an amount of its unit."""
    given = {name: value for name, value in budgets.items() if value is not None}
    if len(given) != 1:
        raise TypeError(f"exactly one of {', '.join(budgets)} must be given, got {given}")
    ((name, value),) = given.items()
    if name in ("flops", "parameters"):
        return name, check_fraction(name, value)
    amount = check_number(name, value)
    if not amount >= 0.0:
        raise ValueError(f"{name} must not be negative, got {value}")
    return name, amount


def check_positive(name: str, value: object) -> float:
    """Returns ``value`` if it is a number above 0 and finite."""
    found = check_number(name, value)
    if not 0.0 < found < float("inf"):
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return found


def check_not_negative(name: str, value: object) -> float:
    """Returns ``value`` if it is a number of at least 0 and finite."""
    found = check_number(name, value)
    if not 0.0 <= found < float("inf"):
        raise ValueError(f"{name} must be finite and not negative, got {value}")
    return found
