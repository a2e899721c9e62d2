"""Plots as SVG fragments that read on light and on dark pages."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

from adlrns._errors import need

# stands for the page's own text colour until the fragment is in the page
_INK = "#010203"
COLOURS = ("#3b82c4", "#d9822b", "#3f9c5a", "#c94f4f", "#8a63c9", "#7c8794", "#b59a2c", "#4aa6a6")
_STYLE = {
    "svg.fonttype": "none",  # text stays text
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.18,
    "grid.color": _INK,
    "legend.frameon": False,
    **dict.fromkeys(
        ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _INK
    ),
}


class Plot:
    """A figure of some axes in a row, to be drawn on and turned into a fragment.

    Use as a context: the style holds inside.

    Attributes:
        axes: matplotlib's axes, from left to right.
    """

    def __init__(self, name: str, *, columns: int = 1, height: float = 3.4, width: float = 8.6):
        self.name = name
        matplotlib = need("matplotlib")
        self._style = matplotlib.rc_context(_STYLE | {"svg.hashsalt": name})
        self._size, self._columns = (width, height), columns

    def __enter__(self) -> "Plot":
        self._style.__enter__()
        self.figure: Any = need("matplotlib.figure").Figure(self._size, layout="constrained")
        self.axes: list[Any] = list(self.figure.subplots(1, self._columns, squeeze=False)[0])
        return self

    def __exit__(self, *error: object) -> None:
        self._style.__exit__(*error)

    def svg(self) -> str:
        """Returns the figure as an SVG element that can stand in a page."""
        text = io.StringIO()
        self.figure.savefig(text, format="svg", transparent=True)
        return _embeddable(text.getvalue(), self.name)


def _embeddable(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # names of namespaces look like addresses and are not needed inside a page
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href", "href").replace(_INK, "currentColor")
    # identifiers count in the whole page, other plots have the same ones
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    return re.sub(
        r'width="[\d.]+pt" height="[\d.]+pt"', f'role="img" aria-label="{name}"', svg, count=1
    )


def lines(
    axis: Any, curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], **style: Any
) -> None:
    """Draws curves `{label: (x, y)}`, each in a colour of its own."""
    for (label, (x, y)), colour in zip(curves.items(), COLOURS * 9, strict=False):
        axis.plot(x, y, label=label, color=colour, **style)


def bars(axis: Any, groups: Sequence[str], series: Mapping[str, Sequence[float]]) -> None:
    """Draws groups of lying bars from the top down, one bar of each series in a group."""
    width = 0.8 / max(1, len(series))
    for i, (label, lengths) in enumerate(series.items()):
        places = [g + (i - (len(series) - 1) / 2) * width for g in range(len(groups))]
        axis.barh(places, lengths, width, label=label, color=COLOURS[i % len(COLOURS)])
    axis.set_yticks(range(len(groups)), groups)
    axis.set_ylim(len(groups) - 0.5, -0.5)
    axis.grid(visible=False, axis="y")


def shortened(name: str, most: int) -> str:
    """Returns the end of a name, at most so many characters: there modules differ.

    >>> shortened("encoder.layer.11.attention.output.dense", 23)
    '…attention.output.dense'
    """
    return name if len(name) <= most else f"…{name[len(name) - most + 1 :]}"
