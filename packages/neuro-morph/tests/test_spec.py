import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from neuro_morph import (
    ArchitectureSpec,
    EventLog,
    GrowthRefusedError,
    Morpher,
    Widen,
    load_checkpoint,
    save_checkpoint,
)


def test_a_grown_checkpoint_loads_into_the_class_it_was_grown_from(
    net: tuple[nn.Module, Any], tmp_path: Path
) -> None:
    model, inputs = net
    fresh = copy.deepcopy(model)
    optimizer = torch.optim.AdamW(model.parameters())
    sum(v.square().sum() for v in _outputs(model, inputs)).backward()
    optimizer.step()
    optimizer.zero_grad()
    morpher = Morpher(model, optimizer, example_inputs=inputs)
    for group in [g for g in morpher.graph if "free" in morpher.graph.ways(g)]:
        morpher.apply(Widen(group.id, by=2))
    save_checkpoint(tmp_path / "grown.safetensors", model, morpher.spec, optimizer)
    other = torch.optim.AdamW(fresh.parameters())
    spec = load_checkpoint(tmp_path / "grown.safetensors", fresh, other)
    assert spec.to_json() == morpher.spec.to_json()
    for mine, its in zip(_outputs(model, inputs), _outputs(fresh, inputs), strict=True):
        assert torch.equal(mine, its)
    for mine, its in zip(model.parameters(), fresh.parameters(), strict=True):
        for key, value in optimizer.state.get(mine, {}).items():
            assert torch.equal(value, other.state[its][key])


def _outputs(model: nn.Module, inputs: Any) -> list[torch.Tensor]:
    return [model(inputs)]


def test_a_spec_that_does_not_fit_changes_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    morpher = Morpher(model, example_inputs=torch.ones(1, 4))
    morpher.apply(Widen("0", by=2))
    other = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 2))
    before = {k: v.clone() for k, v in other.state_dict().items()}
    with pytest.raises(ValueError, match=r"'0.weight' must be \[8, 4\], got \[7, 4\]"):
        morpher.spec.replay(other)
    assert all(torch.equal(before[k], v) for k, v in other.state_dict().items())


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"steps": [{"op": 1}], "format": 1}'])
def test_what_is_no_spec_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no architecture spec"):
        ArchitectureSpec.from_json(text)


def test_events_are_logged_as_they_come_refusals_too(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    log = tmp_path / "events.jsonl"
    morpher = Morpher(model, example_inputs=torch.ones(1, 4), log=log)
    morpher.apply(Widen("0", by=2), reason="plateau")
    with pytest.raises(GrowthRefusedError):
        morpher.apply(Widen("2", by=2))
    with log.open("ab") as file:
        file.write(b'{"cut off')
    morpher.apply(Widen("0", by=1))
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [e["decision"] for e in lines] == ["committed", "refused", "committed"]
    assert [e["parameters_after"] - e["parameters_before"] for e in lines] == [14, 0, 7]
    assert lines == list(EventLog(log).read())
    assert lines[0]["reason"] == "plateau"


GROWING = """
import sys, torch
from pathlib import Path
from neuro_morph import Morpher, Widen, save_checkpoint
model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
optimizer = torch.optim.Adam(model.parameters())
morpher = Morpher(model, optimizer, example_inputs=torch.ones(2, 4), capture="dispatch")
path = Path(sys.argv[1])
while True:
    model(torch.randn(8, 4)).square().mean().backward(); optimizer.step(); optimizer.zero_grad()
    save_checkpoint(path, model, morpher.spec, optimizer)
    print("saved", flush=True)
    morpher.apply(Widen("0", by=1))
"""


def test_a_run_killed_at_any_moment_leaves_a_checkpoint_that_loads(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    for wait in (0.0, 0.02):
        run = subprocess.Popen(
            [sys.executable, "-c", GROWING, str(path)], stdout=subprocess.PIPE, env=os.environ
        )
        assert run.stdout is not None
        for _ in range(3):
            run.stdout.readline()
        time.sleep(wait)
        run.send_signal(signal.SIGKILL)
        run.wait()
        run.stdout.close()
        model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(model.parameters())
        spec = load_checkpoint(path, model, optimizer)
        assert model[0].out_features == 8 + len(spec.steps)
        assert model(torch.ones(1, 4)).isfinite().all()


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="is no checkpoint"):
        load_checkpoint(tmp_path / "x", nn.Linear(2, 2))
