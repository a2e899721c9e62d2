"""How many optimizer steps there were: fused ones change parameters without saying so."""

from typing import Any

from torch.optim.optimizer import register_optimizer_step_post_hook

taken = 0  # by all optimizers of the process


def _after(*_: Any) -> None:
    global taken  # noqa: PLW0603
    taken += 1


register_optimizer_step_post_hook(_after)
