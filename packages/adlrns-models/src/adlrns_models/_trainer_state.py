"""A training run as a file, and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adlrns_models import _checkpoint
from adlrns_models._files import fill
from adlrns_models._trainer_random import random_state
from adlrns_models._trainer_ranks import decision_state, set_decision_state
from adlrns_models._trainer_sums import Sums, is_best
from adlrns_models._trainer_workers import from_all, from_first, worker, worker_count

if TYPE_CHECKING:
    from adlrns_models._trainer import ADLRNSTrainer

# what may differ between a run and its continuation
_FREE = {"epochs", "patience", "min_delta", "max_bad_steps", "checkpoint_every", "keep_last"}


def begin(trainer: "ADLRNSTrainer") -> None:
    """Goes to the newest checkpoint, or sees to it that there is none."""
    if trainer.started:
        return
    found = from_first(_checkpoint.steps(trainer.save_dir))
    if found and not trainer.resume:
        raise ValueError(
            f"save_dir must hold no checkpoints of another run, got {len(found)} in "
            f"{trainer.save_dir}: pass resume=True to go on, or choose another folder"
        )
    if found:
        restore(trainer, _checkpoint.numbered(trainer.save_dir, found[-1]))
    trainer.started = True


def store(trainer: "ADLRNSTrainer") -> Path:
    """Writes the checkpoint of this moment; the best first, so that it is never older."""
    path = _checkpoint.numbered(trainer.save_dir, trainer.step)
    # between epochs everything random is seeded anew
    generators = from_all(random_state()) if trainer.batch else None
    if worker() == 0:
        state = _state(trainer, generators)
        if not trainer.batch and trainer.history and is_best(trainer.history):
            _checkpoint.save(trainer.save_dir / _checkpoint.BEST, state)
        _checkpoint.save(path, state)
        _checkpoint.prune(trainer.save_dir, trainer.config.keep_last, newest=trainer.step)
    return path


def _state(trainer: "ADLRNSTrainer", generators: list[Any] | None) -> dict[str, Any]:
    return {
        "config": trainer.config.to_dict(),
        "model": trainer.model.state_dict(),
        "decisions": decision_state(trainer.model),
        "stepper": trainer.stepper.state_dict(),
        "epoch": trainer.epoch,
        "batch": trainer.batch,
        "batches": trainer.batches,
        "step": trainer.step,
        "sums": trainer.sums.values,
        "history": trainer.history,
        "random": generators,
    }


def restore(trainer: "ADLRNSTrainer", path: Path) -> None:
    """Puts a run where a file says it was.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: naming file and field, if it is damaged or another run's.
    """
    state = _checkpoint.load(path)
    _check_config(path, trainer.config.to_dict(), state["config"])
    generators = state["random"]
    if generators is not None and len(generators) != worker_count():
        raise ValueError(
            f"{path}: field random must be of {worker_count()} workers, got {len(generators)}: "
            "within an epoch their number stays"
        )
    fill(path, trainer.model, state["model"])
    set_decision_state(trainer.model, state["decisions"])
    trainer.stepper.load_state_dict(state["stepper"])
    trainer.epoch, trainer.batch, trainer.step = state["epoch"], state["batch"], state["step"]
    trainer.batches = state.get("batches")  # older checkpoints do not say it
    trainer.sums, trainer.history = Sums(state["sums"]), state["history"]
    trainer.random = None if generators is None else generators[worker()]
    trainer.started = True


def _check_config(path: Path, now: dict[str, Any], then: dict[str, Any]) -> None:
    for name in sorted(now.keys() - _FREE):
        if then.get(name) != now[name]:
            raise ValueError(
                f"{path}: field config.{name} must be {now[name]!r}, as in this run, got "
                f"{then.get(name)!r}"
            )
