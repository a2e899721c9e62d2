"""The rank penalty in other people's training loops."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from adlrns_models._penalty import rank_penalty
from adlrns_models._record import record
from adlrns_models._recording import Recording
from adlrns_models._trainer_config import TrainConfig
from adlrns_models._trainer_ranks import has_dynamic, spent


class PenaltyTerm:
    """The term ``weight * rank_penalty(ran, alpha, beta)`` of an objective.

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
        self._listening = ExitStack()
        self._ran: Recording | None = None

    def begin(self, model: nn.Module) -> None:
        """Refuses a model whose ranks cannot move."""
        if not has_dynamic(model):
            raise ValueError("model must have a dynamic layer for a rank penalty, got none")
        self.times, self.last = 0, {}

    @torch.compiler.disable
    def listen(self, model: nn.Module) -> None:
        """Records what runs from now on, and forgets what ran."""
        self.rest()
        self._ran = self._listening.enter_context(record(model))

    @torch.compiler.disable
    def of_pass(self) -> Tensor:
        """Returns the term for what has run since; the recording ends."""
        ran = self._ran
        assert ran is not None, "listen before the pass"
        self.rest()
        penalty = rank_penalty(ran, alpha=self.alpha, beta=self.beta) if ran else torch.zeros(())
        self.last = {"rank_penalty": float(penalty.detach())}
        self.last["mean_flops"] = spent(ran) or 0.0
        self.times += 1
        return self.weight * penalty

    def rest(self) -> None:
        """Ends a recording that may be under way."""
        self._ran = None
        self._listening.close()

    def end(self) -> None:
        """Says if it never had a say."""
        self.rest()
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
