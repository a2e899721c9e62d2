import csv
import io
import re
from collections import OrderedDict
from html.parser import HTMLParser

import pytest
import torch
from rich.console import Console
from torch import nn

from adlrns._html import facts, figure, note, page
from adlrns._model_plots import frontier_plot, loss_plot, ranks_plot
from adlrns._plots import Plot, bars, lines, shortened
from adlrns._table import Column, Table
from adlrns_models import ElasticModel, make_elastic

TABLE = Table(
    "<numbers>",
    (
        Column("name", "name"),
        Column("share", "share", ".1%"),
        Column("spare", "to\nspare", ".0f", where="wide"),
        Column("raw", "raw", where="csv"),
    ),
    [
        {"name": "a [bold]b[/bold] & c", "share": 0.1234567, "spare": 2.0, "raw": 1e-9},
        {"name": "none", "share": None},
    ],
    ["what to know: [x]"],
)


class Reader(HTMLParser):
    """Checks that tags close and collects what a browser would load."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "srcset", "data", "action", "poster", "xlink:href", "href"):
                self.loads.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    return reader


def plot(name: str) -> str:
    with Plot(name, columns=2) as drawn:
        lines(drawn.axes[0], {"one <&>": ([0, 1], [1, 2]), "two": ([0, 1], [2, 1])}, marker="o")
        drawn.axes[0].fill_between([0, 1], [0, 1], [1, 3])
        drawn.axes[0].legend()
        bars(drawn.axes[1], ["g", "h"], {"s": [1, 2], "t": [2, 3]})
        return drawn.svg()


def test_csv_has_every_column_in_full() -> None:
    rows = list(csv.DictReader(io.StringIO(TABLE.to_csv())))
    assert [float(rows[0]["share"]), float(rows[0]["raw"])] == [0.1234567, 1e-9]
    assert rows[1]["share"] == ""


def test_terminal_shows_text_as_it_is_and_dashes_for_nothing(capsys) -> None:
    from adlrns._console import show

    show(TABLE)
    text = capsys.readouterr().out
    assert "a [bold]b[/bold] & c" in text
    assert "12.3%" in text
    assert "what to know: [x]" in text
    assert "–" in text
    assert "spare" in text
    assert "raw" not in text


def test_a_narrow_terminal_gets_fewer_columns_and_no_number_cut_short() -> None:
    for width in (60, 31, 29):
        console = Console(width=width, record=True, file=io.StringIO())
        console.print(TABLE.to_rich(width))
        text = console.export_text()
        assert "12.3%" in text
        assert "…" not in text
        assert ("too narrow for: to spare" in " ".join(text.split())) == (width < 60)


def test_page_shows_the_page_s_columns_escaped() -> None:
    text = TABLE.to_html()
    read(text)
    assert "&lt;numbers&gt;" in text
    assert "to spare" in text
    assert "raw" not in text


def test_a_page_loads_nothing_and_its_names_are_unique() -> None:
    parts = [
        TABLE.to_html(),
        *(figure(n, "x < y", plot(n)) for n in "pq"),
        facts("f", {"a": "<b>"}),
    ]
    text = page("<title>", "lead", [*parts, note("& so on")])
    reader = read(text)
    assert len(reader.ids) == len(set(reader.ids))
    assert all(load.startswith("#") for load in reader.loads)
    assert {load[1:] for load in reader.loads} <= set(reader.ids)
    assert not re.search(r"https?://|@import|<script|<link|url\((?!#)", text)
    for name in re.findall(r"url\(#([^)]+)\)", text):
        assert name in reader.ids


def test_plots_take_the_ink_of_the_page() -> None:
    svg = plot("p")
    assert "currentColor" in svg
    assert "#010203" not in svg
    assert "one &lt;&amp;&gt;" in svg


def deep(layers: int) -> ElasticModel:
    torch.manual_seed(0)
    blocks = [nn.Sequential(OrderedDict(a_projection=nn.Linear(6, 6))) for _ in range(layers)]
    model = nn.Sequential(OrderedDict(encoder_with_a_very_long_name=nn.Sequential(*blocks)))
    return make_elastic(model, [torch.randn(8, 6)])


def test_every_layer_of_a_deep_model_has_a_bar_and_room_for_it() -> None:
    pytest.importorskip("matplotlib")
    heights = []
    for layers in (10, 40):
        elastic = deep(layers)
        svg = ranks_plot(elastic, {"chosen": elastic.ranks()})
        assert all(f".{i}.a_projection (of 6)" in svg for i in range(layers))
        heights.append(float(re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)[1]))
    assert heights[1] - heights[0] >= 30 * 10  # points a line of text needs


@pytest.mark.parametrize("form", ["factored", "identity"])
def test_the_chosen_point_is_drawn_on_the_frontier_of_its_form(form: str, monkeypatch) -> None:
    pytest.importorskip("matplotlib")
    drawn = []
    monkeypatch.setattr(Plot, "svg", lambda plot: drawn.extend(plot.axes) or "")
    elastic = deep(8)
    frontier = elastic.frontier("flops", form)
    point = frontier[len(frontier) // 2]
    frontier_plot(elastic, point, form)
    for axis in drawn:
        curve, (dot,) = axis.lines[0].get_xydata(), axis.lines[1].get_xydata()
        assert abs(curve - dot).max(1).min() < 1e-6 * dot.max()
    assert dot[0] == pytest.approx(point.cost / elastic.full_cost())


def test_long_names_keep_their_ends() -> None:
    assert shortened("a.b", 3) == "a.b"
    assert shortened("encoder.a.b", 4) == "…a.b"
    assert len(shortened("x" * 99, 20)) == 20
    assert "encoder_with_a_very_long_name" not in loss_plot(deep(2))


def test_plots_and_tables_of_a_page_scroll_in_a_narrow_window() -> None:
    text = page("t", "l", [TABLE.to_html(), figure("f", "x", plot("p"))])
    assert ".wide > svg, .wide > table { min-width:" in text
    assert text.count("<div class='wide'><") == 2


def test_the_same_plot_is_the_same_text() -> None:
    assert plot("p") == plot("p")


def test_plotting_leaves_matplotlib_as_it_was() -> None:
    matplotlib = pytest.importorskip("matplotlib")
    before = dict(matplotlib.rcParams)
    plot("p")
    assert dict(matplotlib.rcParams) == before
