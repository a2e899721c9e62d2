"""The whole of `adlrns demo`."""

from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from adlrns import _demo_plots as plots, _demo_rows as rows, _demo_stream as streams
from adlrns._baselines import PlainSvd
from adlrns._console import say, show, stage
from adlrns._contents import calibration_of, write_elastic, write_manifest, write_materialized
from adlrns._errors import MissingExtraError, need, one_line
from adlrns._exporters import EXPORTERS
from adlrns._folder import write_folder
from adlrns._html import facts, figure, note, page
from adlrns._inputs import Example, describe, make_up
from adlrns._machine import libraries, machine
from adlrns._manifest import Budget, Source, versions
from adlrns._model_plots import loss_plot, ranks_plot
from adlrns._settle import settle
from adlrns._table import Column, Table
from adlrns._target import check_contents
from adlrns.demo import EPOCHS, Digits, digits, digits_cnn, train
from adlrns_models import ElasticModel, make_elastic

# the widest layer has more than twice as many inputs: it shows what a certificate looks like
SKETCH_SIZE = 320
ARTEFACTS = (Column("file", "file"), Column("bytes", "bytes", ",d"), Column("check", "check"))


class Settings(NamedTuple):
    """What the command line says."""

    out: Path
    budgets: tuple[float, ...]
    seed: int
    quick: bool
    command: str

    @property
    def epochs(self) -> int:
        """Passes over the training images."""
        return EPOCHS // 3 if self.quick else EPOCHS

    @property
    def rounds(self) -> int:
        """Rounds of timing."""
        return 10 if self.quick else 40

    @property
    def length(self) -> int:
        """Batches of each phase of the stream."""
        return 20 if self.quick else 60


def run(settings: Settings) -> None:
    """Trains, measures, prints the table, and writes the folder of artefacts."""
    need("sklearn")
    torch.manual_seed(settings.seed)
    data = digits()
    with stage(f"train a small network on {len(data.train_x)} digits") as advance:
        net = train(
            digits_cnn(), data, epochs=settings.epochs, seed=settings.seed, progress=advance
        )
    with stage("make it elastic") as advance:
        elastic = make_elastic(
            net,
            data.batches(),
            sketch_size=SKETCH_SIZE,
            progress=lambda _, done, total: advance(done, total),
        )
    svd = PlainSvd(net, elastic.profiles)
    full = {name: profile.size.max_rank for name, profile in elastic.profiles.items()}
    with stage("measure every form") as advance:
        found = rows.variants(net, elastic, svd, settings.budgets)
        table = rows.table(found, data, full, rounds=settings.rounds, progress=advance)
    show(table)
    with stage("adapt while the data change") as advance:
        stream = streams.run(
            net, data, length=settings.length, seed=settings.seed, progress=advance
        )
    demo = _Demo(settings, data, net, elastic, svd, table, stream)
    with stage("write and check the artefacts"):
        write_folder(settings.out, demo.write, check=check_contents)
    show(demo.artefacts)
    say(f"report: {(settings.out / 'report.html').resolve()}")


class _Demo:
    """All that was made, to be written."""

    def __init__(
        self,
        settings: Settings,
        data: Digits,
        net: nn.Module,
        elastic: ElasticModel,
        svd: PlainSvd,
        table: Table,
        stream: streams.Stream,
    ):
        self.settings, self.data, self.net, self.elastic = settings, data, net, elastic
        self.svd, self.table, self.stream = svd, table, stream
        self.artefacts = Table("artefacts", ARTEFACTS)

    def write(self, folder: Path) -> None:
        """Fills the folder."""
        settled, point = settle(self.elastic, cost="flops", share=rows.STATIC, form="auto")
        self._write_models(folder, settled)
        self._export(folder, settled)
        (folder / "table.csv").write_text(self.table.to_csv())
        self._list(folder, "table.csv", f"{len(self.table.rows)} rows")
        self._write_report(folder)
        write_manifest(
            folder,
            elastic=self.elastic,
            source=Source(kind="factory", spec="adlrns.demo:digits_cnn"),
            calibration=calibration_of(self.elastic, "digits"),
            budget=Budget(cost="flops", share=rows.STATIC, form="auto"),
            point=point,
            batch=self.data.test_x,
        )

    def _write_models(self, folder: Path, settled: nn.Module) -> None:
        for budget in (*self.settings.budgets, 1.0):
            self.elastic.set_budget(flops=budget)
            write_elastic(self.elastic, folder, like=digits_cnn(), batch=self.data.test_x)
        times = len(self.settings.budgets) + 1
        self._list(folder, "elastic.safetensors", f"re-read: equal at {times} budgets")
        write_materialized(settled, folder, like=digits_cnn(), batch=self.data.test_x)
        self._list(folder, "model.safetensors", "re-read: equal")

    def _export(self, folder: Path, settled: nn.Module) -> None:
        check = Example((self.data.test_x,), {})
        example = make_up(describe(self.data.batches()[0]), 2)
        for suffix, exporter in EXPORTERS.values():
            name = f"model{suffix}"
            try:
                text = exporter(settled, example, check, folder / name)
            except MissingExtraError as error:
                self.artefacts.rows.append({"file": name, "check": f"skipped: {one_line(error)}"})
            else:
                self._list(folder, name, f"{len(check.args[0])} test images: {text}")

    def _write_report(self, folder: Path) -> None:
        try:
            figures = self._figures()
        except MissingExtraError as error:
            figures = [note(f"no plots: {one_line(error)}")]
        best = self.table.rows[0]
        lead = (
            f"A small network, {best['accuracy']:.1%} right on {len(self.data.test_x)} images of "
            "digits, turned into one that runs at any budget; everything here was measured by "
            "one command."
        )
        parts = [self.table.to_html(), *figures, self.artefacts.to_html(), *self._facts()]
        (folder / "report.html").write_text(page("adlrns demo", lead, parts))
        self._list(folder, "report.html", "plots inside, nothing to load")

    def _figures(self) -> list[str]:
        budgets = {f"{b:.2f}": self.elastic.set_budget(flops=b) for b in self.settings.budgets}
        points = {label: point.ranks for label, point in budgets.items()}
        return [
            figure(
                "Frontier",
                _FRONTIER,
                plots.frontier_plot(self.elastic, self.svd, self.data, self.table),
            ),
            figure("Time", _TIME, plots.latency_plot(self.table)),
            figure("Ranks", _RANKS, ranks_plot(self.elastic, points)),
            figure("Loss curves", _LOSS, loss_plot(self.elastic)),
            figure("Ranks over time", _STREAM, plots.stream_plot(self.stream)),
        ]

    def _facts(self) -> list[str]:
        run = {
            "command": self.settings.command,
            "seed": str(self.settings.seed),
            "epochs": str(self.settings.epochs),
            "calibration": f"{len(self.data.train_x)} training images, no labels",
            "stream": ", ".join(f"{k} {v}" for k, v in streams.SETTINGS.items())
            + f"; sketches forgotten every {streams.FORGET_EVERY} batches",
        }
        return [
            facts("Run", run),
            facts("Machine", machine()),
            facts("Versions", versions() | libraries()),
        ]

    def _list(self, folder: Path, name: str, check: str) -> None:
        size = (folder / name).stat().st_size
        self.artefacts.rows.append({"file": name, "bytes": size, "check": check})


_FRONTIER = (
    "What each way to choose and cut ranks makes of the same trained network. Plain SVD looks at "
    "the weights alone; allocated ranks spend the budget where it saves most loss."
)
_TIME = "Measured time of a forward pass as a share of the dense network's, on this machine."
_RANKS = "The ranks that the budgets chose, as shares of full rank; a full bar runs as dense."
_LOSS = (
    "Predicted loss at every rank, inside the interval that the layer's sketch proves. Layers "
    "whose inputs were kept in full are exact."
)
_STREAM = (
    "Layers that watch their inputs and move their rank, while the stream turns easy and then "
    "noisy. No weight is trained; the sketches forget as they go."
)
