"""What training minimises: loss, rank penalty, and what the full rank teaches the others."""

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models._penalty import rank_penalty
from adlrns_models._record import record
from adlrns_models._recording import Recording
from adlrns_models._trainer_config import TrainConfig
from adlrns_models._trainer_ranks import (
    at_share,
    deciding_together,
    has_ranks,
    spent,
    within_budget,
)

Loss = Callable[[Any, Any], Tensor]
_DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


class Outcome(NamedTuple):
    """What one batch came to: tensors of no dimension but for the numbers at the end."""

    total: Tensor
    loss: Tensor
    penalty: Tensor
    correct: Tensor
    judged: int
    rows: int
    flops: float | None


def cross_entropy(output: Any, target: Tensor) -> Tensor:
    """Returns the mean cross entropy of ``output [..., classes]`` and integer ``target [...]``.

    Targets of -100 do not count.
    """
    scores = logits(output)
    return F.cross_entropy(scores.flatten(0, -2), target.flatten())


class Objective(nn.Module):
    """``loss + energy_penalty_weight * rank_penalty``, and the sandwich if it is on.

    One module, so that distributed training sees one forward and one backward pass whatever they
    are made of.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, loss: Loss | None):
        super().__init__()
        if config.sandwich and not has_ranks(model):
            raise ValueError("sandwich must be 0 for a model without adaptive or dynamic layers")
        self.model, self.config, self.loss = model, config, loss

    def forward(self, batch: Any, step: int) -> Outcome:
        """Returns the outcome of a batch; ``step`` decides which ranks the sandwich draws."""
        device = next(self.model.parameters()).device
        dtype = _DTYPES.get(self.config.precision)
        with torch.autocast(device.type, dtype=dtype, enabled=dtype is not None):
            if not (self.training and self.config.sandwich):
                return self._gated(batch)
            taught = self._sandwich(batch, step)
            outcome = self._gated(batch)
            return outcome._replace(total=outcome.total + taught)

    def _gated(self, batch: Any) -> Outcome:
        config = self.config
        budget = within_budget(self.model, config.energy_budget_mj_per_sample, config.calls_of)
        with budget, record(self.model) as ran:
            output, target = self._run_together(batch)
        loss = self._loss(output, target)
        extra = self._penalty(ran).to(loss.device)
        total = loss + config.energy_penalty_weight * extra
        correct, judged = _hits(output, target)
        rows = _row_count(batch)
        return Outcome(total, loss.detach(), extra.detach(), correct, judged, rows, spent(ran))

    def _penalty(self, ran: Recording) -> Tensor:
        config = self.config
        if not ran:  # a pass may leave all dynamic layers out
            return torch.zeros(())
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.energy_penalty_weight > 0):
            return rank_penalty(ran, alpha=config.alpha, beta=config.beta)

    def _run_together(self, batch: Any) -> tuple[Any, Any]:
        if not self.training:  # workers may judge by different numbers of batches
            return run(self.model, batch)
        with deciding_together(self.model):
            return run(self.model, batch)

    def _sandwich(self, batch: Any, step: int) -> Tensor:
        """Returns the loss of the full rank plus what it teaches the smallest and random ranks.

        Yu & Huang 2019, "Universally slimmable networks", sections 3.2 and 3.3.
        """
        with at_share(self.model, 1.0):
            teacher, target = run(self.model, batch)
        total = self._loss(teacher, target)
        for share in shares(self.config.sandwich, self.config.seed, step):
            with at_share(self.model, share):
                student, _ = run(self.model, batch)
            total = total + self.config.distill_weight * _distance(student, teacher, target)
        return total

    def _loss(self, output: Any, target: Any) -> Tensor:
        if self.loss is not None:
            return self.loss(output, target)
        own = None if isinstance(output, Tensor) else _held(output, "loss")
        return cross_entropy(output, target) if own is None else own


def run(model: nn.Module, batch: Any) -> tuple[Any, Any]:
    """Returns the model's output for a batch, and the target."""
    if isinstance(batch, Mapping):
        return model(**batch), batch.get("labels")
    if isinstance(batch, list | tuple) and len(batch) == 2:
        return model(batch[0]), batch[1]
    raise TypeError(
        f"a batch must be a pair (input, target) or a dict of the model's arguments, got "
        f"{type(batch).__name__}"
    )


def shares(count: int, seed: int, step: int) -> list[float]:
    """Returns where between the smallest and the largest rank each pass of a sandwich runs.

    The same on all workers: it depends on ``seed`` and ``step`` alone.

    Example:
        >>> [round(share, 2) for share in shares(3, 0, 7)] == [round(s, 2) for s in shares(3, 0, 7)]
        True
    """
    draw = random.Random(f"{seed} {step}")
    return [0.0, *(draw.random() for _ in range(count - 1))][:count]


def logits(output: Any) -> Tensor:
    """Returns the scores in an output: itself, or what it holds under that name."""
    scores = _held(output)
    if scores is None:
        raise TypeError(f"output must be a tensor or hold logits, got {type(output).__name__}")
    return scores


def _held(output: Any, name: str = "logits") -> Tensor | None:
    if isinstance(output, Tensor):
        return output
    value = output.get(name) if isinstance(output, Mapping) else getattr(output, name, None)
    return value if isinstance(value, Tensor) else None


def _distance(student: Any, teacher: Any, target: Any) -> Tensor:
    """Returns Kullback-Leibler divergence for classes, squared error for anything else."""
    here, there = logits(student), logits(teacher).detach()
    if not _is_classes(there, target):
        return F.mse_loss(here, there)
    here, there = (scores.flatten(0, -2).log_softmax(-1) for scores in (here, there))
    return F.kl_div(here, there, reduction="batchmean", log_target=True)


def _is_classes(scores: Tensor, target: Any) -> bool:
    whole = isinstance(target, Tensor) and not target.is_floating_point()
    return bool(whole and target.shape == scores.shape[:-1])


def _hits(output: Any, target: Any) -> tuple[Tensor, int]:
    """Returns how many targets are the highest score, and how many there are; 0 if not classes."""
    scores = _held(output)
    if scores is None or not _is_classes(scores, target):
        return torch.zeros(()), 0
    counts = target != -100
    return ((scores.argmax(-1) == target) & counts).sum(), int(counts.sum())


def _row_count(batch: Any) -> int:
    values = batch.values() if isinstance(batch, Mapping) else batch
    return next((len(v) for v in values if isinstance(v, Tensor) and v.ndim), 1)
