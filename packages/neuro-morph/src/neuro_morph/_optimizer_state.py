"""What an optimizer holds for a parameter, grown with it."""

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuro_morph._edits import TensorEdit
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._undo import UndoLog

# the power of a factor of the gradient that each kind of state takes
STATE_POWERS: dict[str, float] = {
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "exp_inf": 1,
    "momentum_buffer": 1,
    "grad_avg": 1,
    "square_avg": 2,
    "acc_delta": 2,
    "sum": 2,
    "prev": 1,
    "mu_product": 0,
    "ax": 0,
    "d": 1,
}


def register_optimizer_state(name: str, power: float) -> None:
    """Makes a kind of optimizer state known.

    Args:
        name: its key in ``optimizer.state[parameter]``.
        power: what a factor ``a`` of the gradient does to it: ``a ** power``; 1 for means of
            gradients, 2 for means of their squares, 0 for what has nothing to do with them.

    Raises:
        ValueError: if ``name`` is empty or ``power`` is not finite.

    Example:
        >>> from neuro_morph import register_optimizer_state
        >>> register_optimizer_state("slow_momentum", 1)
    """
    if not name:
        raise ValueError("name must not be empty")
    if not torch.isfinite(torch.tensor(float(power))):
        raise ValueError(f"power must be finite, got {power!r}")
    STATE_POWERS[name] = float(power)


def migrate(
    optimizer: Optimizer, parameter: Tensor, edit: TensorEdit, log: UndoLog, *, exact: bool = False
) -> None:
    """Grows what ``optimizer`` holds for ``parameter``, which has its new shape already.

    Means of gradients of an entry that is taken over at a share ``a`` are multiplied by ``a``,
    means of squares by ``a ** 2``; entries without a past begin with zero, or with the median of
    the others where a zero would make the first steps too long.

    Args:
        optimizer: the optimizer.
        parameter: the parameter, grown.
        edit: how it grew.
        log: where everything is written as it was.
        exact: whether the optimizer goes on seeing copies as what they are copies of: what it
            holds for them is taken over as it is.

    Raises:
        GrowthRefusedError: if it holds something of which it is not known how it grows.
    """
    state = optimizer.state.get(parameter, {})
    for key, held in list(state.items()):
        if isinstance(held, Tensor) and held.dim() > 0:
            log.set_item(state, key, _carried(optimizer, key, held, parameter, edit, exact))


def _carried(
    optimizer: Optimizer, key: str, held: Tensor, parameter: Tensor, edit: TensorEdit, exact: bool
) -> Tensor:
    kind = type(optimizer).__name__
    if edit.shape(held.shape) != parameter.shape or held.dim() != parameter.dim():
        raise GrowthRefusedError(
            f"{kind} holds {key!r} of shape {tuple(held.shape)} for {edit.name!r}, not that of "
            "the parameter: register a handler for it, or remove it from the state before growing"
        )
    if key not in STATE_POWERS:
        known = ", ".join(STATE_POWERS)
        raise GrowthRefusedError(
            f"{kind} holds {key!r} for {edit.name!r}, and it is not known how that grows "
            f"(known are {known}): see register_optimizer_state"
        )
    power = STATE_POWERS[key]
    fresh = float(held.median()) if power == 2 and held.numel() else 0.0
    return edit.carry(held, 0.0 if exact else power, fresh)
