"""The commands that follow a configuration file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from adlrns import _commands
from adlrns._commands import Threads, compute_with
from adlrns._errors import CutShortError, UseError

Data = Annotated[
    str | None,
    typer.Option(help="PATH, NAME:PATH, or digits.", show_default="the configuration's"),
]
Seeds = Annotated[
    str | None, typer.Option(help="Seeds, by commas.", show_default="the configuration's")
]
Device = Annotated[
    str | None, typer.Option(help="As torch names it.", show_default="the configuration's")
]


def train(
    config: Annotated[
        Path, typer.Argument(help="YAML file: model, train, data and more.", metavar="CONFIG")
    ],
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs; new, empty, or see --resume.")] = (
        Path("runs")
    ),
    seeds: Seeds = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the runs in --out, if there are any.")
    ] = False,
    device: Device = None,
    threads: Threads = 0,
) -> None:
    """Train a network with a rank dial by a configuration file, one run a seed.

    Each seed gets a folder with checkpoints, metrics.jsonl and final weights; results.csv and
    report.html stand above them, with means and 95 % intervals. A run that was killed and is
    resumed ends as one that never was.

    Example: [bold]adlrns train experiments/exp_config.yaml --data imagenet/ --out runs[/bold]

    Data: a folder or file that is recognised, NAME:PATH, or digits, which needs no file.
    """
    numbers = _numbers(seeds)
    with _told_what_is_kept(out):
        compute_with(threads)
        from adlrns._train import Request, run

        run(Request(config, data, out, numbers, resume, device, _commands._command()))


def experiment(
    config: Annotated[
        Path | None,
        typer.Argument(
            help="YAML file; without one a small net that suits the digits.", metavar="CONFIG"
        ),
    ] = None,
    data: Data = None,
    out: Annotated[Path, typer.Option(help="Folder of results; new, empty, or see --resume.")] = (
        Path("experiment")
    ),
    seeds: Seeds = None,
    ablate: Annotated[
        bool, typer.Option("--ablate", help="Also switch each part off in turn.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with what is in --out, if there is any.")
    ] = False,
    device: Device = None,
    threads: Threads = 1,
) -> None:
    """Compare full rank, static low rank and ranks that follow the input, on one data set.

    Trains the network of CONFIG at full rank, makes the others of it, and prints accuracy, energy,
    latency, weights and FLOPs beside full rank and beside the goals; means over seeds with 95 %
    intervals. With --ablate gates, data-awareness, allocation, centring, sketch size and events
    are switched off in turn. Writes table.csv, ablations.csv and report.html.

    Example: [bold]adlrns experiment --data digits --out result --seeds 0,1,2[/bold]
    """
    numbers = _numbers(seeds)
    with _told_what_is_kept(out):
        compute_with(threads)
        from adlrns._experiment import Request, default_config, run

        path, command = config or default_config(), _commands._command()
        run(Request(path, data, out, numbers, ablate, resume, device, command))


@contextmanager
def _told_what_is_kept(out: Path) -> Iterator[None]:
    """Says, when it is interrupted, whether there is something to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        raise CutShortError(f"interrupted{_kept(out)}") from None


def _kept(out: Path) -> str:
    held = (*out.glob("seed-*/*/*.safetensors"), *out.glob("seed-*/*.json"))
    if held:
        return f"; --resume goes on from what {out} holds"
    if out.is_dir() and any(out.iterdir()):
        return f" before the first checkpoint: --resume begins the run in {out} again"
    return " before anything was written: there is nothing to go on from"


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UseError(f"--seeds must be whole numbers with commas between, got {text!r}")
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) < len(numbers):
        raise UseError(f"--seeds must differ, got {text!r}")
    return numbers
