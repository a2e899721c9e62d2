"""The commands: what the command line says, handed on."""

import os
import shlex
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from adlrns._errors import UseError


class Cost(StrEnum):
    """What a budget can count."""

    FLOPS = "flops"
    PARAMETERS = "parameters"


class Form(StrEnum):
    """How a layer can be stored."""

    AUTO = "auto"
    DENSE = "dense"
    FACTORED = "factored"
    IDENTITY = "identity"
    FASTEST = "fastest"


class Target(StrEnum):
    """What a model can be exported to."""

    TORCH_EXPORT = "torch-export"
    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"


Threads = Annotated[
    int, typer.Option(min=0, help="Threads to compute with; 0 leaves it to the libraries.")
]


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier result is replaced.")] = (
        Path("adlrns-demo")
    ),
    budgets: Annotated[
        str, typer.Option(help="Shares of the dense FLOPs, by commas.")
    ] = "0.75,0.5,0.35,0.25",
    seed: Annotated[int, typer.Option(min=0, help="Of the network and of all draws.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer epochs and timing rounds.")] = False,
    threads: Threads = 1,
) -> None:
    """Show the dial on real data: train, make elastic, compare, export, report.

    Trains a small network on scikit-learn's digits, makes it elastic without labels, prints one
    table of it beside plain SVD and its materialised forms, and writes models, exports, a CSV file
    and one HTML report. Needs the extra [bold]demo[/bold]. Under 90 s on two cores.

    Example: [bold]adlrns demo --out result --budgets 0.5,0.25[/bold]
    """
    shares = _shares(budgets)
    _prepare(out, threads)
    from adlrns._demo import Settings, run

    run(Settings(out, shares, seed, quick, _command()))


def compress(
    model: Annotated[
        str,
        typer.Argument(
            help="module:factory, hf:PATH (a local transformers folder), timm:NAME (of timm, or a "
            "local folder of it), or a folder written by compress, to choose another budget.",
            metavar="MODEL",
        ),
    ],
    data: Annotated[
        str | None,
        typer.Option(
            help="Real inputs: module:function returning batches; a .npy, .npz, .safetensors or "
            ".csv file; .txt or .jsonl sentences for hf: models; or digits.",
            metavar="DATA",
        ),
    ] = None,
    budget: Annotated[
        float, typer.Option(help="Share of the dense cost to keep, above 0 and at most 1.")
    ] = 0.5,
    cost: Annotated[Cost, typer.Option(help="What the budget counts.")] = Cost.FLOPS,
    form: Annotated[
        Form, typer.Option(help="How model.safetensors stores each layer.")
    ] = Form.AUTO,
    out: Annotated[Path, typer.Option(help="Folder to write; an earlier result is replaced.")] = (
        Path("compressed")
    ),
    batches: Annotated[int, typer.Option(min=1, help="Batches to take at most.")] = 64,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Samples a batch, for files.", show_default="32")
    ] = None,
    threads: Threads = 0,
) -> None:
    """Make a trained model elastic, settle it at a budget, and say what that costs.

    Watches the inputs of every linear and convolution layer on DATA, without labels or training,
    and writes one folder: elastic.safetensors (every budget), model.safetensors (this one),
    adlrns.json, table.csv and report.html. One batch in five is kept apart to measure how far the
    outputs moved.

    Example: [bold]adlrns compress mymodels:resnet --data calibration.npy --budget 0.5[/bold]

    Another budget from the same folder: [bold]adlrns compress compressed --budget 0.25[/bold]
    """
    _check_share("--budget", budget)
    _prepare(out, threads)
    from adlrns._compress import run
    from adlrns._job import Request
    from adlrns._manifest import Budget

    asked = Budget(cost=cost.value, share=budget, form=form.value)
    run(Request(model, data, asked, out, batches, batch_size, _command()))


def export(
    folder: Annotated[
        Path, typer.Argument(help="Folder written by compress or demo.", metavar="DIR")
    ],
    to: Annotated[Target, typer.Option(help="What to write.")],
    out: Annotated[
        Path | None,
        typer.Option(
            help="File to write, in a folder that exists; an earlier export of the same kind is "
            "replaced, any other file is not.",
            show_default="beside DIR",
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="module:factory of the plain network, any weights; by default the one that DIR "
            "was made from.",
            metavar="MODEL",
        ),
    ] = None,
) -> None:
    """Write the materialised model of DIR as a program for another runtime, and check it.

    The program is run beside the model on made-up inputs of the calibration's kind. ONNX needs the
    extra [bold]onnx[/bold].

    Example: [bold]adlrns export compressed --to onnx --out model.onnx[/bold]
    """
    if out is not None and out.is_dir():
        raise UseError(f"--out must be a file, got the folder {out}")
    from adlrns._export import run

    run(folder, to.value, out, model)


def doctor() -> None:
    """Say what is installed, what it enables, and whether the main thing works here.

    Exit code 0 if the check passes, 1 if not. Example: [bold]adlrns doctor[/bold]
    """
    from adlrns._doctor import run

    run()


def _shares(text: str) -> tuple[float, ...]:
    try:
        shares = tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UseError(f"--budgets must be numbers with commas between, got {text!r}") from None
    for share in shares:
        _check_share("--budgets", share)
    return tuple(dict.fromkeys(shares))


def _check_share(option: str, share: float) -> None:
    if not 0 < share <= 1:
        raise UseError(f"{option} must be in 0..1 and above 0, got {share}")


def _prepare(out: Path, threads: int) -> None:
    from adlrns._target import check_target

    check_target(out)
    compute_with(threads)


def compute_with(threads: int) -> None:
    """Sets the number of threads; 0 leaves it to the libraries."""
    if threads:
        # numpy's and torch's libraries read these when they are imported
        for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[variable] = str(threads)
        import torch

        torch.set_num_threads(threads)


def _command() -> str:
    return shlex.join(["adlrns", *sys.argv[1:]])
