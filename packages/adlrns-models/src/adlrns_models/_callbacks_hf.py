"""The rank penalty for the Hugging Face Trainer."""

import importlib
from typing import Any

from torch import nn

from adlrns_models._callbacks_penalty import PenaltyTerm, with_added_loss


def hf_callback(
    energy_penalty_weight: float = 0.01, *, alpha: float = 1.0, beta: float = 0.1
) -> Any:
    """Returns a ``transformers.TrainerCallback`` that adds the rank penalty to the model's loss.

    The objective of each step is then ``loss + energy_penalty_weight * rank_penalty(ran, alpha,
    beta)``, also with gradient accumulation; ``rank_penalty`` and ``mean_flops`` are logged beside
    the loss. Evaluation is not touched. The model must return its loss, as those of the library do
    when they are given labels.

    Args:
        energy_penalty_weight: weight of the penalty.
        alpha: weight of the FLOPs in it.
        beta: weight of the memory in it.

    Raises:
        ImportError: naming the extra ``hf`` that brings transformers.
        ValueError, TypeError: for weights that are negative or no numbers.

    Example:
        >>> from adlrns_models import hf_callback
        >>> callback = hf_callback(0.05)  # Trainer(..., callbacks=[callback])
    """
    try:
        base = importlib.import_module("transformers").TrainerCallback
    except ImportError as error:
        raise ImportError(
            'hf_callback needs transformers: pip install "adlrns-models[hf]"'
        ) from error
    term = PenaltyTerm(energy_penalty_weight, alpha, beta)
    return type("RankPenaltyCallback", (_Listener, base), {})(term)


class _Listener:
    """What the callback does; its base class is found when it is wanted."""

    def __init__(self, term: PenaltyTerm):
        self.term, self._hooks = term, []  # type: tuple[PenaltyTerm, list[Any]]

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins to add the penalty."""
        del state, control
        model: nn.Module = kwargs["model"]
        self.term.begin(model)

        def listen(module: nn.Module, inputs: Any) -> None:
            del inputs
            if module.training:
                self.term.listen(module)

        def add(module: nn.Module, inputs: Any, named: dict[str, Any], output: Any) -> Any:
            del inputs
            if not module.training:
                return output
            return with_added_loss(output, self.term.of_pass() * _share(args, named))

        self._hooks = [
            model.register_forward_pre_hook(listen),
            model.register_forward_hook(add, with_kwargs=True),
        ]

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts the numbers of the latest pass beside the loss."""
        del args, control
        logs = kwargs.get("logs") or {}
        if "loss" in logs and self.term.last:
            logs.update(self.term.last)
            state.log_history[-1].update(self.term.last)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Leaves the model as it was."""
        del args, state, control, kwargs
        if self._hooks:
            for hook in self._hooks:
                hook.remove()
            self._hooks = []
            self.term.end()


def _share(args: Any, named: dict[str, Any]) -> float:
    """Returns what to scale a term by that is to count once a step.

    A model that is told how many items a step has gives its part of their sum, which the trainer
    neither divides by the number of accumulated batches nor averages over processes.
    """
    if named.get("num_items_in_batch") is None:
        return 1.0
    processes = args.world_size if args.average_tokens_across_devices else 1
    return 1.0 / (args.gradient_accumulation_steps * processes)
