"""One training run of one seed, in a folder of its own."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from adlrns._config_file import Config
from adlrns._console import Advance
from adlrns._datasets import Task
from adlrns._energy_budget import served_mj
from adlrns._errors import RunError
from adlrns._nets import loss_of, make_net, serving
from adlrns._run_folder import write_text
from adlrns._score import score
from adlrns_models import ADLRNSTrainer, Callback, JSONLLogger

# what decides when training ends, by the names under which a result keeps it
_ENDS = {"planned_epochs": "epochs", "patience": "patience", "min_delta": "min_delta"}
RESULT, METRICS, WEIGHTS = "result.json", "metrics.jsonl", "model.safetensors"


class Progress(Callback):
    """Tells how many steps of all are done."""

    def __init__(self, advance: Advance):
        self.advance = advance

    def on_batch_end(self, trainer: ADLRNSTrainer, record: dict[str, Any]) -> None:
        """Tells it."""
        self.advance(trainer.step, trainer.total_steps)


def train_seed(
    config: Config,
    task: Task,
    seed: int,
    folder: Path,
    *,
    device: torch.device,
    advance: Advance,
) -> dict[str, Any]:
    """Returns what a run came to; one that was cut short goes on, one that is done is read.

    Done is what ended by the rules of now: others may say that it goes on.

    Writes checkpoints, `metrics.jsonl`, the final weights and, last, `result.json`.
    """
    if (done := _read(folder, config)) is not None:
        return done
    torch.manual_seed(seed)
    net = make_net(config, task)
    trainer = ADLRNSTrainer(
        net,
        config.training(seed),
        device,
        folder / "checkpoints",
        loss=loss_of(task),
        callbacks=[Progress(advance), JSONLLogger(folder / METRICS)],
    )
    size = config.training(seed).batch_size or 64
    train = DataLoader(task.train, batch_size=size, shuffle=True)
    history = trainer.train(train, DataLoader(task.valid, batch_size=size), resume=True)
    with serving(config, net):
        result = {
            "seed": seed,
            "epochs": len(history),
            **_ends(config),
            task.metric: score(net, task, device=device),
            "loss": history[-1]["val_loss"],
            "flops": history[-1].get("val_flops"),
            "parameters": sum(p.numel() for p in net.parameters()),
            "energy_mj": served_mj(config, net, task, device),
            "skipped": history[-1]["skipped"],
        }
    _save(net, folder)
    write_text(folder / RESULT, json.dumps(result, indent=2) + "\n")
    return result


def _read(folder: Path, config: Config) -> dict[str, Any] | None:
    path = folder / RESULT
    if not path.is_file():
        return None
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        ended_by = {name: result.get(name) for name in _ENDS}
    except (ValueError, AttributeError) as error:
        raise RunError(f"{path}: not a readable result: {error}") from None
    return result if ended_by == _ends(config) else None


def _ends(config: Config) -> dict[str, Any]:
    told = config.training(0)
    return {name: getattr(told, key) for name, key in _ENDS.items()}


def _save(net: torch.nn.Module, folder: Path) -> None:
    beside = folder / f".{WEIGHTS}.new"
    state = {name: value.contiguous() for name, value in net.state_dict().items()}
    save_file(state, beside, metadata={"format": "pt"})
    beside.replace(folder / WEIGHTS)
