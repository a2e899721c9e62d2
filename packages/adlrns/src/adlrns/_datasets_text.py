"""Text: the tab-separated tasks of GLUE, and plain text to continue."""

import csv
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import TensorDataset

from adlrns._datasets import Task, no_more, option, shuffled, tensors
from adlrns._errors import UseError

PADDING, UNKNOWN, BREAK = "<pad>", "<unk>", "<sep>"
_WORD = re.compile(r"\w+|[^\w\s]")


class Columns(NamedTuple):
    """Where a task keeps its sentences and its label: numbers, or names in the first line."""

    sentences: tuple[str | int, ...]
    label: str | int
    kind: str = "classification"
    metric: str = "accuracy"
    valid: str = "dev"


# Wang et al. 2019, "GLUE", and the files as they were published
GLUE = {
    "cola": Columns((3,), 1),
    "sst-2": Columns(("sentence",), "label"),
    "mrpc": Columns(("#1 String", "#2 String"), "Quality"),
    "sts-b": Columns(("sentence1", "sentence2"), "score", "regression", "spearman"),
    "stsbenchmark": Columns((5, 6), 4, "regression", "spearman"),
    "qqp": Columns(("question1", "question2"), "is_duplicate"),
    "mnli": Columns(("sentence1", "sentence2"), "gold_label", valid="dev_matched"),
    "qnli": Columns(("question", "sentence"), "label"),
    "rte": Columns(("sentence1", "sentence2"), "label"),
    "wnli": Columns(("sentence1", "sentence2"), "label"),
}


def open_glue(path: Path, options: dict[str, Any]) -> Task:
    """Returns a GLUE task: a folder named like it with ``train.tsv`` and ``dev.tsv``.

    The option ``task`` says which one where the folder has another name. Words are those of the
    training sentences; pairs are joined by a mark between them.
    """
    name = option(options, "task", path.name, str).lower()
    words = option(options, "vocabulary", 20_000, int)
    length = option(options, "length", 64, int)
    limit = option(options, "limit", None, int)
    no_more(options, "glue")
    if name not in GLUE:
        raise UseError(f"data.task must be one of {', '.join(GLUE)}, got {name!r}")
    columns = GLUE[name]
    parts = [_examples(_file(path, part), columns) for part in ("train", columns.valid)]
    return _sentence_task(parts, columns, words=words, length=length, limit=limit)


def _file(folder: Path, part: str) -> Path:
    for name in (f"{part}.tsv", f"sts-{part}.csv"):
        if (folder / name).is_file():
            return folder / name
    raise UseError(f"{folder / part}.tsv: no such file")


def _examples(path: Path, columns: Columns) -> list[tuple[list[str], str]]:
    lines = _lines(path, delimiter="\t", quoting=csv.QUOTE_NONE)
    return _taken(path, lines, (*columns.sentences, columns.label))


def _lines(path: Path, **style: Any) -> list[list[str]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [line for line in csv.reader(file, **style) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UseError(f"{path}: not readable as a table of text: {error}") from None


def _taken(
    path: Path, lines: list[list[str]], wanted: tuple[str | int, ...]
) -> list[tuple[list[str], str]]:
    """Returns sentences and label of each line; names of columns stand in the first."""
    named = [column for column in wanted if isinstance(column, str)]
    head = lines.pop(0) if named and lines else []
    if missing := [name for name in named if name not in head]:
        raise UseError(f"{path}: line 1 must name column {missing[0]!r}, got {head}")
    places = [head.index(c) if isinstance(c, str) else c for c in wanted]
    found = []
    for number, line in enumerate(lines, 1):
        if len(line) <= max(places):
            raise UseError(
                f"{path}: example {number} must have at least {max(places) + 1} columns, "
                f"got {len(line)}"
            )
        *sentences, label = (line[place] for place in places)
        found.append((sentences, label))
    if not found:
        raise UseError(f"{path}: must hold at least one example, got none")
    return found


def open_sentences(path: Path, options: dict[str, Any]) -> Task:
    """Returns a folder of ``train.csv`` and ``test.csv`` with columns ``text`` and ``category``."""
    words = option(options, "vocabulary", 20_000, int)
    length = option(options, "length", 32, int)
    limit = option(options, "limit", None, int)
    no_more(options, "sentences")
    columns = Columns(("text",), "category")
    parts = [_comma_separated(path / f"{part}.csv", columns) for part in ("train", "test")]
    return _sentence_task(parts, columns, words=words, length=length, limit=limit)


def _comma_separated(path: Path, columns: Columns) -> list[tuple[list[str], str]]:
    if not path.is_file():
        raise UseError(f"{path}: no such file")
    return _taken(path, _lines(path), (*columns.sentences, columns.label))


def _sentence_task(
    parts: list[list[tuple[list[str], str]]],
    columns: Columns,
    *,
    words: int,
    length: int,
    limit: int | None,
) -> Task:
    vocabulary = _vocabulary((text for text, _ in parts[0]), words)
    labels = sorted({label for _, label in parts[0]})
    train, valid = (_encode(part, vocabulary, labels, columns, length) for part in parts)
    classes = 1 if columns.kind == "regression" else len(labels)
    fit = {"vocabulary": len(vocabulary), "length": length, "classes": classes}
    x, y = train.tensors
    # the files may be ordered by label
    order = shuffled(len(x))[:limit]
    return Task(tensors(x[order], y[order]), valid, columns.kind, fit, columns.metric, vocabulary)


def _encode(
    examples: list[tuple[list[str], str]],
    vocabulary: tuple[str, ...],
    labels: list[str],
    columns: Columns,
    length: int,
) -> TensorDataset:
    numbers = {word: i for i, word in enumerate(vocabulary)}
    rows = torch.zeros(len(examples), length, dtype=torch.long)
    targets: list[float] = []
    for i, (sentences, label) in enumerate(examples):
        words = [word for s in sentences for word in (*_words(s), BREAK)][:-1][:length]
        rows[i, : len(words)] = torch.tensor([numbers.get(w, 1) for w in words], dtype=torch.long)
        targets.append(_target(label, labels, columns))
    regression = columns.kind == "regression"
    return TensorDataset(
        rows, torch.tensor(targets, dtype=torch.float if regression else torch.long)
    )


def _target(label: str, labels: list[str], columns: Columns) -> float:
    if columns.kind == "regression":
        try:
            return float(label)
        except ValueError:
            raise UseError(f"column {columns.label!r} must be a number, got {label!r}") from None
    if label not in labels:
        raise UseError(f"column {columns.label!r} must be one of {labels}, got {label!r}")
    return labels.index(label)


def _words(sentence: str) -> list[str]:
    return _WORD.findall(sentence.lower())


def _vocabulary(texts: Iterable[list[str]], most: int) -> tuple[str, ...]:
    counts = Counter(word for sentences in texts for s in sentences for word in _words(s))
    ranked = sorted(counts, key=lambda word: (-counts[word], word))
    return (PADDING, UNKNOWN, BREAK, *ranked[: max(0, most - 3)])
