"""What the dynamic layers of a network are predicted to spend on a sample, beside a budget."""

from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adlrns._config_file import Config
from adlrns._datasets import Task
from adlrns._nets import make_net, serving
from adlrns_models import iter_dynamic_layers

# ranks may differ from sample to sample: energy is that of so many
_SAMPLES = 256


class Range(NamedTuple):
    """Millijoules a sample with all layers at their smallest and at their largest rank."""

    least: float
    most: float


def range_of(config: Config, task: Task) -> Range | None:
    """Returns between what a budget decides; None without one, or without dynamic layers."""
    if config.scheduler.energy_budget_mJ_per_sample is None:
        return None
    with torch.random.fork_rng(devices=[]):
        net = make_net(config, task).eval()
    with torch.no_grad(), serving(config, net):
        net(_inputs(task, 1, "cpu"))  # costs are those of the size that was seen
    batch = config.training(0).calls_of
    costs = [
        (_millijoules(layer, layer.r_min, batch), _millijoules(layer, layer.max_rank, batch))
        for layer in iter_dynamic_layers(net)
    ]
    return Range(*map(sum, zip(*costs, strict=True))) if costs else None


def note(config: Config, found: Range | None) -> str | None:
    """Returns what a reader must know of a budget that decides nothing."""
    budget = config.scheduler.energy_budget_mJ_per_sample
    if found is None or budget is None or found.least < budget < found.most:
        return None
    low = budget <= found.least
    what = "every layer stays at its smallest rank" if low else "it limits no layer"
    side = f"at most the {found.least:.4g} mJ" if low else f"at least the {found.most:.4g} mJ"
    end = "smallest" if low else "largest"
    return (
        f"scheduler.energy_budget_mJ_per_sample of {budget:g} decides nothing: it is {side} that a "
        f"sample is predicted to take with all layers at their {end} rank, so {what}; between "
        f"{found.least:.4g} and {found.most:.4g} mJ it would decide ({where(config)})"
    )


def where(config: Config) -> str:
    """Returns what a prediction is for."""
    return (
        f"{config.hardware.estimator().hardware.name}, calls of {config.training(0).calls_of} "
        "samples, the products of the layers with ranks"
    )


def served_mj(config: Config, net: nn.Module, task: Task, device: Any) -> float | None:
    """Returns the millijoules a sample at the ranks that validation inputs get under the budget."""
    layers = list(iter_dynamic_layers(net))
    if config.scheduler.energy_budget_mJ_per_sample is None or not layers:
        return None
    was_training = net.training
    net.eval()
    with torch.no_grad(), serving(config, net):
        net(_inputs(task, _SAMPLES, device))
    net.train(was_training)
    batch = config.training(0).calls_of
    return sum(_mean_millijoules(layer, batch) for layer in layers)


def _inputs(task: Task, most: int, device: Any) -> Tensor:
    x: Tensor
    x, _ = next(iter(DataLoader(task.valid, batch_size=most)))
    return x.to(device)


def _mean_millijoules(layer: Any, batch: int) -> float:
    rank = layer.last_rank
    ranks = rank.flatten().tolist() if isinstance(rank, Tensor) else [rank]
    cost = {r: _millijoules(layer, int(r), batch) for r in set(ranks)}
    return fmean(cost[r] for r in ranks)


def _millijoules(layer: Any, rank: int, batch: int) -> float:
    return 1e3 * float(layer.cost(rank, batch=batch).energy_j) / batch
