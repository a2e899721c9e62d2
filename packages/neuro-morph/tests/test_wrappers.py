import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import (
    GrowthGraph,
    Morpher,
    Split,
    Tournament,
    Widen,
    collect_statistics,
    deepenings,
    score_edges,
    scores_of,
    splitting_of,
)

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2))


def test_thirty_events_in_a_compiled_run_never_go_back_to_eager(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compiled = 0

    def counting(graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> object:
        nonlocal compiled
        compiled += 1
        return graph.forward

    monkeypatch.setattr(torch._dynamo.config, "fail_on_recompile_limit_hit", True)
    torch._dynamo.reset()
    model = torch.compile(net(), backend=counting)
    optimizer = torch.optim.Adam(model.parameters())
    x = torch.randn(8, 4)
    morpher = Morpher(model, optimizer, example_inputs=x, capture="dispatch")
    for k in range(30):
        model(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        assert compiled == k + 1
        morpher.apply(Widen("0", by=1, init=Split() if k % 2 else Split(share=0.4)))
        model = morpher.rewrap()
    assert model(x).isfinite().all()
    assert model.get_submodule("_orig_mod.0").out_features == 36


WORKER = """
import torch, torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from neuro_morph import Morpher, Widen, Split, GrowthRefusedError

dist.init_process_group("gloo")
rank = dist.get_rank()
torch.manual_seed(0)
model = DistributedDataParallel(nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)))
optimizer = torch.optim.Adam(model.parameters(), 0.05)
x = torch.ones(2, 4)
morpher = Morpher(model, optimizer, example_inputs=x, capture="dispatch", seed=rank)
torch.manual_seed(rank)
for event in range(4):
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(8, 4)).square().mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    morpher.apply(Widen("0", by=2) if event % 2 else Widen("0", by=2, init=Split(parents=(0, 1))))
    model = morpher.rewrap()
    for p in model.parameters():
        both = [torch.empty_like(p) for _ in range(2)]
        dist.all_gather(both, p.data)
        assert torch.equal(*both)
try:
    tolerance = morpher.tolerance
    morpher.tolerance = -1.0 if rank else tolerance
    morpher.apply(Widen("0", by=2))
    raise SystemExit("one process refused and the other went on")
except GrowthRefusedError as refusal:
    assert model.module[0].out_features == 14
print("same", flush=True)
dist.destroy_process_group()
"""


def test_two_processes_have_equal_parameters_after_every_event(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    run = subprocess.run(
        [*command, "--nproc-per-node=2", str(script)],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert run.stdout.count("same") == 2, run.stderr[-2000:]


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager"), lambda m: m]
)
def test_a_wrapped_model_has_the_groups_of_what_is_inside(wrap: Callable[[Any], Any]) -> None:
    wrapped = wrap(net())
    graph = GrowthGraph.capture(wrapped, X, capture="dispatch")
    run = Morpher(wrapped, example_inputs=X, capture="dispatch")
    assert [group.id for group in graph] == [group.id for group in run.graph]
    assert graph["0"].growable


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager")])
def test_what_is_measured_of_a_wrapped_model_is_that_of_what_is_inside(
    wrap: Callable[[Any], Any],
) -> None:
    model, batches = net(), [(X, X[:, :2])]
    wrapped = wrap(model)

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square().mean()

    def measured(model: Any) -> list[Any]:
        graph = GrowthGraph.capture(model, X, capture="dispatch")
        statistics = collect_statistics(model, graph, batches, loss_fn)
        found = splitting_of(model, graph["0"], batches, loss_fn)
        edges = score_edges(model, X, lambda output: output.square().mean())
        return [scores_of(statistics), deepenings(model, statistics), found.values.tolist(), edges]

    assert measured(wrapped) == measured(model)
    grown = Morpher(net(), example_inputs=X, capture="dispatch")
    grown.apply(Widen("0", by=2))
    assert grown.spec.replay(wrapped) is wrapped
    assert model[0].out_features == 8


def grown_again(wrap: Callable[[Any], Any], rewrapped: bool, steps: int) -> int:
    """Returns how often a run is told to rewrap that grows three times, twice at each."""
    model = wrap(net())
    optimizer = torch.optim.Adam(model.parameters())
    run = Morpher(model, optimizer, example_inputs=X, capture="dispatch")
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", RuntimeWarning)
        for _ in range(3):
            for _ in range(steps):
                model(X).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
            run.apply(Widen("0", by=1))
            run.apply(Widen("0", by=1))
            model = run.rewrap() if rewrapped else model
    return sum("model = morpher.rewrap()" in str(each.message) for each in told)


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize(
    "wrap, rewrapped, steps, times",
    [
        (compiled, False, 1, 1),
        (lambda m: nn.DataParallel(compiled(m)), False, 1, 1),
        (compiled, True, 1, 0),
        (compiled, False, 0, 0),
        (nn.DataParallel, False, 1, 0),
        (lambda m: m, False, 1, 0),
    ],
)
def test_whoever_trains_a_grown_wrapper_on_is_told_once(
    wrap: Callable[[Any], Any], rewrapped: bool, steps: int, times: int
) -> None:
    assert grown_again(wrap, rewrapped, steps) == times


def test_trials_of_a_wrapped_model_need_no_new_wrapper() -> None:
    model = compiled(net())
    optimizer = torch.optim.Adam(model.parameters())
    run = Morpher(model, optimizer, example_inputs=X, capture="dispatch")
    batches = [(X, X[:, :2])] * 2

    def loss_fn(model: nn.Module, batch: Any) -> torch.Tensor:
        return (model(batch[0]) - batch[1]).square()

    for _ in range(2):
        Tournament(run, loss_fn, batches, batches, steps=2).run([Widen("0", by=k) for k in (1, 2)])
        model = run.rewrap()
