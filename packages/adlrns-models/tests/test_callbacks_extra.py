"""The rank penalty in the loops of others, each held against plain PyTorch."""

import sys
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from adlrns_models import (
    Decision,
    Gate,
    adlrns_mlp,
    hf_callback,
    iter_dynamic_layers,
    lightning_callback,
    rank_penalty,
    record,
)

WEIGHT = 0.5


class Expecting(Gate):
    """A gate whose one parameter is what the penalty sees, so that its gradient is known."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(3.0))

    def forward(self, layer, x, ceiling):
        rows = layer.row_count(x)
        return layer.at_rank(x, 2), Decision(2, self.mean, 0.25, rows)


def network():
    torch.manual_seed(0)
    model = adlrns_mlp(in_features=6, hidden=(8, 8), classes=3, r_min=1, r_max=4)
    for layer in iter_dynamic_layers(model):
        layer.gate = Expecting()
    return model


def data(count=16):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, 6, generator=generator)
    return x, (x[:, 0] > 0).long()


def by_hand(*, group=1, steps=4):
    """SGD on ``loss + weight * penalty`` over batches of four rows."""
    model, (x, y) = network(), data()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    pairs = list(zip(x.split(4), y.split(4), strict=True))
    for start in range(0, steps, group):
        optimizer.zero_grad()
        for rows, target in pairs[start : start + group]:
            with record(model) as ran:
                loss = F.cross_entropy(model(rows), target)
            ((loss + WEIGHT * rank_penalty(ran)) / group).backward()
        optimizer.step()
    return model


def assert_same(one, two):
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# the Hugging Face Trainer


class Bringing(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = network()

    def forward(self, features, labels=None):
        logits = self.inner(features)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Counting(Bringing):
    """Takes the number of items a step has, as newer models do."""

    def forward(self, features, labels=None, num_items_in_batch=None, **kwargs):
        logits = self.inner(features)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        count = len(labels) if num_items_in_batch is None else num_items_in_batch
        return {"loss": loss / count, "logits": logits}


class Tuples(Bringing):
    def forward(self, features, labels=None):
        return tuple(super().forward(features, labels).values())


def hf_trainer(model, folder, *, group=1, **options):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=4,
        per_device_eval_batch_size=4,
        gradient_accumulation_steps=group,
        num_train_epochs=1,
        learning_rate=0.1,
        optim="sgd",
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
    )
    x, y = data()
    rows = [{"features": a, "labels": b} for a, b in zip(x, y, strict=True)]
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, eval_dataset=rows, **options
    )


@pytest.mark.parametrize("kind", [Bringing, Counting, Tuples])
@pytest.mark.parametrize("group", [1, 2])
def test_the_hugging_face_trainer_minimises_loss_plus_penalty(tmp_path, kind, group):
    model = kind()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        trainer = hf_trainer(model, tmp_path, group=group, callbacks=[hf_callback(WEIGHT)])
        trainer.train()
        wanted = by_hand(group=group)
        assert_same(model.inner, wanted)
        evaluated = trainer.evaluate()
    x, y = data()
    with torch.no_grad():
        assert evaluated["eval_loss"] == pytest.approx(float(F.cross_entropy(wanted(x), y)))
    logs = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(logs) == 4 // group
    assert all(entry["mean_flops"] == 0.25 and entry["rank_penalty"] > 0 for entry in logs)
    assert not model._forward_hooks


def test_a_hugging_face_loss_that_cannot_be_reached_is_an_error(tmp_path):
    def loss(outputs, labels, num_items_in_batch=None):
        del num_items_in_batch
        return F.cross_entropy(outputs["logits"], labels)

    class Silent(Bringing):
        def forward(self, features, labels=None):
            return {"logits": self.inner(features)}

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = hf_trainer(
            Silent(), tmp_path, callbacks=[hf_callback(WEIGHT)], compute_loss_func=loss
        )
        with pytest.raises(ValueError, match="the model must return its loss"):
            trainer.train()


# Lightning


@pytest.mark.parametrize("group", [1, 2])
def test_lightning_minimises_loss_plus_penalty(tmp_path, group):
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def training_step(self, batch, index):
            return F.cross_entropy(self.inner(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    module = Module()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own
        trainer = lightning.Trainer(
            accelerator="cpu",
            accumulate_grad_batches=group,
            callbacks=[lightning_callback(WEIGHT)],
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
            max_epochs=1,
        )
        rows = torch.utils.data.TensorDataset(*data())
        trainer.fit(module, torch.utils.data.DataLoader(rows, 4))
    assert_same(module.inner, by_hand(group=group))
    assert float(trainer.callback_metrics["mean_flops"]) == 0.25


# both


@pytest.mark.parametrize("make", [hf_callback, lightning_callback])
def test_a_weight_that_is_none_is_named(make):
    pytest.importorskip("transformers" if make is hf_callback else "lightning.pytorch")
    with pytest.raises(ValueError, match="energy_penalty_weight must be finite and not negative"):
        make(-1.0)


@pytest.mark.parametrize(
    "make, module, extra",
    [(hf_callback, "transformers", "hf"), (lightning_callback, "lightning.pytorch", "lightning")],
)
def test_a_missing_package_is_answered_with_its_extra(make, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"adlrns-models\[{extra}\]"):
        make()


def test_a_model_without_dynamic_layers_is_refused(tmp_path):
    model = Bringing()
    model.inner = adlrns_mlp(in_features=6, classes=3, dense=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = hf_trainer(model, tmp_path, callbacks=[hf_callback(WEIGHT)])
        with pytest.raises(ValueError, match="model must have a dynamic layer"):
            trainer.train()
