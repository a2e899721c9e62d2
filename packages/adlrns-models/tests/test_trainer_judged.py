"""What validation losses decide, those that are not finite among them."""

import math

import pytest
import torch
from torch import nn

from adlrns_models import ADLRNSTrainer, Callback

BAD = [math.nan, math.inf, -math.inf]


class Told:
    """Validation data on which the loss is what it is told to be, epoch by epoch."""

    def __init__(self, losses):
        self.losses = iter(losses)

    def __iter__(self):
        yield torch.ones(2, 3), torch.full((2,), next(self.losses))


def target_alone(output, target):
    return target.mean() + 0.0 * output.mean()


def trained(folder, losses, *callbacks, resume=False, **config):
    torch.manual_seed(0)
    rules = {"schedule": "constant", "keep_last": 1, **config}
    trainer = ADLRNSTrainer(
        nn.Linear(3, 2), rules, "cpu", folder, loss=target_alone, callbacks=callbacks
    )
    batch = torch.ones(2, 3), torch.ones(2)
    trainer.train([batch], Told(losses), resume=resume, num_epochs=len(losses))
    return trainer


def epoch_of_best(trainer):
    trainer.load(trainer.save_dir / "best.safetensors")
    return trainer.epoch


@pytest.mark.parametrize("bad", BAD)
def test_an_epoch_whose_loss_is_not_finite_is_not_the_best(tmp_path, bad):
    plans = {
        (3.0, bad, 2.0, bad, 2.5): 3,
        (bad, 4.0, 3.0): 3,
        (bad, bad, 5.0, 6.0): 3,
        (3.0, bad, 4.0): 1,
        (bad, bad): 1,  # a best there is
    }
    for i, (losses, best) in enumerate(plans.items()):
        assert epoch_of_best(trained(tmp_path / str(i), losses)) == best


def test_a_loss_that_is_not_finite_is_remembered_by_a_resumed_run(tmp_path):
    trained(tmp_path, [3.0, math.nan])
    trainer = trained(tmp_path, [2.0, 1.0, 5.0, 6.0], resume=True)
    assert [record["val_loss"] for record in trainer.history[2:]] == [2.0, 1.0]
    assert epoch_of_best(trainer) == 4


@pytest.mark.parametrize("bad", BAD)
def test_a_loss_that_is_not_finite_is_no_better_for_early_stopping(tmp_path, bad):
    plans = {(3.0, bad, 2.0, bad, bad, 1.0): 5, (bad, bad, 1.0): 2, (bad, 2.0, bad, 1.0): 4}
    for i, (losses, epochs) in enumerate(plans.items()):
        assert len(trained(tmp_path / str(i), losses, patience=2).history) == epochs


@pytest.mark.parametrize("bad", BAD)
def test_a_loss_that_is_not_finite_is_no_better_for_the_plateau(tmp_path, bad):
    seen = []

    class Note(Callback):
        def on_epoch_end(self, trainer, record):
            seen.append(trainer.stepper.lr)

    losses = [3.0, bad, 2.0, bad, bad, 1.0]
    rules = {"schedule": "plateau", "lr": 1.0, "gamma": 0.5, "step_epochs": 1}
    trained(tmp_path, losses, Note(), **rules)
    assert seen == [1.0, 1.0, 1.0, 1.0, 0.5, 0.5]
