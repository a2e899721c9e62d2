"""The command that trains a spiking network."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adlrns import _commands
from adlrns._commands import Threads, compute_with
from adlrns._errors import CutShortError, UseError
from adlrns._spike_look import check_data
from adlrns._spike_settings import CHECKPOINT, Settings


class Net(StrEnum):
    """What the hidden layers are."""

    MLP = "mlp"
    CONV = "conv"


class Encoding(StrEnum):
    """How an image becomes time."""

    DIRECT = "direct"
    RATE = "rate"
    LATENCY = "latency"


class Reset(StrEnum):
    """What a neuron does after a spike."""

    HARD = "hard"
    SOFT = "soft"


# what only some data have: an option that is given and says nothing is a mistake
_OF_SOME = ("size", "bands")
# what says nothing where nothing is trained
_OF_TRAINING = (
    "net",
    "hidden",
    "encoding",
    "tau",
    "reset",
    "bands",
    "epochs",
    "lr",
    "compile",
    "resume",
)


def spike(
    context: typer.Context,
    data: Annotated[
        str,
        typer.Argument(
            help="Images (PATH, NAME:PATH or digits, as for train), a folder of wav files, or a "
            "folder of event files (CLASS/FILE, or Train and Test with those).",
            metavar="DATA",
        ),
    ],
    convert: Annotated[
        str | None,
        typer.Option(
            help="module:factory of a trained network of images, to be given spikes instead.",
            metavar="MODEL",
            show_default="train one",
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run; new or empty.")] = Path("spiking"),
    net: Annotated[Net, typer.Option(help="Dense layers, or convolutions of stride 2.")] = Net.MLP,
    hidden: Annotated[
        str, typer.Option(help="Neurons of the hidden layers, or channels, by commas.")
    ] = "256",
    steps: Annotated[int, typer.Option(min=1, help="Time steps of an item: T.")] = 8,
    encoding: Annotated[
        Encoding,
        typer.Option(help="Of images: constant currents, spikes at random, one spike each."),
    ] = Encoding.DIRECT,
    tau: Annotated[float, typer.Option(help="Time constant of the neurons, in steps.")] = 2.0,
    reset: Annotated[
        Reset, typer.Option(help="Of a neuron that fired: to 0, or by its threshold.")
    ] = Reset.HARD,
    size: Annotated[int, typer.Option(min=8, help="Pixels a side, of folders of pictures.")] = 32,
    bands: Annotated[int, typer.Option(min=4, help="Frequency bands, of sounds.")] = 40,
    limit: Annotated[
        int | None,
        typer.Option(
            min=2, help="Items of each part at most, to train and to validate.", show_default="all"
        ),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs to train.")] = 10,
    lr: Annotated[float, typer.Option(help="Learning rate of Adam.")] = 2e-3,
    batch_size: Annotated[int, typer.Option(min=1, help="Items a training step.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="Of the network and of all draws.")] = 0,
    device: Annotated[str, typer.Option(help="As torch names it.")] = "auto",
    compile: Annotated[
        bool,
        typer.Option("--compile", help="Build neurons and additions in C first: some seconds."),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --out that was cut short.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Epochs and the result as lines of JSON on stdout.")
    ] = False,
    threads: Threads = 0,
) -> None:
    """Train a spiking network on images, sounds or events, and say what its spikes cost.

    Leaky integrate-and-fire neurons, trained by surrogate gradients. Prints accuracy, firing rates,
    synaptic operations and estimates of energy, and writes network.safetensors, network.nir (with
    the extra [bold]nir[/bold]), history.csv, result.json and report.html.

    With --convert nothing is trained: the ReLUs of MODEL become neurons, and a table says how fast
    accuracy comes back with more steps; writes converted.safetensors, table.csv, result.json and
    report.html.

    Example: [bold]adlrns spike digits --hidden 64 --steps 8[/bold]

    Conversion: [bold]adlrns spike path/to/mnist --convert mymodels:trained --steps 64[/bold]
    """
    if not 0 < lr < math.inf:
        raise UseError(f"--lr must be finite and above 0, got {lr}")
    if not 1 <= tau < math.inf:
        raise UseError(f"--tau must be finite and at least 1 step, got {tau}")
    sizes = _sizes(hidden)
    if convert is not None:
        _check_alone(context)
    check_data(data)
    settings = Settings(
        data=data,
        out=out,
        net=net.value,
        hidden=sizes,
        steps=steps,
        encoding=encoding.value,
        tau=tau,
        reset=reset.value,
        size=size,
        bands=bands,
        limit=limit,
        epochs=epochs,
        lr=lr,
        batch_size=batch_size,
        seed=seed,
        device=device,
        resume=resume,
        json=json,
        command=_commands._command(),
        compile=compile,
        asked=frozenset(name for name in _OF_SOME if _given(context, name)),
    )
    try:
        compute_with(threads)
        _run(convert, settings)
    except KeyboardInterrupt:
        if convert is not None:
            raise CutShortError("interrupted") from None
        if not (out / CHECKPOINT).is_file():
            why = "before the first epoch was whole: there is nothing to go on from"
            raise CutShortError(f"interrupted {why}") from None
        raise CutShortError("interrupted; --resume goes on") from None


def _run(convert: str | None, settings: Settings) -> None:
    if convert is not None:
        from adlrns import _spike_convert

        _spike_convert.run(convert, settings)
        return
    from adlrns._spike import run

    run(settings)


def _given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _check_alone(context: typer.Context) -> None:
    """Raises UseError for an option that says how to train."""
    for name in _OF_TRAINING:
        if _given(context, name):
            raise UseError(f"--{name} is for training, got it beside --convert")


def _sizes(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UseError(f"--hidden must be whole numbers with commas, got {text!r}") from None
    if min(sizes) < 1:
        raise UseError(f"--hidden must be at least 1 each, got {text!r}")
    return sizes
