"""Pieces of the HTML page: pictures, tables, and what can be taken away of them."""

from __future__ import annotations

import base64
import html
import importlib.resources
import os
import pathlib
import re
import string
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from cfdg_jax.report import csvs, plots, tables
from cfdg_jax.report.runs import Run
from cfdg_jax.report.tables import Table

Saver = Callable[[str, Figure, str], str]
"""``(name, figure, what it shows) -> img element``, having written the figure as a PNG."""

WIDE = 16
"""Letters of an interval that may stand on two lines, so that a table of many fits."""
NAMES = ("Dataset", "Method", "Comparison")
"""Columns of words, in which a user's own names stand."""
ABREAST = 4
"""Runs beside one another in a table of fields: as many as a page of 1280 pixels holds."""


def template() -> string.Template:
    return string.Template((importlib.resources.files(__package__) / "template.html").read_text("utf-8"))


def write(path: pathlib.Path, content: str) -> None:
    """Replaces `path` in one step, so that a failed write leaves the earlier report whole."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(content, "utf-8")
    os.replace(partial, path)


def saver(out: pathlib.Path) -> Saver:
    def save(name: str, drawn: Figure, shown: str) -> str:
        path = plots.save(drawn, out / f"{_slug(name)}.png")
        data = base64.b64encode(path.read_bytes()).decode()
        width = round(drawn.get_figwidth() * 96 * 1.25)
        return f'<img src="data:image/png;base64,{data}" alt="{html.escape(shown)}" width="{width}">'

    return save


def _slug(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-").lower()


def escape(text: Any) -> str:
    """Text for HTML; what stands in `backticks` becomes code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", html.escape(str(text), quote=True))


def figure(image: str, caption: str) -> str:
    """A picture and what is to be known of it."""
    return f'<figure class="wide">{image}<figcaption>{escape(caption)}</figcaption></figure>'


def table(shown: Table) -> str:
    """A table with its title, its notes and itself as csv."""
    head = "".join(f"<th>{escape(name)}</th>" for name in shown.header)
    body = "".join(f"<tr>{''.join(map(_cell, shown.header, row))}</tr>" for row in shown.rows)
    notes = "".join(f"<li>{escape(note)}</li>" for note in shown.notes)
    link = download(f"{_slug(shown.title)}.csv", csvs.table(shown))
    return f'<h3>{escape(shown.title)}</h3>{_grid(head, body)}<ul class="notes">{notes}</ul>{link}'


def _cell(column: str, cell: str) -> str:
    """A table cell; an interval goes on a line of its own, and a long name breaks anywhere."""
    if column in NAMES:
        return f'<td class="name">{escape(cell)}</td>'
    value, bracket, interval = cell.partition(" [")
    interval = interval.replace(", ", ",\N{NO-BREAK SPACE}") if len(interval) < WIDE else interval
    return f"<td>{escape(value)}{f'<br><small>[{escape(interval)}</small>' if bracket else ''}</td>"


def _grid(head: str, body: str) -> str:
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def field_table(title: str, runs: Sequence[Run], values: Sequence[Mapping[str, str]], names: Sequence[str]) -> str:
    """The values of fields: once where all runs have the same, and run by run, `ABREAST` at a time, where not.

    Args:
      title: What the csv of it is called, in words.
      runs: The columns.
      values: Of each run, by name; a run may lack some.
      names: The rows.
    """
    rows = {name: [of_run.get(name, tables.MISSING) for of_run in values] for name in names}
    same = [name for name in names if len(runs) > 1 and len(set(rows[name])) == 1]
    other = [name for name in names if name not in same]
    parts = [_field_grid(["all runs"], {name: rows[name][:1] for name in same})] if same else []
    for first in range(0, len(runs) if other else 0, ABREAST):
        part = slice(first, first + ABREAST)
        own = {name: rows[name][part] for name in other if set(rows[name][part]) != {tables.MISSING}}
        parts.append(_field_grid([run.label for run in runs[part]], own))
    whole = csvs.lines([("field", *(run.label for run in runs)), *((name, *rows[name]) for name in names)])
    return "".join(parts) + download(f"{_slug(title)}.csv", whole)


def _field_grid(labels: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    wrapped = lambda tag, cells: "".join(f'<{tag} class="wrap">{escape(cell)}</{tag}>' for cell in cells)
    body = "".join(f"<tr><th>{escape(name)}</th>{wrapped('td', cells)}</tr>" for name, cells in rows.items())
    return _grid(f"<th></th>{wrapped('th', labels)}", body)


def download(name: str, content: str, what: str = "this table") -> str:
    """A link to `content` as a file, which the page holds."""
    data = base64.b64encode(content.encode()).decode()
    return f'<p class="download"><a download="{name}" href="data:text/csv;base64,{data}">{what} as csv</a></p>'
