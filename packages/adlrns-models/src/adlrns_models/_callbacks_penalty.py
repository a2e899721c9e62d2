"""The rank penalty in other people's training loops."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from adlrns_models._penalty import mean_flops, rank_penalty
from adlrns_models._trainer_config import TrainConfig
from adlrns_models._trainer_ranks import has_dynamic


class PenaltyTerm:
    """The term ``weight * rank_penalty(model, alpha, beta)`` of an objective.

    Counts how often it was added: a callback that nothing calls would leave all ranks as they are,
    and say nothing.
    """

    def __init__(self, energy_penalty_weight: float, alpha: float, beta: float):
        checked = TrainConfig(energy_penalty_weight=energy_penalty_weight, alpha=alpha, beta=beta)
        self.weight, self.alpha, self.beta = (
            checked.energy_penalty_weight,
            checked.alpha,
            checked.beta,
        )
        self.times = 0
        self.last: dict[str, float] = {}

    def begin(self, model: nn.Module) -> None:
        """Refuses a model whose ranks cannot move."""
        if not has_dynamic(model):
            raise ValueError("model must have a dynamic layer for a rank penalty, got none")
        self.times, self.last = 0, {}

    def of(self, model: nn.Module) -> Tensor:
        """Returns the term for the latest forward pass."""
        penalty = rank_penalty(model, alpha=self.alpha, beta=self.beta)
        self.last = {"rank_penalty": float(penalty.detach()), "mean_flops": mean_flops(model)}
        self.times += 1
        return self.weight * penalty

    def end(self) -> None:
        """Says if it never had a say."""
        if self.times == 0:
            raise RuntimeError("the rank penalty was never added to a loss: training ran without")


def with_added_loss(output: Any, extra: Tensor) -> Any:
    """Returns a model's output whose loss is larger by ``extra``.

    Raises:
        ValueError: if there is no loss in it.
    """
    if (
        isinstance(output, tuple)
        and output
        and isinstance(output[0], Tensor)
        and not output[0].ndim
    ):
        return (output[0] + extra.to(output[0].device), *output[1:])
    loss = output.get("loss") if isinstance(output, Mapping) else None
    if not isinstance(loss, Tensor):
        raise ValueError(
            "the model must return its loss for the rank penalty to be added, got "
            f"{type(output).__name__} without one: train without compute_loss_func and label "
            "smoothing"
        )
    output["loss"] = loss + extra.to(loss.device)
    return output
