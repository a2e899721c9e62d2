"""The whole of `adlrns grow`."""

import copy
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from adlrns._beside import naming
from adlrns._console import remark, show, stage
from adlrns._datasets import Task, open_task
from adlrns._datasets_find import find
from adlrns._errors import CutShortError, RunError, UseError, from_user
from adlrns._experiment_train import divide
from adlrns._folder import try_folder
from adlrns._grow_checkpoint import only_begun, read
from adlrns._grow_lines import Lines
from adlrns._grow_net import check_answers, check_net, losses_of, open_net
from adlrns._grow_report import table_of, write_report
from adlrns._grow_settings import CHECKPOINT, Settings
from adlrns._grow_stop import Interrupts
from adlrns._grow_train import Course, Row, Training, forward_flops
from adlrns._grow_work import EXAMPLES, Work, to_csv
from adlrns._nets import device_of
from adlrns._run_folder import write_text
from adlrns._score import batches
from neuro_morph import GrowthGraph

PAGE, FIXED = "report.html", "without-growth.csv"
# of the training items, kept apart for decisions: a share, and how many at most
_HELD, _MOST = 0.15, 1000


def run(settings: Settings) -> None:
    """Trains and grows, prints what happens, and writes the folder."""
    out, lines = settings.out, Lines(sys.stdout, json=settings.json)
    state = read(settings) if settings.resume else None
    if state is None:
        if (out / CHECKPOINT).is_file():
            raise UseError(f"--out {out} holds a run: --resume goes on, or choose another folder")
        if not only_begun(out):
            check_out(out)
    device = device_of(settings.device)
    check_net(settings.model, settings.net)
    task = _open(settings)
    torch.manual_seed(settings.seed)
    net = open_net(settings.model, settings.net, task).to(device)
    course = _course(settings, task, device)
    _check(settings, net, course)
    _warn(settings, course)
    with naming(out):
        out.mkdir(parents=True, exist_ok=True)
    before = copy.deepcopy(net) if settings.compare else None
    torch.manual_seed(settings.seed)
    with Interrupts() as interrupts:
        work = _work(course, Training(net, course, interrupts.check), lines, state)
        work.run()
        grown, fixed = work.grown(), None
        write_report(out / PAGE, grown, settings, task, None)
        if before is not None:
            fixed = _without_growth(before, course, interrupts, lines)
            write_report(out / PAGE, grown, settings, task, fixed)
    if settings.json:
        lines.result(grown.history[-1], None if fixed is None else fixed[-1])
    else:
        show(table_of(grown, settings, task, fixed))
        lines.say(f"report: {(out / PAGE).resolve()}")


def check_out(out: Path) -> None:
    """Raises UseError for a folder that is neither new nor empty, or cannot be written."""
    if out.exists() and not out.is_dir():
        raise UseError(f"--out must be a folder, got the file {out}")
    if out.is_dir() and any(out.iterdir()):
        raise UseError(f"--out must be new or empty, got {out}, which holds something")
    try:
        try_folder(out)
    except OSError as error:
        raise UseError(
            f"--out must be a folder that can be written, got {out}: {error.strerror}"
        ) from error


def _open(settings: Settings) -> Task:
    found, size = find(settings.data), settings.size
    if size is not None and found.name != "imagenet":
        raise UseError(f"--size is for folders of pictures, got {found.name}")
    with stage(f"open {settings.data}"):
        task = open_task(found.name, found.path, {} if size is None else {"size": size})
    for text in task.notes:
        remark(text)
    return task


def _course(settings: Settings, task: Task, device: torch.device) -> Course:
    count = len(task.train)  # type: ignore[arg-type]
    if count < 2:
        raise UseError(f"--data {settings.data} must hold at least 2 training items, got {count}")
    parts = divide(task, min(_HELD, _MOST / count))
    steps = -(-len(parts.task.train) // settings.batch_size)  # type: ignore[arg-type]
    return Course(settings, parts, losses_of(task), device, steps * settings.epochs)


def _work(course: Course, training: Training, lines: Lines, state: dict[str, Any] | None) -> Work:
    """Returns the run, at its beginning or where it was cut short."""
    if state is None:
        return Work(course, training, lines)
    path = course.settings.out / CHECKPOINT
    if state["training"]["total"] != course.total:
        was = state["training"]["total"]
        raise UseError(f"--resume needs the data of the run: {was} steps, got {course.total}")
    try:
        work = Work(course, training, lines)
        work.go_on(path, state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise RunError(f"{path}: does not fit the network: {error}") from None
    return work


def _check(settings: Settings, net: nn.Module, course: Course) -> None:
    """Raises UseError for what can be told before anything is trained or written."""
    task, device = course.parts.task, course.device
    x, y = next(batches(task.train, size=EXAMPLES, device=device))
    check_answers(settings.model, net, task, (x, y))
    where = f"MODEL {settings.model}"
    with from_user(where):
        groups = GrowthGraph.capture(net, x).groups()
    if not any(group.growable for group in groups):
        why = groups[0].reason if groups else "it has no units"
        raise UseError(f"{where} has nothing that can grow: {why}")
    begins = (
        ("--max-parameters", settings.max_parameters, sum(p.numel() for p in net.parameters())),
        ("--max-flops", settings.max_flops, forward_flops(net, task, device)),
    )
    for name, most, now in begins:
        if most is not None and most <= now:
            raise UseError(f"{name} must be above the {now} that {where} begins with, got {most}")


def _warn(settings: Settings, course: Course) -> None:
    """Says so where trials take more than the training that they are for."""
    if (most := settings.trials(course.total)) > course.total:
        remark(
            f"trials may take {most:,} steps, training has {course.total:,}: more --epochs, fewer "
            "--events or --trial-steps, or --no-tournament"
        )


def _without_growth(
    net: nn.Module, course: Course, interrupts: Interrupts, lines: Lines
) -> list[Row]:
    """Trains the network that the other one began as, in the same way, but without growth."""
    settings = course.settings
    torch.manual_seed(settings.seed)
    training = Training(net, course, interrupts.check)

    def keep() -> None:
        write_text(settings.out / FIXED, to_csv(training.history))
        if not settings.json:
            metric = course.parts.task.metric
            lines.progress(training.history[-1], epochs=settings.epochs, metric=metric)

    try:
        with stage(f"train {settings.model} without growth") as advance:
            training.run(grow=lambda loss: None, advance=advance, after_epoch=keep)
    except KeyboardInterrupt:
        raise CutShortError(
            f"interrupted: {settings.out} holds the whole run with growth; --resume --compare "
            "trains the one without growth again"
        ) from None
    return training.history
