"""Growth while Lightning trains."""

from typing import Any, Self

from torch import nn

from neuro_morph._callbacks import PolicyCallback, joined


class MorphLightningCallback(PolicyCallback):
    """A ``lightning.pytorch.Callback`` that grows the module's network while it trains.

    After every optimizer step it calls :meth:`GrowthPolicy.step`. For automatic optimization in
    one process.

    Args:
        loss_fn: see :class:`GrowthPolicy`; it is given the network.
        batches: see :class:`GrowthPolicy`.
        validation: see :class:`GrowthPolicy`.
        example_inputs: what the network is called with (see :class:`Morpher`).
        part: the path of the network in the module; empty for the module itself.
        budget: see :class:`GrowthPolicy`.
        settings: see :class:`GrowthPolicy`.
        morpher: settings of the :class:`Morpher`, by name.

    Raises:
        ImportError: naming the extra ``lightning`` that brings it.
    """

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Returns an object that is a callback of Lightning too."""
        return object.__new__(joined(cls, "lightning.pytorch", "Callback", "lightning"))

    def on_train_start(self, trainer: Any, pl_module: nn.Module) -> None:
        """Makes the policy."""
        if not pl_module.automatic_optimization:
            raise ValueError("pl_module must use automatic optimization, got a manual one")
        self.begin(pl_module, trainer.optimizers, trainer.world_size)
        self._seen = trainer.global_step

    def on_train_batch_end(
        self, trainer: Any, pl_module: nn.Module, outputs: Any, *batch: Any
    ) -> None:
        """Asks whether to grow, if the optimizer has made a step."""
        del pl_module, batch
        if trainer.global_step > self._seen:
            self._seen = trainer.global_step
            self.advance(outputs["loss"] if isinstance(outputs, dict) else outputs)

    def on_train_end(self, trainer: Any, pl_module: nn.Module) -> None:
        """Stops listening."""
        del trainer, pl_module
        self.end()
