"""One step of training, held against plain PyTorch, and what a run does with its rules."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from adlrns_models import (
    ADLRNSTrainer,
    Callback,
    DynamicLinear,
    TrainConfig,
    adlrns_mlp,
    iter_dynamic_layers,
    rank_penalty,
    record,
    wrap_model_with_adaptive,
)
from rank_sched import PerfEstimator

PLAIN = {"schedule": "constant", "clip_norm": None, "weight_decay": 0.0}


def data(count=24, dtype=torch.float64):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(count, 6, generator=generator, dtype=dtype)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def batches(size=8, **options):
    return [tuple(part) for part in zip(*(t.split(size) for t in data(**options)), strict=True)]


def network(dtype=torch.float64):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).to(dtype)


def dynamic(**options):
    torch.manual_seed(0)
    sizes = {"in_features": 6, "hidden": (8, 8), "classes": 3, "r_min": 1, "r_max": 4}
    return adlrns_mlp(**sizes, **options).double()


def trained(model, folder, config, loader=None, val=None, **options):
    options.setdefault("callbacks", [])
    trainer = ADLRNSTrainer(model, config, "cpu", folder, **options)
    trainer.train(batches() if loader is None else loader, val)
    return trainer


def by_hand(model, optimizer, *, epochs=2, loss=F.cross_entropy, group=1, limit=None):
    """The training loop everyone writes."""
    pairs = batches()
    for _ in range(epochs):
        for start in range(0, len(pairs), group):
            part = pairs[start : start + group]
            optimizer.zero_grad()
            for x, y in part:
                (loss(model(x), y) / len(part)).backward()
            if limit is not None:
                nn.utils.clip_grad_norm_(model.parameters(), limit)
            optimizer.step()
    return model


def assert_same(one, two):
    for a, b in zip(one.parameters(), two.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


# against plain loops


@pytest.mark.parametrize("group", [1, 2, 5])
@pytest.mark.parametrize("limit", [None, 0.1])
def test_training_is_the_loop_that_everyone_writes(tmp_path, group, limit):
    config = PLAIN | {"epochs": 2, "lr": 0.05, "accumulate": group, "clip_norm": limit}
    trainer = trained(network(), tmp_path, config)
    model = network()
    by_hand(
        model, torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0), group=group, limit=limit
    )
    assert_same(trainer.model, model)
    assert trainer.step == 2 * math.ceil(3 / group)


def test_sgd_has_momentum(tmp_path):
    trainer = trained(network(), tmp_path, PLAIN | {"epochs": 2, "lr": 0.05, "optimizer": "sgd"})
    model = network()
    assert_same(trainer.model, by_hand(model, torch.optim.SGD(model.parameters(), 0.05, 0.9)))


def test_the_objective_is_loss_plus_weight_times_penalty(tmp_path):
    config = TrainConfig(energy_penalty_weight=0.3, alpha=2.0, beta=0.5)
    trainer, (x, y) = ADLRNSTrainer(dynamic(), config, "cpu", tmp_path), batches()[0]
    trainer.model.train()
    outcome = trainer.stepper.objective((x, y), 0)
    with record(trainer.model) as ran:
        loss = F.cross_entropy(trainer.model(x), y)
    penalty = rank_penalty(ran, alpha=2.0, beta=0.5)
    assert float(outcome.penalty) == pytest.approx(float(penalty))
    torch.testing.assert_close(outcome.total, loss + 0.3 * penalty)
    assert float(penalty) > 0


def test_the_loss_can_be_anyones(tmp_path):
    def distance(output, target):
        return (output.sum(1) - target).square().mean()

    trainer = trained(network(), tmp_path, PLAIN | {"epochs": 2, "lr": 0.05}, loss=distance)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0)
    assert_same(trainer.model, by_hand(model, optimizer, loss=distance))


def test_batches_may_be_the_arguments_of_a_model_that_brings_its_loss(tmp_path):
    class Bringing(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, features, labels):
            logits = self.inner(features)
            return {"loss": F.cross_entropy(logits, labels), "logits": logits}

    loader = [{"features": x, "labels": y} for x, y in batches()]
    trainer = trained(Bringing(), tmp_path, PLAIN | {"epochs": 2, "lr": 0.05}, loader, loader)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), 0.05, weight_decay=0)
    assert_same(trainer.model.inner, by_hand(model, optimizer))
    assert trainer.history[-1]["val_accuracy"] > 0.5


def test_weight_decay_is_adamws_where_all_directions_are_used(tmp_path):
    config = PLAIN | {"epochs": 2, "lr": 0.05, "weight_decay": 0.3}
    trainer = trained(network(), tmp_path / "one", config)
    model = network()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    assert_same(trainer.model, by_hand(model, torch.optim.AdamW(groups, 0.05)))
    full = {"r_min": 4, "r_max": 4, "in_features": 6, "hidden": (8, 8), "classes": 3}
    torch.manual_seed(0)
    ours = adlrns_mlp(**full | {"r_min": 3, "r_max": 3}).double()
    torch.manual_seed(0)
    model = adlrns_mlp(**full | {"r_min": 3, "r_max": 3}).double()
    trained(ours, tmp_path / "two", config)
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    assert_same(ours, by_hand(model, torch.optim.AdamW(groups, 0.05)))


def test_decay_leaves_directions_alone_that_no_step_used(tmp_path):
    model = wrap_model_with_adaptive(network(), r_max=6, r_min=1)
    for layer in (model[0], model[2]):
        layer.enable_adaptation(False)
        layer.set_rank(2)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trained(model, tmp_path, PLAIN | {"epochs": 3, "lr": 0.05, "weight_decay": 0.5})
    for name, p in model.named_parameters():
        if name.endswith(("down", "up")):
            tail = (lambda t: t[2:]) if name.endswith("down") else (lambda t: t[:, 2:])
            assert torch.equal(tail(p), tail(before[name]))
            assert not torch.equal(p, before[name])


# learning rates


def rates(folder, steps=3, **config):
    seen = []

    class Note(Callback):
        def on_batch_end(self, trainer, record):
            seen.append(record["lr"])

    trained(network(), folder, config, batches()[:steps], callbacks=[Note()])
    return seen


def test_learning_rates_follow_their_schedule(tmp_path):
    found = rates(tmp_path / "1", epochs=4, lr=1.0, warmup_steps=2)
    rest = [0.5 + 0.5 * math.cos(math.pi * k / 10) for k in range(11)]
    assert found == pytest.approx([1.0, *rest])  # the rate of the step to come
    step = {"schedule": "step", "gamma": 0.1, "step_epochs": 2, "lr": 1.0}
    assert rates(tmp_path / "2", epochs=4, **step) == pytest.approx([1.0] * 5 + [0.1] * 6 + [0.01])
    plateau = {"schedule": "plateau", "gamma": 0.5, "step_epochs": 1, "optimizer": "sgd"}
    stuck = rates(tmp_path / "3", epochs=6, lr=100.0, **plateau)
    assert stuck[0] == 100.0
    assert stuck[-1] < 100.0


# rules of a run


def test_training_stops_when_validation_no_longer_improves(tmp_path):
    config = {"epochs": 50, "lr": 0.5, "patience": 3, "min_delta": 0.01, "schedule": "constant"}
    x, y = data(8)
    trainer = trained(network(), tmp_path, config, val=[(-x, y)])  # nothing to be learned here
    losses = [record["val_loss"] for record in trainer.history]
    assert len(losses) < 50
    best = min(range(len(losses)), key=losses.__getitem__)
    assert len(losses) - 1 - best <= 3
    assert min(losses[-3:]) >= min(losses[:-3]) - 0.01


def test_a_callback_can_stop_a_run(tmp_path):
    class Enough(Callback):
        def on_epoch_end(self, trainer, record):
            trainer.stop = record["epoch"] == 2

    assert len(trained(network(), tmp_path, {"epochs": 9}, callbacks=[Enough()]).history) == 2


def test_a_bad_batch_changes_nothing_and_is_counted(tmp_path):
    x, y = batches()[0]
    good, bad = (x, y), (x * math.nan, y)
    config = PLAIN | {"epochs": 1, "lr": 0.05}
    trainer = trained(network(), tmp_path / "one", config, [good, bad, good])
    other = trained(network(), tmp_path / "two", config, [good, good])
    assert_same(trainer.model, other.model)
    assert trainer.history[0]["skipped"] == 1
    assert trainer.history[0]["train_loss"] == pytest.approx(other.history[0]["train_loss"])


def test_a_gradient_that_is_not_finite_changes_nothing(tmp_path):
    def rooted(output, target):
        del target
        return output.sum().mul(0.0).sqrt()  # 0, with an infinite slope

    trainer = trained(network(), tmp_path, {"epochs": 2, "max_bad_steps": 99}, loss=rooted)
    assert_same(trainer.model, network())
    assert trainer.history[-1]["skipped"] == 6


def test_many_bad_steps_in_a_row_are_an_error_that_says_so(tmp_path):
    x, y = batches()[0]
    loader = [(x, y), *[(x * math.inf, y)] * 4]
    with pytest.raises(RuntimeError, match="3 steps in a row.*not finite.*Lower lr"):
        trained(network(), tmp_path, {"epochs": 1, "max_bad_steps": 3}, loader)
    assert len(trained(network(), tmp_path / "other", {"epochs": 1}, loader).history) == 1


@pytest.mark.parametrize("precision, tolerance", [("bfloat16", 0.05), ("float16", 0.01)])
def test_lower_precision_learns_the_same(tmp_path, precision, tolerance):
    config = {"epochs": 12, "lr": 0.05}
    ends = []
    for name in ("float32", precision):
        model = network(torch.float32)
        loader = batches(dtype=torch.float32)
        trainer = trained(model, tmp_path / name, config | {"precision": name}, loader, loader)
        ends.append(trainer.history[-1]["val_loss"])
        assert all(p.dtype == torch.float32 for p in model.parameters())
    assert ends[1] == pytest.approx(ends[0], rel=tolerance)
    assert ends[1] != ends[0]  # it did run in another precision


def test_evaluation_leaves_mode_and_model_alone(tmp_path):
    trainer = ADLRNSTrainer(dynamic(), {}, "cpu", tmp_path)
    before = {name: p.clone() for name, p in trainer.model.state_dict().items()}
    for training in (True, False):
        trainer.stepper.objective.train(training)
        means = trainer.evaluate(batches())
        assert trainer.model.training is training
    _, y = data()
    with torch.no_grad():
        scores = torch.cat([trainer.model.eval()(part) for part, _ in batches()])
    assert means["loss"] == pytest.approx(float(F.cross_entropy(scores, y)))
    assert means["accuracy"] == pytest.approx(float((scores.argmax(1) == y).double().mean()))
    assert means["flops"] > 0
    assert all(torch.equal(p, before[name]) for name, p in trainer.model.state_dict().items())


def test_layers_train_under_the_energy_budget(tmp_path):
    seen = []

    class Note(Callback):
        def on_batch_end(self, trainer, record):
            seen.append([layer.last_rank for layer in iter_dynamic_layers(trainer.model)])

    config = {"epochs": 1, "energy_budget_mj_per_sample": 0.0}
    trained(dynamic(gate="spectral"), tmp_path, config, callbacks=[Note()])
    assert seen == [[1, 1]] * 3
    free = dynamic()
    with torch.no_grad():
        free(batches()[0][0])
    assert any(layer.last_rank > 1 for layer in iter_dynamic_layers(free))


# the sandwich


def test_the_sandwich_is_full_rank_plus_what_it_teaches(tmp_path):
    model = wrap_model_with_adaptive(network(), r_max=6, r_min=1)
    config = TrainConfig(sandwich=1, distill_weight=0.7)
    trainer, (x, y) = ADLRNSTrainer(model, config, "cpu", tmp_path), batches()[0]
    layers = (model[0], model[2])
    for layer in layers:
        layer.enable_adaptation(False)
        layer.set_rank(3)
    model.train()
    outcome = trainer.stepper.objective((x, y), 0)
    assert [layer.current_rank() for layer in layers] == [3, 3]
    scores = {}
    for rank in (6, 3, 1):
        for layer in layers:
            layer.set_rank(min(rank, layer.max_rank))
        scores[rank] = model(x)
    teacher = scores[6].detach().softmax(-1)
    taught = (teacher * (teacher.log() - scores[1].log_softmax(-1))).sum(-1).mean()
    wanted = F.cross_entropy(scores[3], y) + F.cross_entropy(scores[6], y) + 0.7 * taught
    torch.testing.assert_close(outcome.total, wanted)


def test_sandwich_training_keeps_small_ranks_good(tmp_path, digits):
    x, y, test_x, test_y = digits
    accuracies = {}
    for sandwich in (0, 2):
        torch.manual_seed(0)
        model = adlrns_mlp(hidden=(64, 64), r_min=4, r_max=32)
        config = {"epochs": 6, "lr": 3e-3, "sandwich": sandwich}
        loader = DataLoader(TensorDataset(x, y), 64, shuffle=True)
        trained(model, tmp_path / str(sandwich), config, loader)
        hidden = model.eval().hidden
        for rank in (4, 30):
            h = test_x
            for layer in hidden:
                h = layer.at_rank(h, rank).relu()
            hits = model.head(h).argmax(1) == test_y
            accuracies[sandwich, rank] = float(hits.double().mean())
    assert accuracies[2, 4] > accuracies[0, 4] + 0.02
    assert accuracies[2, 30] > accuracies[0, 30] - 0.02


def test_the_penalty_halves_the_arithmetic_of_a_net_that_reads_digits(tmp_path, digits):
    x, y, test_x, test_y = digits
    torch.manual_seed(0)
    model = adlrns_mlp(gate="learned", r_max=64, r_min=4)
    config = {"epochs": 10, "lr": 4e-3, "energy_penalty_weight": 0.05}
    loader = DataLoader(TensorDataset(x, y), 64, shuffle=True)
    trainer = trained(model, tmp_path, config, loader, [(test_x, test_y)])
    last = trainer.history[-1]
    assert last["val_accuracy"] >= 0.95
    assert last["val_flops"] < 0.5  # 0.61 without the penalty


def test_a_sandwich_needs_layers_with_ranks(tmp_path):
    with pytest.raises(ValueError, match="sandwich must be 0 for a model without"):
        ADLRNSTrainer(network(), {"sandwich": 2}, "cpu", tmp_path)


# what cannot be trained


@pytest.mark.parametrize(
    "config, error, message",
    [
        ({"epoch": 3}, ValueError, r"unknown key epoch: did you mean epochs\? It must be one of"),
        ({"zzz": 3}, ValueError, "unknown key zzz: must be one of epochs"),
        (
            dict.fromkeys(("energy_budget_mj_per_sample", "energy_budget_mJ_per_sample"), 1),
            ValueError,
            "energy_budget_mj_per_sample must be given once",
        ),
        ({"train": {"momentum": 1}}, ValueError, r"unknown key train\.momentum"),
        ({"scheduler": {"gamma": 1}}, ValueError, r"unknown key scheduler\.gamma"),
        ({"train": {}, "data": {}}, ValueError, "unknown key data: must be one of model, train"),
        ({"train": 3}, TypeError, "train must be a dict, got int"),
        ({"lr": "fast"}, ValueError, "lr must be a number, got 'fast'"),
        ({"lr": 0}, ValueError, "lr must be finite and positive, got 0"),
        ({"lr": "nan"}, ValueError, "lr must be finite and positive, got nan"),
        ({"lr": True}, TypeError, "lr must be a number, got True"),
        ({"beta": -1}, ValueError, "beta must be finite and not negative, got -1"),
        ({"epochs": 1.5}, TypeError, "epochs must be an integer, got 1.5"),
        ({"epochs": 0}, ValueError, "epochs must be in 1.., got 0"),
        ({"optimizer": "lion"}, ValueError, "optimizer must be one of"),
        ({"schedule": "plateau", "warmup_steps": 5}, ValueError, "warmup_steps must be 0"),
        ({"precision": "int8"}, ValueError, "precision must be one of"),
        ([], TypeError, "config must be a TrainConfig or a dict, got list"),
    ],
)
def test_a_wrong_configuration_is_named(tmp_path, config, error, message):
    with pytest.raises(error, match=message):
        ADLRNSTrainer(network(), config, "cpu", tmp_path)


def test_nothing_to_train_on_is_refused(tmp_path):
    empty = DataLoader(TensorDataset(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)))
    for loader in (empty, []):
        with pytest.raises(ValueError, match="train_loader must have at least one batch"):
            ADLRNSTrainer(network(), {}, "cpu", tmp_path).train(loader)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["energy_penalty_weight", "energy_budget_mj_per_sample"])
def test_energy_keys_that_no_layer_has_a_use_for_are_told(tmp_path, name, caplog):
    ADLRNSTrainer(dynamic(), {name: 0.1}, "cpu", tmp_path)
    assert not caplog.records
    ADLRNSTrainer(network(), {name: 0.1}, "cpu", tmp_path)  # a baseline by the same rules
    (record,) = caplog.records
    assert record.getMessage() == f"no effect on a model without dynamic layers: {name}"


@pytest.mark.parametrize("callback", [print, Callback])
def test_a_listener_that_is_none_is_refused(tmp_path, callback):
    with pytest.raises(TypeError, match=r"callbacks\[1\] must be a Callback, got"):
        ADLRNSTrainer(network(), {}, "cpu", tmp_path, callbacks=[Callback(), callback])


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_a_device_that_is_not_here_is_named(tmp_path, device):
    with pytest.raises(ValueError, match=f"device must be one that is here, got '{device}'"):
        ADLRNSTrainer(network(), {}, device, tmp_path)


def test_hardware_of_a_nested_configuration_is_what_layers_predict_for(tmp_path, caplog):
    own = PerfEstimator("h100")
    model = nn.Sequential(DynamicLinear(8, 8), DynamicLinear(8, 8, estimator=own))
    config = {"hardware": {"gpu_type": "V100", "energy_per_flop": "1e-6"}}
    ADLRNSTrainer(model, config | {"scheduler": {"type": "complexity"}}, "cpu", tmp_path)
    assert model[0].estimator.hardware.idle_power_w == 50
    assert model[0].estimator.hardware.energy_per_flop_j == pytest.approx(1e-12)
    assert model[1].estimator is own
    told = [record.getMessage() for record in caplog.records]
    assert "read as microjoules: 1e-12 J" in told[0]
    assert "scheduler.type 'complexity' has no effect" in told[1]
    with pytest.raises(ValueError, match="gpu_type must be one of"):
        ADLRNSTrainer(model, {"hardware": {"gpu_type": "V1000"}}, "cpu", tmp_path)


def test_both_spellings_of_the_budget_are_one():
    for name in ("energy_budget_mj_per_sample", "energy_budget_mJ_per_sample"):
        for given in ({name: "5.0"}, {"train": {name: 5}}, {"scheduler": {name: 5}}):
            assert TrainConfig.from_dict(given).energy_budget_mj_per_sample == 5.0


def test_a_budget_is_for_calls_of_a_batch():
    calls = [TrainConfig(batch_size=8), TrainConfig(batch_size=8, budget_batch=1), TrainConfig()]
    assert [config.calls_of for config in calls] == [8, 1, 1]


def test_numbers_may_be_strings():
    config = TrainConfig.from_dict({"lr": "1e-4", "epochs": "3", "clip_norm": "0.5"})
    assert (config.lr, config.epochs, config.clip_norm) == (1e-4, 3, 0.5)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_loaders_and_batches_that_cannot_be_used_are_named(tmp_path):
    def train(loader, **config):
        trained(network(), tmp_path, config, loader)

    with pytest.raises(TypeError, match="train_loader must have a length, got generator"):
        train(batch for batch in batches())
    with pytest.raises(ValueError, match="batch_size of the config, 16, got 8"):
        train(DataLoader(TensorDataset(*data()), 8), batch_size=16)
    with pytest.raises(TypeError, match="a batch must be a pair.*got Tensor"):
        train([data()[0]])
    frozen = network().requires_grad_(False)
    with pytest.raises(ValueError, match="model must have a parameter"):
        ADLRNSTrainer(frozen, {}, "cpu", tmp_path)
    assert not list(tmp_path.iterdir())


def test_listeners_hear_the_end_also_when_training_fails(tmp_path):
    heard = []

    class Note(Callback):
        def on_train_begin(self, trainer):
            heard.append(("begin", trainer.total_steps, trainer.is_first))

        def on_train_end(self, trainer):
            heard.append("end")

    with pytest.raises(TypeError, match="a batch must be"):
        trained(network(), tmp_path, {"epochs": 2}, [1, 2], callbacks=[Note()])
    assert heard == [("begin", 4, True), "end"]
