"""What to do in a state."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from layer_importance import _batch
from layer_importance._task import Task, logits
from layer_importance._tasks._labels import checked_labels, cross_entropies, drawn, one_of

_ASKED = ("observations", "states", "obs")
_MISSING = "reinforcement_learning with objective {} needs {} in the batch, a mapping"


class ReinforcementLearning(Task):
    """What to do in each state: logits, or action values, ``[N, A]`` of ``A`` actions.

    A batch is a mapping with ``observations`` (what the model is called with) and ``actions``
    ``[N]``, and further entries that the objective reads; or ``(observations, actions)``.

    * ``policy``: ``-advantage * log pi(action)``, with ``advantages`` ``[N]`` (1 if not given), in
      nats times those (Williams 1992, REINFORCE). Labels drawn from the policy have advantage 1,
      so that sampled methods see the policy's own Fisher information.
    * ``kl``: ``KL(old || pi)`` in nats, with the recorded policy's logits ``old_logits``
      ``[N, A]``: 0 as long as the policy does what it did.
    * ``td``: half the squared temporal difference error ``r + discount * next_values * (1 - done) -
      Q(action)``, with ``rewards``, ``next_values`` and ``dones``, or ``targets`` that hold the
      first terms already. Next values are recorded ones: they do not change with the model.

    Quality is 1 where the best action is the recorded one.

    Args:
        objective: ``policy``, ``kl`` or ``td``. The last is no distribution to draw labels from.
        discount: what a value one step later is worth.
        inputs: see :class:`Task`.
        labels: see :class:`Task`; the default gives the actions with their advantages.
    """

    name = "reinforcement_learning"

    def __init__(
        self,
        *,
        objective: str = "policy",
        discount: float = 0.99,
        inputs: Callable[[Any], _batch.Call] | None = None,
        labels: Callable[[Any], Any] | None = None,
    ) -> None:
        super().__init__(inputs=inputs or _observed, labels=labels or _actions)
        self.objective = one_of("objective", objective, ("policy", "kl", "td"))
        if not 0 <= discount <= 1:
            raise ValueError(f"discount must be in 0..1, got {discount}")
        self.discount = discount
        self.measure = "squared return" if objective == "td" else "nats"

    @property
    def can_sample(self) -> bool:
        """Whether the model is a distribution over actions: not with ``td``."""
        return self.objective != "td"

    def count(self, labels: Any, batch: Any) -> int:
        """One sample a state."""
        actions, _ = _taken(labels)
        return super().count(actions, batch)

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """The objective of every state."""
        scores = _scores(output)
        actions, advantages = _taken(labels)
        actions = checked_labels(actions, scores)
        if self.objective == "td":
            target = _column(self._target(batch), scores, "targets")
            return (target - scores.gather(1, actions[:, None])[:, 0]).square() / 2
        if self.objective == "kl" and not _is_drawn(labels):
            return _divergence(batch, scores)
        nats = cross_entropies(scores, actions)
        return nats if advantages is None else nats * _column(advantages, scores, "advantages")

    def quality(self, output: Any, labels: Any, batch: Any) -> Tensor:
        """1 where the best action is the recorded one."""
        del batch
        scores = _scores(output)
        return (scores.argmax(-1) == checked_labels(_taken(labels)[0], scores)).double()

    def sample(self, output: Any, batch: Any, generator: torch.Generator) -> Any:
        """Draws an action for each state from the policy."""
        if not self.can_sample:
            return super().sample(output, batch, generator)
        return {"actions": drawn(_scores(output), generator), "drawn": True}

    def enumerate(self, output: Any, batch: Any) -> list[tuple[Any, Tensor]]:
        """Every action with its probability in each state."""
        if not self.can_sample:
            return super().enumerate(output, batch)
        probabilities = _scores(output).detach().double().softmax(-1)
        rows, actions = probabilities.shape
        every = [probabilities.new_full((rows,), a, dtype=torch.long) for a in range(actions)]
        return [
            ({"actions": one, "drawn": True}, probabilities[:, a]) for a, one in enumerate(every)
        ]

    def _target(self, batch: Any) -> Tensor:
        if isinstance(batch, Mapping) and "targets" in batch:
            return batch["targets"]
        names = ("rewards", "next_values", "dones")
        if not isinstance(batch, Mapping) or not all(name in batch for name in names):
            raise ValueError(_MISSING.format("td", f"targets, or {', '.join(names)}"))
        rewards, values, dones = (batch[name] for name in names)
        return rewards + self.discount * values * (1 - dones.to(values.dtype))


def _scores(output: Any) -> Tensor:
    scores = logits(output)
    if scores.ndim != 2:
        raise ValueError(f"reinforcement_learning needs [N, A], got {list(scores.shape)}")
    return scores


def _divergence(batch: Any, scores: Tensor) -> Tensor:
    old = batch.get("old_logits") if isinstance(batch, Mapping) else None
    if not isinstance(old, Tensor) or old.shape != scores.shape:
        raise ValueError(_MISSING.format("kl", f"old_logits of shape {list(scores.shape)}"))
    before = old.to(scores.dtype).log_softmax(-1)
    return (before.exp() * (before - scores.log_softmax(-1))).sum(-1)


def _column(values: Tensor, scores: Tensor, name: str) -> Tensor:
    if values.shape != scores.shape[:1]:
        raise ValueError(f"{name} must have shape [{len(scores)}], got {list(values.shape)}")
    return values.to(scores.dtype)


def _observed(batch: Any) -> _batch.Call:
    if isinstance(batch, Mapping):
        for name in _ASKED:
            if name in batch:
                return _batch.Call((batch[name],))
    return _batch.inputs(batch)


def _actions(batch: Any) -> Any:
    if isinstance(batch, Mapping) and "actions" in batch:
        return {key: batch[key] for key in ("actions", "advantages") if key in batch}
    return _batch.labels(batch)


def _taken(labels: Any) -> tuple[Any, Tensor | None]:
    if isinstance(labels, Mapping):
        return labels["actions"], labels.get("advantages")
    return labels, None


def _is_drawn(labels: Any) -> bool:
    return isinstance(labels, Mapping) and bool(labels.get("drawn"))
