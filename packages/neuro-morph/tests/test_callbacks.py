"""Growth in the loops of others."""

import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from neuro_morph import MorphLightningCallback, MorphTrainerCallback, PolicySettings, Quorum
from neuro_morph._callbacks import PolicyCallback
from neuro_morph._triggers import Period

X = torch.randn(512, 4, generator=torch.Generator().manual_seed(0))
Y = torch.stack([X[:, 0] * X[:, 1], X[:, 2].abs()], 1)
BATCHES = list(zip(X[:256].split(64), Y[:256].split(64), strict=True))
HELD_OUT = [(X[256:], Y[256:])]
QUICK = PolicySettings(
    quorum=Quorum([Period(6)]),
    check_every=1,
    measure_every=0,
    pause=4,
    growth=4.0,
    trial_steps=60,
)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean(1)


def settings(**more: Any) -> dict[str, Any]:
    given = {"loss_fn": loss_fn, "batches": BATCHES, "validation": HELD_OUT, "settings": QUICK}
    return {**given, "example_inputs": X[:2], "capture": "dispatch", **more}


def checked(callback: Any, net: nn.Module, steps: int) -> None:
    assert callback.policy.taken == steps
    assert len(callback.policy.traces.gradient_norm) == steps
    kept = [event for event in callback.events if event.decision == "committed"]
    assert [event.target for event in kept[:1]] == ["0"]
    assert net[0].out_features == net[2].in_features > 2
    assert not [*net[0]._forward_hooks, *net._forward_hooks]


class Bringing(nn.Module):
    """A model that returns its loss, as the Trainer wants it."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.net, self.kind = network(), kind

    def forward(self, features: Tensor, labels: Tensor) -> Any:
        made = self.net(features)
        loss = (made - labels).square().mean()
        return {"loss": loss, "logits": made} if self.kind == "dict" else (loss, made)


def trainer_of(model: nn.Module, folder: Path, callback: Any, *, group: int = 1) -> Any:
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    arguments = transformers.TrainingArguments(
        str(folder),
        per_device_train_batch_size=64,
        gradient_accumulation_steps=group,
        max_steps=16,
        learning_rate=0.02,
        optim="adamw_torch",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    rows = [{"features": a, "labels": b} for a, b in zip(X[:256], Y[:256], strict=True)]
    return transformers.Trainer(
        model=model, args=arguments, train_dataset=rows, callbacks=[callback]
    )


@pytest.mark.parametrize("kind, group", [("dict", 1), ("tuple", 2)])
def test_a_network_grows_while_the_hugging_face_trainer_trains_it(
    tmp_path: Path, kind: str, group: int
) -> None:
    pytest.importorskip("transformers")
    model = Bringing(kind)
    callback = MorphTrainerCallback(**settings(part="net"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # transformers' own
        trainer_of(model, tmp_path, callback, group=group).train()
    checked(callback, model.net, 16)
    assert not model._forward_hooks


def test_a_model_that_does_not_return_its_loss_is_an_error() -> None:
    pytest.importorskip("transformers")
    callback: Any = MorphTrainerCallback(**settings())
    model = network()
    held = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), 0.1)}
    one = type("Arguments", (), {"world_size": 1})
    callback.on_train_begin(one, None, None, **held)
    model(X)
    with pytest.raises(ValueError, match="the model must return its loss"):
        callback.on_step_end(one, None, None, **held)
    callback.on_train_end(one, None, None, **held)
    assert not model._forward_hooks


def test_what_the_trainer_calls_is_what_the_callback_answers() -> None:
    base = pytest.importorskip("transformers").TrainerCallback
    callback: Any = MorphTrainerCallback(**settings(part="net"))
    assert isinstance(callback, base)
    assert isinstance(callback, MorphTrainerCallback)
    model = Bringing("dict")
    optimizer = torch.optim.AdamW(model.parameters(), 0.02)
    held = {"model": model, "optimizer": optimizer}
    one = type("Arguments", (), {"world_size": 1})
    callback.on_train_begin(one, None, None, **held)
    for k in range(16):
        model(*BATCHES[k % 4])["loss"].backward()
        optimizer.step()
        model.zero_grad()
        callback.on_step_end(one, None, None, **held)
    callback.on_train_end(one, None, None, **held)
    checked(callback, model.net, 16)


@pytest.mark.parametrize("group", [1, 2])
def test_a_network_grows_while_lightning_trains_it(tmp_path: Path, group: int) -> None:
    lightning = pytest.importorskip("lightning.pytorch")

    class Module(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        def training_step(self, batch: Any, index: int) -> Tensor:
            return loss_fn(self.net, batch).mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), 0.02)

    module = Module()
    callback = MorphLightningCallback(**settings(part="net"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Lightning's own
        trainer = lightning.Trainer(
            accelerator="cpu",
            accumulate_grad_batches=group,
            callbacks=[callback],
            default_root_dir=tmp_path,
            enable_checkpointing=False,
            enable_model_summary=False,
            enable_progress_bar=False,
            logger=False,
            max_epochs=-1,
            max_steps=16,
        )
        rows = torch.utils.data.TensorDataset(X[:256], Y[:256])
        trainer.fit(module, torch.utils.data.DataLoader(rows, 64))
    checked(callback, module.net, 16)


@pytest.mark.parametrize(
    "make, module, extra",
    [
        (MorphTrainerCallback, "transformers", "hf"),
        (MorphLightningCallback, "lightning.pytorch", "lightning"),
    ],
)
def test_a_missing_package_is_answered_with_its_extra(
    make: Any, module: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"neuro-morph\[{extra}\]"):
        make(**settings())


def test_several_processes_and_unknown_parts_are_refused() -> None:
    pytest.importorskip("transformers")
    callback = MorphTrainerCallback(**settings(part="head"))
    with pytest.raises(ValueError, match="part must be the path of a module"):
        callback.begin(network(), (), 1)
    with pytest.raises(ValueError, match="one process, got 2"):
        callback.begin(network(), (), 2)


@pytest.mark.parametrize(
    "callback, needed",
    [
        (PolicyCallback, "torch"),
        (MorphLightningCallback, "lightning"),
        (MorphTrainerCallback, "transformers"),
    ],
)
@pytest.mark.parametrize(
    "given, match",
    [
        ({"foo": 1}, r"takes settings of Morpher among averages, .*unused; got 'foo'"),
        ({"example_inputs": None}, "needs example_inputs, what the network is called with"),
    ],
)
def test_a_callback_names_what_it_cannot_take_when_it_is_made(
    callback: Any, needed: str, given: dict[str, Any], match: str
) -> None:
    pytest.importorskip(needed)
    with pytest.raises(TypeError, match=f"^{callback.__name__} {match}"):
        callback(**settings(**given))
