import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from layer_importance import (
    BatchEvent,
    Method,
    MethodScores,
    ParameterEvent,
    PassMethod,
    Score,
    Subject,
    SweepMethod,
    UnitEvent,
)
from layer_importance._methods import BUILT_IN
from layer_importance._registry import registry
from layer_importance.testing import LAWS, check_method

Progress = Callable[[str, int], None]
STEPS = {
    "batch_split": "every batch is a step",
    "batch_order": "steps depend on what came before",
    "loss_scale": "the penalty does not scale with the loss",
}
HALVES = {
    "batch_split": "support and query are the halves of a batch",
    "sample_order": "support and query are the halves of a batch",
    "loss_scale": "a step of fixed rate gains with the square of the gradient",
}
ITSELF = "a sample is compared with every other, and is now among them"
SMALLER: dict[str, dict[str, Any]] = {
    "hessian_trace": {"probes": 8},
    "uncertainty_quantification": {"draws": 2},
    "learned_gates": {"steps": 4},
    "conductance": {"points": 2},
    "attention_maps": {"samples": 48},
}
SKIP: dict[str, dict[str, str]] = {
    "learned_gates": STEPS,
    "meta_learning": HALVES,
    "layer_correlation": {"duplicates": ITSELF},
    "topology_analysis": {"duplicates": ITSELF},
    "information_bottleneck": {
        "duplicates": "twins are on both sides of the probe's split",
        "loss_scale": "labels, but no loss",
    },
    "bridgeability": {"sample_size": "of few samples, a worse bridge is learned"},
    "uncertainty_delta": {"loss_scale": "the prior does not scale with the loss"},
    "attention_maps": {"sample_size": "the units of that model do not attend"},
}
DRAWN = {"causal_analysis", "attribution_patching", "conductance", "hessian_trace"}


@pytest.mark.parametrize("method", BUILT_IN, ids=lambda method: method.name)
def test_every_method_of_the_package_keeps_every_law(method: type[Method]) -> None:
    name = method.name
    found = check_method(
        lambda: method(**SMALLER.get(name, {})),
        exact=False if name in DRAWN else None,
        skip=SKIP.get(name),
    )
    assert list(found) == list(LAWS)
    assert found["determinism"] == found["reads_the_unit"] == found["untouched"] == "holds"
    assert (found["zero_branch"] == "holds") == (method.direction == "importance")


# fakes


class Fake(PassMethod):
    name = "fake"
    value: ClassVar[Callable[..., float]]

    def passes(self, units: int) -> tuple[float, float]:
        return 2.0 + 2.0 * units, 2.0 * units

    def run(self, subject: Subject, progress: Progress) -> MethodScores:
        return self.result(
            {
                unit.name: Score(self.of(subject, place), 0.0, 1)
                for place, unit in enumerate(subject.units)
            }
        )

    def of(self, subject: Subject, place: int) -> float:
        raise NotImplementedError


def _loss(subject: Subject) -> float:
    """Mean over all samples."""
    with torch.no_grad():
        found = [subject.losses(subject.forward(b), b) for b in subject.batches()]
    return float(torch.cat(found).mean())


class Constant(Fake):
    def of(self, subject: Subject, place: int) -> float:
        return 0.5


class Position(Fake):
    def of(self, subject: Subject, place: int) -> float:
        return place / len(subject.units)


class Random(Fake):
    def of(self, subject: Subject, place: int) -> float:
        return float(torch.rand(()))


class SeededRandom(Fake):
    def of(self, subject: Subject, place: int) -> float:
        return float(torch.rand((), generator=torch.Generator().manual_seed(place)))


class TrainEvalShap(Fake):
    measure = "nats"
    needs = frozenset({"data", "labels"})

    def of(self, subject: Subject, place: int) -> float:
        module = subject.module(subject.units[place])
        before = _loss(subject)
        module.train()
        after = _loss(subject)
        module.eval()
        return abs(after - before)


class LayerIndependentDropout(Fake):
    measure = "nats"
    needs = frozenset({"data", "labels"})

    def of(self, subject: Subject, place: int) -> float:
        torch.manual_seed(0)
        subject.model.train()
        noisy = _loss(subject)
        subject.model.eval()
        return abs(noisy - _loss(subject)) + 1e-6 * place


class NoisePatching(Fake):
    measure = "nats"
    needs = frozenset({"data", "labels"})

    def of(self, subject: Subject, place: int) -> float:
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(1, 4, 8, generator=generator, dtype=torch.float64)
        before = _loss(subject)
        handle = subject.module(subject.units[place]).register_forward_hook(
            lambda module, args, output: output + row
        )
        after = _loss(subject)
        handle.remove()
        return after - before


class Rounds(Fake):
    """Reads the weights, and leaves them a little different."""

    def of(self, subject: Subject, place: int) -> float:
        weights = [p for p in subject.module(subject.units[place]).parameters() if p.any()]
        value = sum(float(p.detach().abs().sum()) for p in weights)
        with torch.no_grad():
            for weight in weights[:1]:
                weight[0, 0] = weight[0, 0].float().double()
        return value


class MoreThanDeclared(TrainEvalShap):
    """Leave one out by a whole run a unit; says that it takes one run in all."""

    def passes(self, units: int) -> tuple[float, float]:
        return 1.0, 0.0

    def of(self, subject: Subject, place: int) -> float:
        module, before = subject.module(subject.units[place]), _loss(subject)
        handle = module.register_forward_hook(lambda module, args, output: args[0])
        after = _loss(subject)
        handle.remove()
        return after - before


class Kept(SweepMethod):
    """A sweep method that keeps one number a unit, however it likes."""

    name = "kept"

    def __init__(self) -> None:
        self.kept: dict[str, list[float]] = {}

    def scores(self) -> MethodScores:
        return self.result(
            {name: Score(sum(v) / len(v), 0.0, len(v)) for name, v in self.kept.items()}
        )

    def state(self) -> dict[str, Tensor]:
        return {name: torch.tensor(v, dtype=torch.float64) for name, v in self.kept.items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        for name, values in state.items():
            self.kept.setdefault(name, []).extend(values.tolist())


class BatchSquaredFisher(Kept):
    """The square of the gradient of a batch's mean loss."""

    measure = "nats^2"
    needs = frozenset({"data", "labels", "parameter_gradients"})

    def begin(self, subject: Subject) -> None:
        self.subject = subject

    def batch(self, event: BatchEvent) -> None:
        for unit in self.subject.units:
            gradients = [p.grad for p in self.subject.module(unit).parameters()]
            square = sum(float(g.square().sum()) for g in gradients if g is not None)
            self.kept.setdefault(unit.name, []).append(square / len(event.losses) ** 2)


class LastSampleFisher(Kept):
    """Each sample overwrites the one before."""

    measure = "nats^2"
    needs = frozenset({"data", "labels", "per_sample"})

    def parameters(self, event: ParameterEvent) -> None:
        self.kept[event.unit.name] = [float(event.squares[-1])]

    def merge(self, state: Mapping[str, Tensor]) -> None:
        self.kept |= {name: values.tolist() for name, values in state.items()}


class WrongUnit(Kept):
    """A Fisher that says it is in nats."""

    measure = "nats"
    needs = frozenset({"data", "labels", "per_sample"})

    def parameters(self, event: ParameterEvent) -> None:
        self.kept.setdefault(event.unit.name, []).extend(event.squares.tolist())


class Streams(Kept):
    """Keeps the streams of units, each sample flattened, in order of their content."""

    def __init__(self) -> None:
        super().__init__()
        self.x: dict[str, list[Tensor]] = {}
        self.y: dict[str, list[Tensor]] = {}

    def unit(self, event: UnitEvent) -> None:
        self.x.setdefault(event.unit.name, []).append(event.x.flatten(1))
        self.y.setdefault(event.unit.name, []).append(event.y.flatten(1))

    def scores(self) -> MethodScores:
        return self.result(
            {
                name: Score(self.of(torch.cat(self.x[name]), torch.cat(self.y[name])))
                for name in self.x
            }
        )

    def of(self, x: Tensor, y: Tensor) -> float:
        raise NotImplementedError

    def state(self) -> dict[str, Tensor]:
        rows = {f"{name}/x": torch.cat(x) for name, x in self.x.items()}
        return rows | {f"{name}/y": torch.cat(y) for name, y in self.y.items()}

    def merge(self, state: Mapping[str, Tensor]) -> None:
        for key, rows in state.items():
            name, _, which = key.rpartition("/")
            (self.x if which == "x" else self.y).setdefault(name, []).append(rows)


class BiasedCka(Streams):
    def of(self, x: Tensor, y: Tensor) -> float:
        x, y = x - x.mean(0), y - y.mean(0)
        cross, own = (x.T @ y).square().sum(), (x.T @ x).norm() * (y.T @ y).norm()
        return float(1 - cross / own)


class SaturatedInformation(Streams):
    """Binned mutual information of input and output: every sample is alone in its bin."""

    measure = "bits"
    direction = "diagnostic"

    def of(self, x: Tensor, y: Tensor) -> float:
        bins = [torch.floor(t * 1e3).unique(dim=0, return_counts=True)[1] for t in (x, y)]
        joint = torch.floor(torch.cat([x, y], 1) * 1e3).unique(dim=0, return_counts=True)[1]
        entropies = [-(p * p.log2()).sum() for p in (b / len(x) for b in (*bins, joint))]
        return float(entropies[0] + entropies[1] - entropies[2])


class Nans(Kept):
    def unit(self, event: UnitEvent) -> None:
        weight = sum(float(p.detach().sum()) for p in self.subject.module(event.unit).parameters())
        self.kept[event.unit.name] = [weight * torch.nan]

    def begin(self, subject: Subject) -> None:
        self.subject = subject


class Silent(Kept):
    """Says nothing of the last unit, and not why."""

    def unit(self, event: UnitEvent) -> None:
        self.kept[event.unit.name] = [float((event.y - event.x).square().mean())]

    def scores(self) -> MethodScores:
        found = super().scores()
        reasons = {"blocks.2": ""}
        scores = {name: score for name, score in found.items() if name not in reasons}
        return self.result(scores, missing=reasons)


FAKES = [
    (Constant, "reads_the_unit", "with weights and with zeros"),
    (Position, "reads_the_unit", "with weights and with zeros"),
    (SeededRandom, "reads_the_unit", "with weights and with zeros"),
    (SaturatedInformation, "reads_the_unit", "has 5.58"),
    (Random, "determinism", "the second time"),
    (TrainEvalShap, "determinism", "the second time"),
    (LayerIndependentDropout, "zero_branch", "adds nothing"),
    (NoisePatching, "zero_branch", "adds nothing"),
    (BatchSquaredFisher, "batch_split", "in four batches"),
    (LastSampleFisher, "batch_order", "batches turned around"),
    (BiasedCka, "sample_size", "on average over 32"),
    (WrongUnit, "loss_scale", "three times the loss"),
    (MoreThanDeclared, "passes", "6 forward passes a batch, 1 were declared"),
    (Rounds, "untouched", "after a run"),
    (Nans, "completeness", "blocks.0 has "),
    (Silent, "completeness", "blocks.2 has no score and no reason"),
]


@pytest.mark.parametrize("fake, law, why", FAKES, ids=[fake.__name__ for fake, *_ in FAKES])
def test_a_fake_is_rejected_for_what_is_wrong_with_it(
    fake: type[Method], law: str, why: str
) -> None:
    with pytest.raises(AssertionError, match=f"breaks {law}: .*{re.escape(why)}"):
        check_method(fake)


def test_what_fails_in_its_own_code_says_so() -> None:
    class Broken(Constant):
        def of(self, subject: Subject, place: int) -> float:
            raise KeyError("no such thing")

    with pytest.raises(KeyError, match="no such thing"):
        check_method(Broken)


def test_a_method_that_never_runs_does_not_pass() -> None:
    class Idle(Constant):
        def unmet(self, subject: Subject) -> str:
            return "not today"

    with pytest.raises(AssertionError, match="it did not run: not today"):
        check_method(Idle)


@pytest.mark.parametrize("skip", [{"no_such_law": "since"}, {"passes": ""}])
def test_only_laws_can_be_left_out_and_only_with_a_reason(skip: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="skip must give a reason for each of declaration"):
        check_method(Constant, skip=skip)


def test_the_kit_covers_all_methods_that_the_registry_knows_by_itself() -> None:
    assert {method.name for method in BUILT_IN} <= set(registry.names())
