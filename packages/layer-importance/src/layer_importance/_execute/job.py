"""One try at taking units out: a copy changed in one way, and every check on it."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from layer_importance._batch import Call, size
from layer_importance._edits import Edit, removal
from layer_importance._execute import checks, files
from layer_importance._execute.compressed import Compressed
from layer_importance._execute.cut import Cut
from layer_importance._execute.saving import refuse_save_pretrained
from layer_importance._execute.stand_in import Refused, makes_more
from layer_importance._execute.surgery import ways_of
from layer_importance._preserve import preserved
from layer_importance._replay import Replay
from layer_importance._structure import tensors
from layer_importance._subject import Subject
from layer_importance._task import Task, logits
from layer_importance._units import Unit, Units


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done to which model.

    Attributes:
        model: stays as it is.
        example: one batch.
        call: what the model is called with for it.
        cut: what is to be taken out.
        source: where models of its architecture come from.
    """

    model: nn.Module
    example: Any
    call: Call
    cut: Cut
    source: files.Origin

    def attempt(self, name: str, variant: int) -> Compressed | str:
        """The compressed model, or why it is not what was asked for."""
        try:
            candidate, own = self._changed(name, variant)
        except Refused as error:
            return str(error)
        found: dict[str, str] = {}
        with checks.quiet(candidate):
            for check, function in _CHECKS.items():
                found[check] = self._checked(function, candidate)
                if not _holds(found[check]):
                    return f"{check} {found[check]}"
            for kind in self._kinds(name):
                found["reload"] = checks.outcome(self._reload, candidate, own, name, variant, kind)
                if _holds(found["reload"]):
                    return self._done(candidate, own, found, name, variant, kind)
        return f"reload {found['reload']}"

    def _changed(self, name: str, variant: int) -> tuple[nn.Module, Cut]:
        """A copy of the model without the units, and the cut with the copy's own bridges."""
        own = replace(self.cut, bridges=copy.deepcopy(dict(self.cut.bridges)))
        candidate = copy.deepcopy(self.model)
        ways_of(name)[variant](candidate, own)
        return candidate, own

    def _checked(self, function: Any, candidate: nn.Module) -> str:
        if function is checks.check_forward:
            return checks.outcome(function, candidate, self.call, self._expected())
        found = checks.outcome(function, candidate, self.call)
        if _holds(found):
            return found
        with checks.quiet(self.model):
            before = checks.outcome(function, self.model, self.call)
        return (
            found if before == checks.PASSED else f"{checks.NOT_APPLICABLE}: at first too {before}"
        )

    def _expected(self) -> list[Tensor]:
        """The answer with the units removed while the model runs, as methods remove them."""
        units = Units(self.cut.units)
        edits = {unit.name: self._edit(unit) for unit in units}
        with preserved(self.model, gradients=False):
            task = _Unjudged(self.call)
            with Replay(Subject(self.model, units, task, [self.example]), self.example) as replay:
                output = replay.run(edits)
        first = logits(output)
        return [first, *(t for t in tensors(output) if t.is_floating_point() and t is not first)]

    def _edit(self, unit: Unit) -> Edit:
        bridge, recipe = self.cut.bridges.get(unit.name), self.cut.recipes.get(unit.name)
        edit = removal(unit) if bridge is None else Edit(lambda x, y: bridge(x))
        # what it hands on beside its stream follows from what now comes in
        return replace(edit, runs=True) if recipe is None or makes_more(recipe) else edit

    def _kinds(self, name: str) -> tuple[files.Kind, ...]:
        plain = name == "compact" and self.source.name and not self.cut.bridges
        return ("plain", "recipe") if plain else ("recipe",)

    def _reload(
        self, candidate: nn.Module, own: Cut, name: str, variant: int, kind: files.Kind
    ) -> str:
        with checks.scratch() as folder:
            files.save(
                folder,
                candidate,
                cut=own,
                executor=name,
                variant=variant,
                source=self.source,
                kind=kind,
            )
            fresh = None if self.source.name else _scrambled(copy.deepcopy(self.model))
            again = files.load(folder, fresh, bridges=copy.deepcopy(dict(own.bridges)))
        again.to(next((p.device for p in candidate.parameters()), torch.device("cpu")))
        expected = checks.answers(candidate, self.call)
        with checks.quiet(again):
            return checks.check_forward(again, self.call, expected)

    def _done(
        self,
        candidate: nn.Module,
        own: Cut,
        found: dict[str, str],
        name: str,
        variant: int,
        kind: files.Kind,
    ) -> Compressed:
        if kind == "recipe":
            refuse_save_pretrained(candidate)
        return Compressed(
            model=candidate,
            executor=name,
            checks=found,
            attempts={},
            removed=tuple(unit.name for unit in self.cut.units),
            kept=(),
            parameters=sum(p.numel() for p in candidate.parameters()),
            parameters_before=sum(p.numel() for p in self.model.parameters()),
            _cut=own,
            _variant=variant,
            _source=self.source,
            _kind=kind,
        )


class _Unjudged(Task):
    """Any answer will do: only what the model says counts."""

    def __init__(self, call: Call) -> None:
        super().__init__(inputs=lambda batch: call, labels=lambda batch: None)

    def loss(self, output: Any, labels: Any, batch: Any) -> Tensor:
        return torch.zeros(size(batch))


_CHECKS = {
    "forward": checks.check_forward,
    "cache": checks.check_cache,
    "generate": checks.check_generate,
}


def _holds(outcome: str) -> bool:
    return outcome == checks.PASSED or outcome.startswith(checks.NOT_APPLICABLE)


@torch.no_grad()
def _scrambled(model: nn.Module) -> nn.Module:
    """The model with other weights: what is loaded must not have been there before."""
    for parameter in model.parameters():
        parameter.zero_()
    for module in model.modules():
        for name, buffer in module._buffers.items():
            if buffer is not None:  # a new one: an expanded tensor cannot be written into
                module._buffers[name] = torch.zeros_like(buffer)
    return model
