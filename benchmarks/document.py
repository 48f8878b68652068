"""The report as two documents: Markdown, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.plots import draw
from benchmarks.results import Table, Value, shown

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 0 auto;
  padding: 1rem; overflow-wrap: break-word; }
h2 { border-top: 1px solid #ccc; margin-top: 2.5rem; padding-top: 1rem; }
div.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.7rem; text-align: left;
  overflow-wrap: normal; }
td.number, th.number { text-align: right; }
img { display: block; width: 100%; max-width: 40rem; height: auto; margin: 1rem 0; }
pre { background: #f4f4f4; padding: 0.6rem; white-space: pre-wrap; overflow-wrap: anywhere; }
code { background: #f4f4f4; overflow-wrap: anywhere; }
.failed { color: #a00; font-weight: bold; }
"""


@dataclass(frozen=True)
class Section:
    """What one benchmark has come to.

    Attributes:
        name: of its files.
        about: what it measures.
        command: that made its tables, or was to.
        seconds: that it took.
        tables: its own.
        error: why it failed, in the words of its own last lines; empty where it did not.
    """

    name: str
    about: str
    command: str
    seconds: float
    tables: Sequence[Table] = field(default_factory=list)
    error: str = ""

    @property
    def outcome(self) -> str:
        """What came of it, in a few words."""
        made = f"{len(self.tables)} table" + ("" if len(self.tables) == 1 else "s")
        return f"failed, {made}" if self.error else made


def overview(sections: Sequence[Section]) -> Table:
    """Each benchmark, how long it took, and whether it came to its end."""
    rows: list[list[Value]] = [[s.name, round(s.seconds), s.outcome] for s in sections]
    return Table("Benchmarks", ["benchmark", "seconds", "outcome"], rows)


def machine_table(machine: Mapping[str, str]) -> Table:
    """Hardware and versions."""
    rows: list[list[Value]] = [[name, value] for name, value in machine.items()]
    return Table("Machine", ["", "what it ran on, and with"], rows)


def pictures(section: Section) -> list[str | None]:
    """The SVG of each table of a section."""
    return [draw(table) for table in section.tables]


def markdown(
    title: str, intro: str, machine: Mapping[str, str], sections: Sequence[Section]
) -> str:
    """The report as Markdown; plots are the files that `plot_name` names."""
    parts = [f"# {title}", intro, machine_table(machine).markdown(), overview(sections).markdown()]
    for section in sections:
        parts += [f"## {section.name}", section.about, f"```sh\n{section.command}\n```"]
        if section.error:
            parts += ["**Failed.** Its last lines:", f"```\n{section.error}\n```"]
        if section.tables:
            parts.append(f"Raw data: [{section.name}.json]({section.name}.json)")
        for number, (table, svg) in enumerate(
            zip(section.tables, pictures(section), strict=True), start=1
        ):
            parts += [f"### {table.title}", table.markdown(), table.note]
            if svg:
                parts.append(f"![{table.title}]({plot_name(section, number)})")
    return "\n\n".join(part for part in parts if part) + "\n"


def page(title: str, intro: str, machine: Mapping[str, str], sections: Sequence[Section]) -> str:
    """The report as HTML, plots inside."""
    parts = [f"<h1>{html.escape(title)}</h1>", paragraph(intro)]
    parts += [_table(machine_table(machine)), _table(overview(sections))]
    for section in sections:
        parts += [f'<h2 id="{section.name}">{section.name}</h2>', paragraph(section.about)]
        parts.append(f"<pre>{html.escape(section.command)}</pre>")
        if section.error:
            parts.append('<p class="failed">Failed. Its last lines:</p>')
            parts.append(f"<pre>{html.escape(section.error)}</pre>")
        if section.tables:
            parts.append(paragraph(f"Raw data: `{section.name}.json`, beside this page."))
        for table, svg in zip(section.tables, pictures(section), strict=True):
            parts += [f"<h3>{html.escape(table.title)}</h3>", _table(table), paragraph(table.note)]
            if svg:
                coded = base64.b64encode(svg.encode()).decode()
                words = html.escape(table.title, quote=True)
                parts.append(f'<img alt="{words}" src="data:image/svg+xml;base64,{coded}">')
    return (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n" + "\n".join(parts) + "\n"
    )


def write_plots(folder: Path, section: Section) -> None:
    """Write the plots of a section, for the Markdown."""
    for number, svg in enumerate(pictures(section), start=1):
        if svg:
            (folder / plot_name(section, number)).write_text(svg)


def plot_name(section: Section, number: int) -> str:
    """The file of one table's plot."""
    return f"{section.name}-{number}.svg"


def paragraph(text: str) -> str:
    """Notes as HTML: of Markdown they use only paragraphs, `code` and **bold**."""
    made = []
    for part in filter(None, text.split("\n\n")):
        safe = re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(part, quote=False))
        made.append("<p>" + re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", safe) + "</p>")
    return "\n".join(made)


def _table(table: Table) -> str:
    numeric = [
        all(isinstance(row[i], (int, float, type(None))) for row in table.rows)
        for i in range(len(table.columns))
    ]

    def line(tag: str, cells: Sequence[str]) -> str:
        made = (
            f"<{tag}{' class=number' if right else ''}>{html.escape(cell, quote=False)}</{tag}>"
            for cell, right in zip(cells, numeric, strict=True)
        )
        return f"<tr>{''.join(made)}</tr>"

    rows = [line("td", [shown(value) for value in row]) for row in table.rows]
    body = "\n".join([line("th", [name.replace("\\|", "|") for name in table.columns]), *rows])
    return f'<div class="wide"><table>\n{body}\n</table></div>'
