"""The rank penalty for Lightning."""

import importlib
from typing import Any

from torch import Tensor, nn

from adlrns_models._callbacks_penalty import PenaltyTerm


def lightning_callback(
    energy_penalty_weight: float = 0.01, *, alpha: float = 1.0, beta: float = 0.1
) -> Any:
    """Returns a ``lightning.pytorch.Callback`` that adds the rank penalty to the training loss.

    The objective of each step is then ``loss + energy_penalty_weight * rank_penalty(ran, alpha,
    beta)``, also with gradient accumulation; ``rank_penalty`` and ``mean_flops`` are logged by the
    module. Only for automatic optimization: with manual optimization add ``rank_penalty`` yourself.

    Args:
        energy_penalty_weight: weight of the penalty.
        alpha: weight of the FLOPs in it.
        beta: weight of the memory in it.

    Raises:
        ImportError: naming the extra ``lightning`` that brings it.
        ValueError, TypeError: for weights that are negative or no numbers.
    """
    try:
        base = importlib.import_module("lightning.pytorch").Callback
    except ImportError as error:
        raise ImportError(
            'lightning_callback needs Lightning: pip install "adlrns-models[lightning]"'
        ) from error
    term = PenaltyTerm(energy_penalty_weight, alpha, beta)
    return type("RankPenaltyCallback", (_Listener, base), {})(term)


class _Listener:
    """What the callback does; its base class is found when it is wanted."""

    def __init__(self, term: PenaltyTerm):
        self.term = term

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Refuses what it cannot add to."""
        del trainer
        if not pl_module.automatic_optimization:
            raise ValueError("pl_module must use automatic optimization, got a manual one")
        self.term.begin(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, *args: Any) -> None:
        """Records what the step runs."""
        del trainer, args
        self.term.listen(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *args: Any) -> None:
        """Ends the recording, so that what is validated is none of it."""
        del trainer, pl_module, args
        self.term.rest()

    def on_exception(self, trainer: Any, pl_module: nn.Module, exception: BaseException) -> None:
        """Ends the recording."""
        del trainer, pl_module, exception
        self.term.rest()

    def on_before_backward(self, trainer: Any, pl_module: nn.Module, loss: Tensor) -> None:
        """Adds the penalty to the loss that the backward pass begins at."""
        extra = self.term.of_pass() / trainer.accumulate_grad_batches
        loss.add_(extra.to(loss.device))  # in place: what a listener returns is not looked at
        self.term.listen(pl_module)  # some optimizers run a step's passes several times
        pl_module.log_dict(self.term.last, batch_size=1)  # type: ignore[operator]

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Says if the penalty never had a say."""
        del trainer, pl_module
        self.term.end()
