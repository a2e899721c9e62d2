"""Metrics and tournaments against planted bottlenecks, beside trivial rules.

    python packages/neuro-morph/benchmarks/bench_bottleneck.py \\
        [--cases N] [--tests AB] [--quick] [--csv FILE]

Networks with four hidden layers, partly trained. Test A: one layer is 3 wide, the others 32. Test
B: all are 7 wide and the teacher is wide in one layer only. The truth is measured: every layer is
given four units and the network trained to its end, 1,500 steps over which the learning rate falls
to nothing, four times, from other random numbers and measured on other examples than in
tournaments. Each rule names one layer. Counted are how often it is the planted one, how often its
measured gain is within a tenth of the best (with the mean part of the best gain), and the mean rank
correlation with the measured gains. `near soon` counts against a noisier truth as well: three times
400 steps at the learning rate of the middle of a run.
"""

import argparse
import csv
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from scipy import stats
from torch import Tensor, nn

from neuro_morph import GrowthGraph, Morpher, Widen
from neuro_morph._metrics import METRICS
from neuro_morph._score import metric_values, scores_of
from neuro_morph._statistics import collect_statistics
from neuro_morph._tournament import Tournament
from neuro_morph._trial import held_out, train, trial

LAYERS = ("0", "2", "4", "6")
BATCH, RATE = 64, 3e-3
END, SOON = (1500, 4, True), (400, 3, False)  # steps, repeats, whether the learning rate falls


def mlp(widths: list[int]) -> nn.Sequential:
    layers = [layer for a, b in pairwise(widths) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def loss_fn(model: nn.Module, batch: Any) -> Tensor:
    return (model(batch[0]) - batch[1]).square().mean(1)


def mean_loss(model: nn.Module, batch: Any) -> Tensor:
    return loss_fn(model, batch).mean()


def teacher(widths: list[int]) -> nn.Sequential:
    net = mlp(widths)
    for p in net.parameters():
        p.data = torch.randn_like(p) * (2 / p.shape[-1] if p.dim() > 1 else 0.1) ** 0.5
    return net


def case(test: str, k: int) -> tuple[Morpher, list[Any], list[Any], str]:
    """A partly trained run, its training and held-out batches, and the planted layer."""
    torch.manual_seed(1000 + k)
    place = k % len(LAYERS)
    theirs = [8, 32, 32, 32, 32, 4] if test == "A" else [8, 7, 7, 7, 7, 4]
    mine = [8, 32, 32, 32, 32, 4] if test == "A" else [8, 7, 7, 7, 7, 4]
    (mine if test == "A" else theirs)[1 + place] = 3 if test == "A" else 48
    net = teacher(theirs)
    x = torch.randn(4096, 8)
    y = net(x).detach()
    y = (y - y.mean(0)) / y.std(0)
    batches = list(zip(x.split(BATCH), y.split(BATCH), strict=True))
    model = mlp(mine)
    optimizer = torch.optim.Adam(model.parameters(), RATE)
    morpher = Morpher(model, optimizer, example_inputs=x[:2], capture="dispatch")
    learn(morpher, batches[:48], 500, k)
    return morpher, batches[:48], batches[48:], LAYERS[place]


def learn(
    morpher: Morpher, batches: list[Any], steps: int, seed: int, *, cool: bool = False
) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randint(0, len(batches), (steps,), generator=generator).tolist()
    train(morpher, [batches[k] for k in order], loss_fn, None, cool=cool)


def measured_gains(
    morpher: Morpher, batches: list[Any], held: list[Any], how: tuple[int, int, bool]
) -> dict[str, float]:
    steps, repeats, cool = how
    gains = dict.fromkeys(LAYERS, 0.0)
    for repeat in range(repeats):
        ends = {}
        for layer in (None, *LAYERS):
            with trial(morpher):
                morpher.generator.manual_seed(77 + repeat)
                if layer is not None:
                    morpher.apply(Widen(layer, by=4))
                learn(morpher, batches, steps, 555 + repeat, cool=cool)
                ends[layer] = float(held_out(morpher.model, held, loss_fn).mean())
        for layer in LAYERS:
            gains[layer] += (ends[None] - ends[layer]) / repeats
    return gains


def rules(
    morpher: Morpher, batches: list[Any], held: list[Any], *, quick: bool
) -> dict[str, dict[str, float]]:
    """What each rule gives every layer, the largest chosen."""
    graph: GrowthGraph = morpher.graph
    seen = collect_statistics(morpher.model, graph, batches[:8], mean_loss)
    found = {f"metric {name}": metric_values(seen, name) for name in METRICS}
    found["default score"] = scores_of(seen)
    found["baseline: narrowest"] = {name: -float(graph[name].size) for name in LAYERS}
    found["baseline: first layer"] = {name: -float(name) for name in LAYERS}
    found["baseline: last layer"] = {name: float(name) for name in LAYERS}
    noise = torch.rand(len(LAYERS)).tolist()
    found["baseline: random"] = dict(zip(LAYERS, noise, strict=True))
    for steps, repeats in () if quick else ((100, 1), (100, 3), (400, 1), (400, 4)):
        name = f"tournament of {steps} steps, {repeats} times"
        found[name] = tournament(morpher, batches, held, steps, repeats)
    return found


def tournament(
    morpher: Morpher, batches: list[Any], held: list[Any], steps: int, repeats: int
) -> dict[str, float]:
    """The gains of a tournament; it measures on other held-out batches than the truth."""
    played = Tournament(
        morpher,
        loss_fn,
        batches,
        held,
        steps=steps,
        repeats=repeats,
        per=None,
        min_gain=float("inf"),
    ).run([Widen(layer, by=4) for layer in LAYERS])
    return {t.edit.target: t.gain.mean if t.gain else -1e9 for t in played.trials}


def rows(test: str, k: int, *, quick: bool) -> list[dict[str, Any]]:
    morpher, batches, held, planted = case(test, k)
    held, far = held[:8], held[8:]
    gains = dict.fromkeys(LAYERS, 0.0)
    gains[planted] = 1.0  # taken for granted where nothing is measured
    soon = gains
    if not quick:
        gains, soon = (measured_gains(morpher, batches, far, how) for how in (END, SOON))
    best = max(gains.values())
    found = []
    for name, values in rules(morpher, batches, held, quick=quick).items():
        chosen = max(LAYERS, key=lambda layer: values[layer])
        same = len(set(values.values())) == 1
        pair = [[held[layer] for layer in LAYERS] for held in (values, gains)]
        rho = 0.0 if same else float(stats.spearmanr(*pair)[0])
        found.append(
            {
                "test": test,
                "case": k,
                "rule": name,
                "chosen": chosen,
                "planted": planted,
                "found": int(chosen == planted),
                "part": gains[chosen] / best,
                "near": int(gains[chosen] >= 0.9 * best),
                "near soon": int(soon[chosen] >= 0.9 * max(soon.values())),
                "spearman": rho,
                **{f"gain {layer}": gains[layer] for layer in LAYERS},
                **{f"gain soon {layer}": soon[layer] for layer in LAYERS},
            }
        )
    return found


def counts(found: list[dict[str, Any]], test: str) -> None:
    """How often each rule names the planted layer, where nothing else was measured."""
    mine = [row for row in found if row["test"] == test]
    cases = len({row["case"] for row in mine})
    print(f"\ntest {test}: the planted layer found in {cases} cases")
    for name in dict.fromkeys(row["rule"] for row in mine):
        print(f"{name:38} {sum(row['found'] for row in mine if row['rule'] == name):3}/{cases}")


def summary(found: list[dict[str, Any]], test: str) -> None:
    mine = [row for row in found if row["test"] == test]
    cases = len({row["case"] for row in mine})
    first = [row for row in mine if row["rule"] == "default score"]
    gains = [[row[f"gain {layer}"] for layer in LAYERS] for row in first]
    base = sum(sum(g >= 0.9 * max(each) for g in each) / 4 for each in gains)
    winners = [LAYERS[each.index(max(each))] for each in gains]
    truth = sum(w == row["planted"] for w, row in zip(winners, first, strict=True))
    print(
        f"\ntest {test}, {cases} cases: the planted layer gained the most in {truth}; a layer drawn"
    )
    print(f"at random is the planted one in {cases / 4:g} and near the best in {base:.1f}")
    print(f"{'rule':38} found  near best  part of best  spearman  near soon")
    for name in dict.fromkeys(row["rule"] for row in mine):
        each = [row for row in mine if row["rule"] == name]

        def mean(key: str, held: list[dict[str, Any]] = each) -> float:
            return sum(row[key] for row in held) / len(held)

        print(
            f"{name:38} {cases * mean('found'):3.0f}/{cases}  {cases * mean('near'):6.0f}/{cases}"
            f"  {mean('part'):12.2f}  {mean('spearman'):8.2f}  {cases * mean('near soon'):6.0f}"
        )


def write(path: Path, found: list[dict[str, Any]]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        if new:
            writer.writeheader()
        writer.writerows(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--first", type=int, default=0, help="the first case")
    parser.add_argument("--tests", default="AB")
    parser.add_argument("--quick", action="store_true", help="no measured gains, no tournaments")
    parser.add_argument("--csv", help="rows are added to it after every case")
    wanted = parser.parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for test in wanted.tests:
        for k in range(wanted.first, wanted.cases):
            mine = rows(test, k, quick=wanted.quick)
            found += mine
            if wanted.csv:
                write(Path(wanted.csv), mine)
    for test in wanted.tests:
        (counts if wanted.quick else summary)(found, test)


if __name__ == "__main__":
    main()
