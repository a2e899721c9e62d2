"""Models larger than memory: one unit's weights at a time."""

import copy
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from layer_importance._analyze import named_methods
from layer_importance._batch import filled, to_device
from layer_importance._depth_gate import check_ungated
from layer_importance._discover import discover
from layer_importance._forwards import replaced
from layer_importance._layout import layouts
from layer_importance._method import Method, SweepMethod
from layer_importance._modalities import find_modality
from layer_importance._modality import Modality
from layer_importance._pace import Pace
from layer_importance._preserve import preserved
from layer_importance._registry import Registry
from layer_importance._report import Report
from layer_importance._run import Progress, Run
from layer_importance._structure import mapped, tensors
from layer_importance._subject import Subject
from layer_importance._task import Task
from layer_importance._tasks import task as find_task
from layer_importance._weights_on_disk import Weights, without_weights


def analyze_streamed(
    build: Callable[[], nn.Module],
    files: str | Path | Iterable[str | Path],
    batches: Sequence[Any],
    *,
    methods: Sequence[str | Method] = ("block_influence", "layer_correlation"),
    task: str | Task = "classification",
    units: Sequence[str] | None = None,
    modality: str | Modality | None = None,
    activations: str | Path | None = None,
    seed: int = 0,
    registry: Registry | None = None,
    progress: Progress | None = None,
) -> Report:
    """Returns what :func:`layer_importance.analyze` does, with one unit in memory at a time.

    Unit by unit, its weights are read, all batches go through it, and what it hands on is kept;
    then the weights go. At the end methods hear of all units batch by batch, as ever. In memory at
    once are the weights outside of units and those of one unit. Only methods that look at what
    goes into units and comes out can run so; the report says why others did not. Columns that
    read weights, as some of ``spectral_analysis`` do, are left out.

    Args:
        build: makes the model, whose weights are never looked at: parameters are made one at a
            time, and dropped.
        files: its weights, as safetensors: a file, a folder or several files.
        batches: batches in the form the task reads; gone through once for each unit.
        methods: methods or their names.
        task: a task or its name.
        units: paths of what to score; found if not given.
        modality: what kind of data it is, if it is to say what is padding.
        activations: a folder for what units hand on; kept in memory if not given.
        seed: of everything drawn at random.
        registry: where names of methods are looked up.
        progress: told what is done.

    Raises:
        ValueError: if files do not fit the model, a unit is called more than once, or as
            :func:`layer_importance.analyze` does.
        FileNotFoundError: if there are no files.
    """
    with without_weights():
        model = build()
    check_ungated(model)
    weights = Weights(model, files)
    chosen = named_methods(methods, registry)
    subject = _subject(model, batches, find_task(task), units, modality, seed)
    refused = {m.name: why for m in chosen if (why := _unmet(m))}
    run = Run(subject, progress, time.perf_counter, time.perf_counter(), None)
    paths = [unit.path for unit in subject.units]
    with (
        weights.outside_of(paths),
        _folder(activations) as folder,
        preserved(model, gradients=False),
    ):
        kept = _Kept(folder)
        for place, path in enumerate(paths):
            with weights.of([model.get_submodule(path)]):
                _through(subject, paths, place, kept)
            run.progress("units", place + 1)
        run.pace = pace = _At()
        with replaced(model, dict.fromkeys(paths), _given(lambda: pace.index, kept)):
            run.ask([m for m in chosen if m.name not in refused])
    run.reasons |= refused
    run.notes.append("weights of units were not in memory: columns that read them are left out")
    return run.report("not asked for" if modality is None else "given")


def _subject(
    model: nn.Module,
    batches: Sequence[Any],
    task: Task,
    units: Sequence[str] | None,
    modality: str | Modality | None,
    seed: int,
) -> Subject:
    """What is studied; what there is in it is found on a twin that computes shapes alone."""
    twin, meta = copy.deepcopy(model).to("meta"), torch.device("meta")
    _, given = next(filled(batches), (0, None))
    if given is None:
        raise ValueError("batches must give at least one batch with a sample, got none")
    first = to_device(given, meta)
    found = discover(twin, first, units=units, call=task.inputs(first))
    if several := [unit.name for unit in found if unit.call is not None]:
        raise ValueError(f"units must be called once each, got {', '.join(several)}")
    kind = None if modality is None else find_modality(modality, given)
    subject = Subject(model, found, task, batches, seed=seed, modality=kind)
    subject.device = torch.device("cpu")
    subject.first = given
    shapes = Subject(twin, found, task, [first], seed=seed, modality=kind)
    subject._layouts = layouts(twin, shapes.call, first, divisible=subject.divisible)
    return subject


def _unmet(method: Method) -> str:
    if not isinstance(method, SweepMethod):
        return "runs the model itself, whose weights are not in memory"
    if method.needs - {"data", "labels"}:
        return "needs gradients, and the weights are not in memory"
    for name in ("hooks", "inputs"):
        if getattr(type(method), name) is not getattr(SweepMethod, name):
            return "looks inside of units, whose weights are not in memory"
    return ""


class _Stop(BaseException):
    """A unit has run: the rest need not."""


def _through(subject: Subject, paths: Sequence[str], place: int, kept: "_Kept") -> None:
    """Sends all batches through one unit, and keeps what it hands on."""
    for index, batch in enumerate(subject.batches()):

        def wrap(path: str, forward: Callable[..., Any], index: int = index) -> Any:
            if path != paths[place]:
                return lambda *args, **kwargs: kept.get(index, path)

            def ran(*args: Any, **kwargs: Any) -> Any:
                kept.put(index, path, forward(*args, **kwargs))
                raise _Stop

            return ran

        with replaced(subject.model, dict.fromkeys(paths[: place + 1]), wrap):
            try:
                subject.forward(batch)
            except _Stop:
                continue
        raise ValueError(f"unit {paths[place]} must run for every batch, it did not for {index}")


def _given(index: Callable[[], int], kept: "_Kept") -> Callable[..., Any]:
    return lambda path, forward: lambda *args, **kwargs: kept.get(index(), path)


class _Kept:
    """What units handed on, by batch and path: in memory, or its tensors in files."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._found: dict[tuple[int, str], Any] = {}

    def put(self, index: int, path: str, output: Any) -> None:
        """Keeps an output."""
        if self._folder is None:
            self._found[index, path] = output
            return
        named = {str(i): t.contiguous().clone() for i, t in enumerate(tensors(output))}
        safetensors.torch.save_file(named, self._file(index, path))
        self._found[index, path] = mapped(output, lambda tensor: tensor.to("meta"))

    def get(self, index: int, path: str) -> Any:
        """Returns it."""
        found = self._found[index, path]
        if self._folder is None:
            return found
        named = safetensors.torch.load_file(self._file(index, path))
        values = iter([named[str(i)] for i in range(len(named))])
        return mapped(found, lambda tensor: next(values))

    def _file(self, index: int, path: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{index}.{path}.safetensors"


class _At(Pace):
    """Knows which batch is on its way."""

    index = 0

    def before(self, index: int) -> None:
        """It is this one."""
        super().before(index)
        self.index = index


@contextmanager
def _folder(place: str | Path | None) -> Iterator[Path | None]:
    if place is None:
        with nullcontext():
            yield None
        return
    Path(place).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=place) as folder:
        yield Path(folder)
