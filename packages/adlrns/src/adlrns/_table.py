"""One table, three ways to show it."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

Value = str | int | float | None


@dataclass(frozen=True)
class Column:
    """One column.

    Attributes:
        key: its name in a row.
        title: its heading; the unit stands in it.
        form: format of its numbers, as in f-strings.
        where: `csv`: in the CSV file alone; `wide`: not on a terminal that is too narrow.
        name: its name in the CSV file, if not its key.
    """

    key: str
    title: str
    form: str = ""
    where: Literal["everywhere", "wide", "csv"] = "everywhere"
    name: str = ""

    @property
    def heading(self) -> str:
        """Its title on one line."""
        return self.title.replace("\n", " ")

    def show(self, value: Value) -> str:
        """Returns a cell's text; what does not apply is a dash."""
        if value is None:
            return "–"
        return value if isinstance(value, str) else format(value, self.form)


@dataclass
class Table:
    """Columns, rows, and what a reader has to know about the numbers."""

    title: str
    columns: tuple[Column, ...]
    rows: list[Mapping[str, Value]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_csv(self) -> str:
        """Returns all columns, numbers in full, their names as the first line."""
        text = io.StringIO()
        names = [column.name or column.key for column in self.columns]
        writer = csv.DictWriter(text, names, lineterminator="\n")
        writer.writeheader()
        for row in self.rows:
            writer.writerow({c.name or c.key: row.get(c.key) for c in self.columns})
        return text.getvalue()

    def to_rich(self, width: int) -> RichTable:
        """Returns the table for a terminal of so many columns, notes as its caption.

        What does not fit is left out, and said so: a number cut short is a wrong number.
        """
        shown = [column for column in self.columns if column.where != "csv"]
        spare = [column for column in shown if column.where == "wide"]
        table = self._drawn(shown, [])
        left_out: list[Column] = []
        while spare and _width(table) > width:
            left_out.append(spare.pop())
            shown.remove(left_out[-1])
            table = self._drawn(shown, left_out)
        return table

    def _drawn(self, shown: list[Column], left_out: list[Column]) -> RichTable:
        names = ", ".join(column.heading for column in reversed(left_out))
        missing = [f"too narrow for: {names}; they are in the CSV file"] if names else []
        caption = Text("\n".join([*self.notes, *missing]))
        table = RichTable(
            title=Text(self.title),
            caption=caption,
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1, 0, 0),
        )
        for column in shown:
            # a column of numbers is read from its right end
            justify: Literal["left", "right"] = "right" if column.form else "left"
            table.add_column(Text(column.title), justify=justify, vertical="bottom", no_wrap=True)
        for row in self.rows:
            # as Text: square brackets are no markup
            table.add_row(*(Text(column.show(row.get(column.key))) for column in shown))
        return table

    def to_html(self) -> str:
        """Returns the table as an HTML fragment."""
        heads = "".join(f"<th{_side(c)}>{escape(c.heading)}</th>" for c in self._on_page())
        body = "".join(f"<tr>{self._cells(row)}</tr>\n" for row in self.rows)
        notes = "".join(f"<li>{escape(note)}</li>" for note in self.notes)
        return (
            f"<h2>{escape(self.title)}</h2>\n<div class='wide'><table><thead><tr>{heads}</tr>"
            f"</thead><tbody>\n{body}</tbody></table></div>\n"
            + (f"<ul class='notes'>{notes}</ul>\n" if notes else "")
        )

    def _cells(self, row: Mapping[str, Value]) -> str:
        return "".join(
            f"<td{_side(c)}>{escape(c.show(row.get(c.key)))}</td>" for c in self._on_page()
        )

    def _on_page(self) -> list[Column]:
        return [column for column in self.columns if column.where != "csv"]


def _width(table: RichTable) -> int:
    console = Console(width=10_000)
    return console.measure(table).maximum


def _side(column: Column) -> str:
    return " class='n'" if column.form else ""
