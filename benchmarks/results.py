"""What a benchmark has found: printed as Markdown, kept as JSON, drawn by the report."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import colorizer
from colorizer.files import write_whole

Value = str | int | float | None
PACKAGES = ("torch", "onnxruntime", "torchserve", "tensorrt", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class Plot:
    """How the report draws a table.

    Attributes:
        x: column of the horizontal axis; its numbers make a curve, its words bars.
        y: columns of the vertical axis, in one unit.
        unit: of the vertical axis.
        log: whether both axes are logarithmic.
    """

    x: str
    y: Sequence[str]
    unit: str
    log: bool = False


@dataclass(frozen=True)
class Table:
    """One table of a benchmark.

    Attributes:
        title: what was measured.
        columns: their names, with units.
        rows: a value for each column; None where there is none.
        note: what to know in order to read it, in Markdown.
        plot: how the report draws it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""
    plot: Plot | None = None

    def markdown(self) -> str:
        """The table without its title."""
        lines = ["| " + " | ".join(self.columns) + " |", "|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(map(shown, row)) + " |" for row in self.rows]
        return "\n".join(lines)


def shown(value: Value) -> str:
    """A value as a person reads it: three figures that mean something."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "NaN"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def machine() -> dict[str, str]:
    """What the figures were measured on, and with: names and versions."""
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = names[0] if names else cpu
    found = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "CPU": cpu,
        "cores": str(len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "colorizer": colorizer.__version__,
    }
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def carry_out(
    module: str,
    saved: Path | None,
    arguments: Sequence[str] | None,
    tables: Iterable[Table],
    errors: tuple[type[Exception], ...] = (),
) -> int:
    """Print tables as they are measured, and save them.

    Args:
        module: of the benchmark, as `benchmarks.engines`.
        saved: file to save them in, if any.
        arguments: of its command line; None: those of this process.
        tables: measured as they are asked for.
        errors: that say why it can't be measured, beside those of files.

    Returns:
        The exit code: 0, 2 if it can't be measured, 130 if it was interrupted.
    """
    found: list[Table] = []
    expected: tuple[type[Exception], ...] = (OSError, *errors)
    name = module.rpartition(".")[2]
    try:
        for table in tables:
            found.append(table)
            print(f"### {table.title}\n\n{table.markdown()}\n", flush=True)
            if table.note:
                print(f"{table.note}\n", flush=True)
        if saved:
            save(saved, module, arguments, found)
    except expected as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; nothing is saved", file=sys.stderr)
        return 130
    return 0


def save(path: Path, module: str, arguments: Sequence[str] | None, tables: Sequence[Table]) -> None:
    """Write tables with the command and the machine that they come from.

    Args:
        path: file to write; there whole, or not at all.
        module: of the benchmark, as `benchmarks.engines`.
        arguments: of its command line; None: those of this process.
        tables: what it found.
    """
    given = sys.argv[1:] if arguments is None else arguments
    content = {
        "command": " ".join(["python -m", module, *given]),
        "machine": machine(),
        "tables": [asdict(table) for table in tables],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1).encode())


def load(path: Path) -> tuple[str, dict[str, str], list[Table]]:
    """Read what `save` wrote: command, machine, tables."""
    content: dict[str, Any] = json.loads(path.read_text())
    tables = [
        Table(**{**one, "plot": Plot(**one["plot"]) if one["plot"] else None})
        for one in content["tables"]
    ]
    return content["command"], content["machine"], tables
