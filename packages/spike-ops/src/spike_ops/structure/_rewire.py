"""Connections that move while a network learns; how many there are stays."""

import torch
from torch import Tensor


@torch.no_grad()
def set_rewire_(
    weight: Tensor,
    mask: Tensor,
    fraction: float = 0.3,
    *,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer | None = None,
) -> int:
    """Move the weakest connections in place to random empty places; return how many moved.

    A fraction of the connections, those of least magnitude, goes; as many come where none was
    before, with weight 0. The number of connections stays exactly the same, and so does what the
    optimiser remembers of those that stay; of the new ones it remembers nothing.

    Args:
        weight: A parameter; zero where the mask is.
        mask: Which connections exist, of the weight's shape (bool, or zeros and ones).
        fraction: Share of the connections that move, rounded down.
        generator: Draws the new places.
        optimizer: The optimiser of the parameter, whose state of the moved places is set to 0.

    Raises:
        ValueError: The fraction is not in [0, 1], or mask and weight have different shapes.

    Source: D. Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse
    connectivity inspired by network science", Nature Communications 2018 (SET).

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[0.1, 2.0, 0.0, 3.0]]))
        >>> mask = weight != 0
        >>> set_rewire_(weight, mask, 0.4, generator=torch.Generator().manual_seed(0))
        1
        >>> mask
        tensor([[False,  True,  True,  True]])
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction must be in [0, 1], got {fraction}")
    alive = _alive(weight, mask)
    moved = min(int(fraction * int(alive.sum())), int((~alive).sum()))
    strength = torch.where(alive, weight.detach().abs(), torch.inf).flatten()
    dying = strength.argsort(stable=True)[:moved]
    _move(weight, mask, dying, _draw_empty(alive, moved, generator), optimizer)
    return moved


@torch.no_grad()
def deep_rewire_(
    weight: Tensor,
    mask: Tensor,
    signs: Tensor,
    *,
    shrink: float = 0.0,
    noise: float = 0.0,
    generator: torch.Generator,
    optimizer: torch.optim.Optimizer | None = None,
) -> int:
    """Let connections that would change sign die, and as many others begin at 0; return how many.

    Called after every step of the optimiser, with θ = w · sign the strength of a connection:

        θ ← θ - shrink + noise · ν   where connected;   θ < 0: the connection dies, and a random
        empty place is connected with θ = 0

    so that the number of connections stays exactly the same.

    Args:
        weight: A parameter; zero where the mask is.
        mask: Which connections exist, of the weight's shape.
        signs: ±1, the sign that every place has for good [out, in, ...], or [in] by Dale's law.
        shrink: η α, the step of the L1 penalty.
        noise: √(2 η T), the standard deviation of the walk at temperature T.
        generator: Draws noise and places.
        optimizer: The optimiser of the parameter, whose state of the moved places is set to 0.

    Raises:
        ValueError: Shapes do not fit, or a signs is not ±1.

    Source: G. Bellec et al., "Deep Rewiring: Training very sparse deep networks", ICLR 2018,
    algorithm 1.

    Example:
        >>> weight = torch.nn.Parameter(torch.tensor([[-0.1, 2.0, 0.0]]))
        >>> mask = weight != 0
        >>> deep_rewire_(weight, mask, torch.ones(3), generator=torch.Generator().manual_seed(0))
        1
        >>> weight.data, mask
        (tensor([[0., 2., 0.]]), tensor([[False,  True,  True]]))
    """
    alive = _alive(weight, mask)
    sign = signs.reshape(1, -1) if signs.ndim == 1 and weight.ndim == 2 else signs
    if sign.shape[-1] != weight.shape[-1] or not bool((sign.abs() == 1).all()):
        raise ValueError(f"signs must be +1 or -1 of shape {tuple(weight.shape)} or its inputs")
    walk = noise * torch.randn(weight.shape, generator=generator).to(weight)
    theta = torch.where(alive, weight * sign - shrink + walk, 0.0)
    weight.copy_(theta.clamp(min=0) * sign)
    dying = ((theta < 0) & alive).flatten().nonzero().flatten()
    dying = dying[: int((~alive).sum())]  # the rest stays, at 0
    _move(weight, mask, dying, _draw_empty(alive, len(dying), generator), optimizer)
    return len(dying)


def _alive(weight: Tensor, mask: Tensor) -> Tensor:
    if mask.shape != weight.shape:
        got = f"{tuple(mask.shape)} for {tuple(weight.shape)}"
        raise ValueError(f"mask must have the weight's shape, got {got}")
    return mask.to(torch.bool)


def _draw_empty(alive: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return places that were empty, drawn without repetition: [count] of int64."""
    empty = (~alive).flatten().nonzero().flatten()
    return empty[torch.randperm(len(empty), generator=generator)[:count].to(empty.device)]


def _move(
    weight: Tensor,
    mask: Tensor,
    dying: Tensor,
    born: Tensor,
    optimizer: torch.optim.Optimizer | None,
) -> None:
    changed = torch.zeros(weight.shape, dtype=torch.bool, device=weight.device)
    changed.view(-1)[dying] = True
    mask.masked_fill_(changed, 0)
    added = torch.zeros_like(changed)
    added.view(-1)[born] = True
    mask.masked_fill_(added, 1)
    weight.masked_fill_(changed | added, 0.0)
    state = optimizer.state.get(weight, {}) if optimizer is not None else {}
    for value in state.values():
        if isinstance(value, Tensor) and value.shape == weight.shape:
            value.masked_fill_(changed | added, 0.0)
