"""What an optimizer holds for a parameter, grown with it."""

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from neuro_morph._edits import TensorEdit
from neuro_morph._errors import GrowthRefusedError
from neuro_morph._factored_state import factors_grown
from neuro_morph._undo import UndoLog

# the power of a factor of the gradient that each kind of state takes
STATE_POWERS: dict[str, float] = {
    "exp_avg": 1,
    "exp_avg_sq": 2,
    "max_exp_avg_sq": 2,
    "exp_inf": 1,
    "variance": 2,
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


# optimizers that see more than one entry at a time, and what that is
_WHOLE = {
    "Adafactor": "it scales steps by norms of whole tensors",
    "Muon": "it makes the steps of a whole matrix orthogonal",
    "SparseAdam": "it is given gradients of some rows only",
}
_SAMPLE = 1 << 16  # of numbers that a median is taken of
_FLAT = ("LBFGS",)  # hold all parameters in one vector


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


def check_optimizers(optimizers: Iterable[Optimizer], *, exact: bool) -> None:
    """Raises GrowthRefusedError for optimizers that cannot go on after growth.

    Args:
        optimizers: the optimizers.
        exact: whether they are to see copies as what they are copies of.
    """
    for optimizer in optimizers:
        kinds = [kind.__name__ for kind in type(optimizer).__mro__]
        name = kinds[0]
        if any(kind in _FLAT for kind in kinds):
            raise GrowthRefusedError(
                f"{name} holds past steps of all parameters in one vector, which do not grow: "
                "train on with another optimizer, or grow before it is made"
            )
        whole = next((why for kind, why in _WHOLE.items() if exact and kind in kinds), None)
        if whole is not None:
            raise GrowthRefusedError(
                f"{name} cannot go on with dynamics='exact': {whole}; dynamics='plain' can"
            )


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
    factors = factors_grown(state, parameter, edit)
    for key, grown in factors.items():
        log.set_item(state, key, grown)
    for key, held in list(state.items()):
        if isinstance(held, Tensor) and held.dim() > 0 and key not in factors:
            log.set_item(state, key, _carried(optimizer, key, held, parameter, edit, exact))


def _carried(
    optimizer: Optimizer, key: str, held: Tensor, parameter: Tensor, edit: TensorEdit, exact: bool
) -> Tensor:
    kind = type(optimizer).__name__
    if held.is_sparse:
        raise GrowthRefusedError(
            f"{kind} holds {key!r} for {edit.name!r}, which is sparse and does not grow: train "
            "it without momentum, or with dense gradients"
        )
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
    fresh = typical(held) if power == 2 else 0.0
    return edit.carry(held, 0.0 if exact else power, fresh)


def typical(held: Tensor) -> float:
    """Returns the median of a tensor's numbers, or of every k-th of very many; 0 of none."""
    numbers = held.flatten()
    return float(numbers[:: numbers.numel() // _SAMPLE + 1].median()) if numbers.numel() else 0.0
