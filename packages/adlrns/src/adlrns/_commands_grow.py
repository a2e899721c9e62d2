"""The command that trains a network and grows it."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adlrns import _commands
from adlrns._commands import Threads, compute_with
from adlrns._errors import CutShortError, UseError
from adlrns._grow_settings import CHECKPOINT, Settings


class Init(StrEnum):
    """How new units begin."""

    ZERO_FAN_OUT = "zero-fan-out"
    SPLIT = "split"
    DIVIDE = "divide"
    GRADMAX = "gradmax"
    TINY = "tiny"


class When(StrEnum):
    """What says that it is time to grow."""

    PLATEAU = "plateau"
    PERIOD = "period"


def grow(
    model: Annotated[
        str,
        typer.Argument(
            help="A reference net (adlrns_mlp, adlrns_resnet, adlrns_vit, adlrns_transformer) or "
            "module:factory.",
            metavar="MODEL",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="PATH, NAME:PATH, or digits, as for train; a folder of pictures as CLASS/PICTURE, "
            "or train/CLASS and val/CLASS with those.",
            metavar="DATA",
        ),
    ],
    net: Annotated[
        list[str] | None,
        typer.Option(
            help="Of a reference net, any number of times: hidden=16,16 width=8 depth=2 ...",
            metavar="KEY=VALUE",
            show_default="its own sizes",
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Folder of the run; new, empty, or see --resume.")
    ] = Path("grown"),
    size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Pixels a side, of folders of pictures.",
            show_default="their own if all are alike and small, else 128",
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 20,
    lr: Annotated[float, typer.Option(help="Learning rate of AdamW.")] = 2e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Samples a training step.")] = 64,
    max_parameters: Annotated[
        int | None,
        typer.Option(min=1, help="The most that the network may have.", show_default="no limit"),
    ] = None,
    max_flops: Annotated[
        int | None,
        typer.Option(
            min=1, help="The most that it may take for one sample.", show_default="no limit"
        ),
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="How often it may grow.")] = 4,
    by: Annotated[float, typer.Option(help="Share of its units that a group is given.")] = 0.5,
    init: Annotated[Init, typer.Option(help="How new units begin.")] = Init.ZERO_FAN_OUT,
    when: Annotated[
        When, typer.Option(help="When the loss hardly falls any more, or at fixed intervals.")
    ] = When.PERIOD,
    tournament: Annotated[
        bool,
        typer.Option(
            "--tournament/--no-tournament",
            help="Try the best groups out and keep the one that gains, or none; or take the best "
            "by score.",
        ),
    ] = True,
    trial_steps: Annotated[
        int | None,
        typer.Option(
            min=1, help="Training steps of each trial.", show_default="by the run's length"
        ),
    ] = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="Also train the same network without growth.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the network and of all draws.")] = 0,
    device: Annotated[str, typer.Option(help="As torch names it.")] = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out that was cut short.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Events and the result as lines of JSON on stdout.")
    ] = False,
    threads: Threads = 0,
) -> None:
    """Train a network that grows while it is trained, where growing is found to help.

    Widens groups of units so that the network computes what it did. Which, is decided by trials on
    items that are kept from training; what does not help is undone. Writes events.jsonl,
    architecture.json, grown.safetensors, history.csv and report.html. Reference nets have plain
    layers here. A run that was cut short and resumed ends as one that never was.

    Example: [bold]adlrns grow adlrns_mlp --net hidden=8,8 --data digits --compare[/bold]
    """
    for name, value in (("--by", by), ("--lr", lr)):
        if not 0 < value < math.inf:
            raise UseError(f"{name} must be finite and above 0, got {value}")
    settings = Settings(
        model=model,
        data=data,
        net=tuple(net or ()),
        out=out,
        size=size,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        max_parameters=max_parameters,
        max_flops=max_flops,
        events=events,
        by=by,
        init=init.value,
        when=when.value,
        tournament=tournament,
        trial_steps=trial_steps,
        compare=compare,
        seed=seed,
        device=device,
        resume=resume,
        json=json,
        command=_commands._command(),
    )
    try:
        compute_with(threads)
        from adlrns._grow import run

        run(settings)
    except KeyboardInterrupt:  # what says nothing itself
        raise CutShortError(f"interrupted{_kept(out)}") from None


def _kept(out: Path) -> str:
    if (out / CHECKPOINT).is_file():
        return f"; --resume goes on from the last checkpoint in {out}"
    return " before the first checkpoint: there is nothing to go on from"
