"""What the callbacks for other people's training loops have in common."""

import importlib
import inspect
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn
from torch.optim import Optimizer

from neuro_morph._budget import Budget
from neuro_morph._event import MorphogenesisEvent
from neuro_morph._morpher import Morpher
from neuro_morph._policy import GrowthPolicy
from neuro_morph._policy_settings import PolicySettings
from neuro_morph._tapping import LossFn

_SETTINGS = set(inspect.signature(Morpher).parameters) - {"model", "optimizer", "example_inputs"}


class PolicyCallback:
    """Makes a :class:`GrowthPolicy` when training begins, and steps it.

    Attributes:
        policy: the policy while and after the model trains, None before.
    """

    def __init__(
        self,
        loss_fn: LossFn,
        batches: Sequence[Any],
        validation: Sequence[Any],
        *,
        example_inputs: Any = None,
        part: str = "",
        budget: Budget | None = None,
        settings: PolicySettings | None = None,
        **morpher: Any,
    ) -> None:
        name = type(self).__name__
        if example_inputs is None:
            raise TypeError(f"{name} needs example_inputs, what the network is called with")
        if unknown := sorted(set(morpher) - _SETTINGS):
            raise TypeError(
                f"{name} takes settings of Morpher among {', '.join(sorted(_SETTINGS))}; "
                f"got {unknown[0]!r}"
            )
        self.policy: GrowthPolicy | None = None
        self._data = loss_fn, batches, validation
        self._limits = {"budget": budget, "settings": settings}
        self._part, self._settings = part, {"example_inputs": example_inputs, **morpher}

    @property
    def events(self) -> list[MorphogenesisEvent]:
        """All that was done, refused or rolled back."""
        return [] if self.policy is None else self.policy.morpher.events

    def begin(self, model: nn.Module, optimizers: Iterable[Optimizer], processes: int) -> None:
        """Makes the policy.

        Raises:
            ValueError: for several processes, or the path of no module.
        """
        if processes > 1:
            raise ValueError(
                f"growth in this loop needs one process, got {processes}: the loop keeps the "
                "wrapper of the old network; use Morpher.rewrap in a loop of your own"
            )
        network = _network(model, self._part)
        run = Morpher(network, optimizers, **self._settings)
        self.policy = GrowthPolicy(run, *self._data, **self._limits)  # type: ignore[arg-type]

    def advance(self, loss: Any) -> MorphogenesisEvent | None:
        """Counts a step of the optimizer; returns what has grown."""
        assert self.policy is not None, "begin before the first step"
        return self.policy.step(loss)

    def end(self) -> None:
        """Takes the policy off the optimizers."""
        if self.policy is not None:
            self.policy.close()


def joined(kind: type, module: str, base: str, extra: str) -> type:
    """Returns a class that is also one of another package, looked for when it is wanted.

    Raises:
        ImportError: naming the extra that brings the package.
    """
    try:
        found = getattr(importlib.import_module(module), base)
    except ImportError as error:
        raise ImportError(
            f'{kind.__name__} needs {module}: pip install "neuro-morph[{extra}]"'
        ) from error
    return kind if issubclass(kind, found) else type(kind.__name__, (kind, found), {})


def _network(model: nn.Module, part: str) -> nn.Module:
    try:
        return model.get_submodule(part)
    except AttributeError:
        known = ", ".join(name for name, _ in model.named_children())
        raise ValueError(f"part must be the path of a module ({known}), got {part!r}") from None
