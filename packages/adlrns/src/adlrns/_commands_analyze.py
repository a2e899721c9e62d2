"""The command that says what matters in a model."""

from pathlib import Path
from typing import Annotated

import typer

from adlrns._commands import Threads, compute_with
from adlrns._errors import UseError


def analyze(
    model: Annotated[
        str,
        typer.Argument(
            help="module:factory, timm:NAME, or hf:PATH (a local folder), opened with the head "
            "that --task needs if it has one.",
            metavar="MODEL",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            help="Real batches: module:function returning them, as (inputs, labels) or mappings "
            "with labels; or a file of inputs. Without labels fewer methods run.",
            metavar="DATA",
        ),
    ],
    methods: Annotated[
        str, typer.Option(help="Names, by commas; auto chooses by what there is and --seconds.")
    ] = "auto",
    task: Annotated[str, typer.Option(help="What the model is for.")] = "classification",
    modality: Annotated[
        str, typer.Option(help="What it reads; auto looks at the first batch.")
    ] = "auto",
    seconds: Annotated[
        float | None, typer.Option(help="About how long it may take.", show_default="no limit")
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="Also plan for so many times fewer parameters.", show_default="no plan"),
    ] = None,
    curve: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Also measure quality with 1 to so many units gone, the least important first.",
            show_default="no curve",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier result is replaced.")] = (
        Path("analysis")
    ),
    batches: Annotated[int, typer.Option(min=1, help="Batches to take at most.")] = 64,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples a batch, for files.", show_default="32")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of all draws.")] = 0,
    json: Annotated[
        bool,
        typer.Option(
            "--json", help="All that was found as one JSON document on stdout, not the table."
        ),
    ] = False,
    threads: Threads = 0,
) -> None:
    """Say which layers of a trained model matter, how far to trust that, and which can go.

    Scores every unit by many methods in one pass over DATA, holds them against the measured damage
    of leaving units out, and writes one folder: report.json, scores.csv, report.html and, with
    --target, plan.json, with --curve, curve.csv. The model stays as it is.

    Example: [bold]adlrns analyze mymodels:resnet --data mymodels:batches --target 1.5[/bold]
    """
    if seconds is not None and not seconds > 0:
        raise UseError(f"--seconds must be above 0, got {seconds}")
    if target is not None and not target >= 1:
        raise UseError(f"--target must be at least 1, got {target}")
    compute_with(threads)
    from adlrns._analyze import Request, check_out, run

    check_out(out)
    limits = (seconds, target, curve, out, batches, batch_size, seed)
    run(Request(model, data, methods, task, modality, *limits, json))
