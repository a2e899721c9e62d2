"""Arguments that are plainly wrong are named where they are given, and nothing has changed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Adam
from torch.optim.lr_scheduler import StepLR
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import DataLoader, TensorDataset

from neuro_morph import (
    AntisymmetricPair,
    ArchitectureSpec,
    BackOff,
    Budget,
    Connect,
    Deepen,
    Divide,
    Duplicate,
    GrowthGraph,
    GrowthPlan,
    GrowthPolicy,
    GrowthRefusedError,
    Morpher,
    NeST,
    Period,
    Plateau,
    Saturation,
    Snapshot,
    SparseGrowth,
    Split,
    SplitSteepest,
    Together,
    Tournament,
    Widen,
    apply_within,
    collect_statistics,
    erk_densities,
    fit_config,
    fitting,
    load_checkpoint,
    propose_units,
    save_checkpoint,
    scores_of,
    set_unit_rates,
    splitting_of,
)

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


NET = mlp()
ADAM = Adam(NET.parameters())
SCHEDULE, AVERAGE = StepLR(ADAM, 1), AveragedModel(NET)
LOADER: Any = DataLoader(TensorDataset(X, X[:, :3]), 3)


def run(optimizer: Any = ADAM, **settings: Any) -> Morpher:
    settings = {"example_inputs": X, "capture": "dispatch", **settings}
    return Morpher(NET, optimizer, **settings)


def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
    return (model(batch[0]) - batch[1]).square()


def tournament(batches: Any = tuple(LOADER), **settings: Any) -> Tournament:
    settings = {"morpher": run(), "loss_fn": loss_fn, "validation": tuple(LOADER), **settings}
    return Tournament(batches=batches, **settings)


def policy() -> GrowthPolicy:
    return GrowthPolicy(run(), loss_fn, tuple(LOADER), tuple(LOADER))


def plan() -> GrowthPlan:
    return GrowthPlan(run(), at=[0.0], total_steps=2)


FILE: Any = Path("nowhere")
WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a tolerance below 0": (lambda: run(tolerance=-1), "tolerance must be at least 0, got -1"),
    "a tolerance of NaN": (lambda: run(tolerance=float("nan")), "tolerance must be at least 0"),
    "a tolerance in words": (lambda: run(tolerance="a"), "tolerance must be a number, got 'a'"),
    "an unknown capture": (lambda: run(capture="foo"), "capture must be one of .*, got 'foo'"),
    "a seed in words": (lambda: run(seed="a"), "seed must be an integer, got 'a'"),
    "outputs that are a name": (lambda: run(outputs="y"), "outputs must be a list of names, got"),
    "unused that is a name": (lambda: run(unused="0"), "unused must be a list of names, got str"),
    "a number among others": (lambda: run(others=[3]), "others must be .*, got int in it"),
    "others alone": (lambda: run(others=SCHEDULE), "others must be a list of .*, got StepLR"),
    "an average alone": (lambda: run(averages=AVERAGE), "averages must be a list of modules, got"),
    "a number among averages": (lambda: run(averages=[3]), "averages must be .*, got int in it"),
    "parameters for an optimizer": (lambda: run(NET.parameters()), "optimizer must be an Opt"),
    "a scheduler for an optimizer": (lambda: run(SCHEDULE), "optimizer must be .*, got StepLR"),
    "a class for an optimizer": (lambda: run(Adam), "optimizer must be .*, got the class Adam"),
    "a spec that is none": (lambda: run(spec=3), "spec must be an ArchitectureSpec, got int"),
    "init in words": (lambda: Widen("0", 2, init=_any("split")), "init must be a UnitInit, got s"),
    "init as a class": (lambda: Widen("0", 2, init=_any(Split)), "init must be .* the class Split"),
    "a module for a group": (lambda: Widen(_any(NET[0]), by=2), "group must be a str, got Linear"),
    "a name for an edit": (lambda: run().apply(_any("0")), "edit must be an Edit, got str"),
    "several edits": (lambda: run().apply(_any([Widen("0", 1)])), "edit must be an Edit, got list"),
    "one edit for several": (lambda: Together(_any(Widen("0", 1))), "edits must be a list of edit"),
    "names for edits": (lambda: Together(_any(["0"])), "edits must be a list of edits, got str in"),
    "a module to connect": (lambda: Connect(_any(NET[0]), "2"), "source must be a str, got Linear"),
    "half a rank": (lambda: Connect("0", "2", rank=_any(2.5)), "rank must be an integer, got 2.5"),
    "half a unit": (lambda: Deepen("0", hidden=_any(2.5)), "hidden must be an integer, got 2.5"),
    "a kernel in words": (lambda: Deepen("0", kernel=_any("3")), "kernel must be an integer, got"),
    "a module to follow": (lambda: Deepen(_any(NET[0])), "after must be a str, got Linear"),
    "a share in words": (lambda: Split(share=_any("a")), "share must be a number, got 'a'"),
    "a share of 3": (lambda: Duplicate(share=3), "share must be between 0 and 1, got 3"),
    "steps in words": (lambda: Divide((0,), steps=_any("a")), "steps must be an integer, got 'a'"),
    "no statistics": (lambda: NeST(_any(3)), "statistics must be a Statistics, got int"),
    "no splitting": (lambda: SplitSteepest("0", 1, _any(3)), "splitting must be a Splitting, got"),
    "a model for a path": (
        lambda: save_checkpoint(_any(NET), _any(FILE), ArchitectureSpec()),
        "path must be the path of a file, got Sequential",
    ),
    "an optimizer for a spec": (
        lambda: save_checkpoint(FILE, NET, _any(ADAM)),
        "spec must be an ArchitectureSpec, got Adam",
    ),
    "a scheduler to save": (
        lambda: save_checkpoint(FILE, NET, ArchitectureSpec(), _any(SCHEDULE)),
        "optimizer must be an Optimizer, got StepLR",
    ),
    "a path to load into": (
        lambda: load_checkpoint(FILE, _any("net")),
        "model must be a torch.nn.Module, got str",
    ),
    "a loader of batches": (lambda: tournament(LOADER), "batches must be a sequence of batches"),
    "a loader to validate": (
        lambda: tournament(validation=LOADER),
        "validation must be a sequence of batches, as list.loader. gives, got DataLoader",
    ),
    "a model for a run": (lambda: tournament(morpher=NET), "morpher must be a Morpher, got Seq"),
    "half a step": (lambda: tournament(steps=1.5), "steps must be an integer, got 1.5"),
    "a loss": (lambda: tournament(loss_fn=0.5), "loss_fn must be a function, got float"),
    "a number for a budget": (lambda: tournament(budget=3), "budget must be a Budget, got int"),
    "a gain in words": (lambda: tournament(min_gain="a"), "min_gain must be a number, got 'a'"),
    "a candidate alone": (
        lambda: tournament().run(_any(Widen("0", by=1))),
        "candidates must be a list of edits, got Widen",
    ),
    "one time to grow": (lambda: GrowthPlan(run(), at=_any(0.5)), "at must be parts .*, got 0.5"),
    "times in words": (lambda: GrowthPlan(run(), at="ab"), "at must be parts .*, got 'ab'"),
    "sizes in words": (lambda: GrowthPlan(run(), _any("a")), "sizes must be a number, got 'a'"),
    "a size in words": (lambda: GrowthPlan(run(), {"0": _any("a")}), "sizes must be a number"),
    "a plan of a model": (lambda: GrowthPlan(_any(NET)), "morpher must be a Morpher, got Seque"),
    "a model to count": (
        lambda: apply_within(_any(NET), Widen("0", by=1), Budget()),
        "morpher must be a Morpher, got Sequential",
    ),
    "a model to fit": (lambda: fitting(_any(NET), Widen("0", by=1), Budget()), "morpher must be a"),
    "a model's rates": (lambda: set_unit_rates(_any(NET), "0", [0], 0.1), "morpher must be a Mo"),
    "a model's configuration": (lambda: fit_config(_any(NET)), "morpher must be a Morpher, got S"),
    "a budget in words": (lambda: Budget(parameters=_any("a")), "parameters must be a number, go"),
    "a name to split": (
        lambda: splitting_of(NET, _any("0"), tuple(LOADER), loss_fn),
        "group must be a GrowthGroup, got str",
    ),
    "a run for a graph": (
        lambda: collect_statistics(NET, _any(run()), tuple(LOADER), loss_fn),
        "graph must be a GrowthGraph, got Morpher",
    ),
    "a run for a model": (
        lambda: collect_statistics(_any(run()), run().graph, tuple(LOADER), loss_fn),
        "model must be a torch.nn.Module, got Morpher",
    ),
    "a run to score": (lambda: scores_of(_any(run())), "statistics must be a Statistics, got Mo"),
    "a name to propose for": (
        lambda: propose_units(_any("0"), 1),
        "statistics must be a GroupStatistics, got str",
    ),
    "a list of shapes": (lambda: erk_densities(_any([(3, 4)]), 0.1), "shapes must be a Mapping"),
    "a density in words": (
        lambda: SparseGrowth(NET, _any("a"), optimizer=ADAM, steps=9),
        "density must be a number, got 'a'",
    ),
    "steps of a sparse run in words": (
        lambda: SparseGrowth(NET, 0.3, optimizer=ADAM, steps=_any("a")),
        "steps must be a number, got 'a'",
    ),
    "a scale in words": (lambda: AntisymmetricPair(_any("a")), "scale must be a number, got 'a'"),
    "a period in words": (lambda: Period(_any("a")), "every must be a number, got 'a'"),
    "a window in words": (lambda: Plateau(window=_any("a")), "window must be a number, got 'a'"),
    "a threshold in words": (lambda: Saturation(_any("a")), "must be a number, got 'a'"),
    "a pause in words": (lambda: BackOff(_any("a")), "pause must be a number, got 'a'"),
    "a number to take": (lambda: Snapshot(NET, _any(3)), "optimizer must be an Optimizer or a li"),
    "a number to replay into": (
        lambda: ArchitectureSpec().replay(_any(3)),
        "model must be a torch.nn.Module, got int",
    ),
    "trials that train nothing": (
        lambda: tournament(morpher=run(None)),
        "morpher must have an optimizer where no step_fn is given, got one with none",
    ),
    "a policy that trains nothing": (
        lambda: GrowthPolicy(run(None), loss_fn, tuple(LOADER), tuple(LOADER)),
        "morpher must have an optimizer where no step_fn is given, got one with none",
    ),
    "a policy's loss": (
        lambda: GrowthPolicy(run(), _any(None), tuple(LOADER), tuple(LOADER)),
        "loss_fn must be a function, got NoneType",
    ),
    "a step that is none": (lambda: tournament(step_fn=3), "step_fn must be a function, got int"),
    "losses for a loss": (
        lambda: policy().step(torch.ones(2)),
        r"loss must be one number, got a tensor of shape \(2,\)",
    ),
    "a loss in words": (lambda: policy().step(_any("a")), "loss must be a number, got 'a'"),
    "no loss": (lambda: policy().step(_any(None)), "loss must be a number, got None"),
    "a plan's loss in words": (lambda: plan().step("a"), "loss must be a number, got 'a'"),
    "a plan's losses": (lambda: plan().step(torch.ones(2)), "loss must be one number, got a tens"),
    "a plan's init": (lambda: GrowthPlan(run(), init=_any("split")), "init must be a UnitInit"),
}


def _any(value: Any) -> Any:
    return value


@pytest.mark.parametrize("what", WRONG)
def test_what_is_wrong_is_named_where_it_is_given(what: str) -> None:
    call, match = WRONG[what]
    with pytest.raises((TypeError, ValueError), match=match):
        call()
    assert NET[0].weight.shape == (8, 4)
    assert not FILE.exists()


@pytest.mark.parametrize("capture", ["auto", "export", "dispatch"])
def test_inputs_that_the_model_cannot_take_are_named_as_example_inputs(capture: str) -> None:
    model, other = mlp(), torch.ones(2, 5)
    match = r"on example_inputs \(\w+: (?s:.*)\b(5|2x5)\b"
    with pytest.raises(RuntimeError, match=match):
        GrowthGraph.capture(model, other, capture=capture)
    morpher = Morpher(model, example_inputs=other, capture=capture)
    with pytest.raises(RuntimeError, match=match):
        morpher.apply(Widen("0", by=1))
    assert not morpher.events


@pytest.mark.parametrize(
    "outputs, model, match",
    [
        (["y"], mlp(), "outputs must be None for what has no names, got 'y'"),
        (["y"], nn.LSTM(4, 8), r"outputs must be among \[0\], \[1\]\[0\], \[1\]\[1\], got 'y'"),
    ],
)
def test_an_output_that_is_not_there_is_named_with_those_that_are(
    outputs: list[str], model: nn.Module, match: str
) -> None:
    morpher = Morpher(model, example_inputs=X[None], outputs=outputs, capture="dispatch")
    with pytest.raises(ValueError, match=match):
        morpher.apply(Widen("0", by=1))


def test_one_optimizer_need_not_stand_in_a_list() -> None:
    model = mlp()
    optimizer = Adam(model.parameters(), 0.5)
    kept = Snapshot(model, optimizer)
    optimizer.param_groups[0]["lr"] = 7.0
    kept.restore()
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_folders_that_are_missing_are_made_for_whatever_is_written(tmp_path: Path) -> None:
    model = mlp()
    morpher = Morpher(model, example_inputs=X, log=tmp_path / "a" / "b" / "log.jsonl")
    morpher.apply(Widen("0", by=1))
    save_checkpoint(tmp_path / "c" / "d" / "run.safetensors", model, morpher.spec)
    morpher.save(tmp_path / "e" / "run.safetensors")
    morpher.spec.save(tmp_path / "f" / "spec.json")
    assert len([file for file in tmp_path.rglob("*") if file.is_file()]) == 4


def test_edits_that_fail_after_growth_say_why_the_model_did() -> None:
    class Coded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.up(x)
            if x.shape[-1] > 8:
                raise ZeroDivisionError("too wide")
            return self.down(x)

    morpher = Morpher(Coded(), example_inputs=X, capture="dispatch")
    with pytest.raises(GrowthRefusedError, match=r"afterwards \(ZeroDivisionError: too wide\)"):
        morpher.apply(Widen("up", by=1))
