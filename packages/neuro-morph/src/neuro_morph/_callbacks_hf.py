"""Growth while the Hugging Face Trainer trains."""

from typing import Any, Self

import torch
from torch import Tensor, nn

from neuro_morph._callbacks import PolicyCallback, joined


class MorphTrainerCallback(PolicyCallback):
    """A ``transformers.TrainerCallback`` that grows the model while the ``Trainer`` trains it.

    After every optimizer step it calls :meth:`GrowthPolicy.step`. For one process; the model must
    return its loss, as those of the library do when they are given labels.

    Args:
        loss_fn: see :class:`GrowthPolicy`; it is given the network.
        batches: see :class:`GrowthPolicy`.
        validation: see :class:`GrowthPolicy`.
        example_inputs: what the network is called with (see :class:`Morpher`).
        part: the path of the network in the model; empty for the model itself.
        budget: see :class:`GrowthPolicy`.
        settings: see :class:`GrowthPolicy`.
        morpher: settings of the :class:`Morpher`, by name.

    Raises:
        ImportError: naming the extra ``hf`` that brings transformers.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Returns an object that is a callback of the Trainer too."""
        return object.__new__(joined(cls, "transformers", "TrainerCallback", "hf"))

    def on_train_begin(self, args: Any, state: Any, control: Any, **held: Any) -> None:
        """Makes the policy."""
        del state, control
        model: nn.Module = held["model"]
        optimizer = held["optimizer"]
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate's wrapper makes no steps
        self.begin(model, [inner], args.world_size)
        self._losses: list[Tensor] = []
        self._resting = False
        self._hook = model.register_forward_hook(self._listen)

    def on_step_end(self, args: Any, state: Any, control: Any, **held: Any) -> None:
        """Asks whether to grow; the loss is the mean of the step's batches."""
        del args, state, control, held
        if not self._losses:
            raise ValueError("the model must return its loss for growth to be decided by it")
        loss, self._losses = torch.stack(self._losses).mean(), []
        self._resting = True  # trials run the model too
        try:
            self.advance(loss)
        finally:
            self._resting = False

    def on_train_end(self, args: Any, state: Any, control: Any, **held: Any) -> None:
        """Leaves the model without a listener."""
        del args, state, control, held
        self._hook.remove()
        self.end()

    def _listen(self, model: nn.Module, args: Any, output: Any) -> None:
        loss = output[0] if isinstance(output, tuple) else getattr(output, "loss", None)
        if isinstance(output, dict):
            loss = output.get("loss")
        if model.training and not self._resting and isinstance(loss, Tensor) and not loss.dim():
            self._losses.append(loss.detach())
