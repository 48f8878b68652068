"""Tables of results: printed as Markdown, saved as JSON; and what every benchmark's command has."""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import colorizer
from colorizer.commands.run import command_parser, run_command
from colorizer.cores import cores
from colorizer.errors import UserError
from colorizer.files import write_whole

Value = str | int | float | None
PACKAGES = (
    *("torch", "onnxruntime", "torchserve", "tensorrt", "tensorrt-rtx-cu13-libs"),
    *("numpy", "opencv-python-headless", "simplejpeg"),
)
GPU = "--query-gpu=name,driver_version,memory.total"


class Unusable(UserError):
    """Something that can't be measured; the message says why, and what to give instead."""


@dataclass(frozen=True)
class Table:
    """One table of results.

    Attributes:
        title: what was measured.
        columns: their names, with units.
        rows: one value for each column; None where there is none.
        note: what a reader needs to know, in Markdown.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Value]]
    note: str = ""

    def markdown(self) -> str:
        """Format the table with its title and note."""
        lines = [f"### {self.title}", "", "| " + " | ".join(self.columns) + " |"]
        lines += ["|" + "---|" * len(self.columns)]
        lines += ["| " + " | ".join(map(shown, row)) + " |" for row in self.rows]
        return "\n".join([*lines, "", *([self.note, ""] if self.note else [])])


def shown(value: Value) -> str:
    """Format a value, numbers with three significant figures."""
    if value is None:
        return ""
    if not isinstance(value, float):
        return str(value)
    if value != value:
        return "NaN"
    return f"{value:.3g}" if abs(value) < 100 else f"{value:.0f}"


def machine() -> dict[str, str]:
    """Describe the machine and the installed versions."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, IndexError):
        info = Path("/proc/cpuinfo").read_text()
        cpu = re.findall(r"^model name\s*: (.*)$", info, re.MULTILINE)[0]
    found = {
        "date": datetime.now(timezone.utc).date().isoformat(),
        "CPU": cpu,
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        "Python": platform.python_version(),
        "colorizer": colorizer.__version__,
    }
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        query = ["nvidia-smi", GPU, "--format=csv,noheader"]
        found["GPU"] = "; ".join(subprocess.check_output(query, text=True).splitlines())
    for package in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """Make a command line with the options that all benchmarks share."""
    made = command_parser(f"python -m {module}", description, as_written=True)
    made.add_argument("--json", type=Path, metavar="FILE", help="also save the tables there")
    made.add_argument("--quick", action="store_true", help="smallest sizes: only shows it works")
    return made


def positive(text: str) -> int:
    """Parse a whole number of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def run(module: str, options: argparse.Namespace, tables: Iterable[Table]) -> int:
    """Print tables as they are measured, and save them.

    Args:
        module: of the benchmark, as `benchmarks.engines`.
        options: of its command line; --json names the file to save the tables in, if any.
        tables: measured while they are iterated over.

    Returns:
        The exit code, as `run_command` has it.
    """

    def work() -> int:
        found: list[Table] = []
        for table in tables:
            found.append(table)
            print(table.markdown(), flush=True)
            if options.json:  # each time: one that is stopped keeps what it has measured
                save(options.json, module, options, found)
        return 0

    return run_command(module.rpartition(".")[2], work, "the tables before are complete")


def say(text: str) -> None:
    """Report progress on standard error."""
    print(f"{text} ...", file=sys.stderr, flush=True)


def save(path: Path, module: str, options: argparse.Namespace, tables: Sequence[Table]) -> None:
    """Write tables as JSON, atomically, with the benchmark, its options and the machine."""
    content = {
        "benchmark": module,
        "options": {name: str(value) for name, value in vars(options).items()},
        "machine": machine(),
        "tables": [asdict(table) for table in tables],
    }
    write_whole(path, json.dumps(content, indent=1).encode())


def load(path: Path) -> tuple[dict[str, str], list[Table]]:
    """Read what `save` wrote: the machine, and the tables."""
    content = json.loads(path.read_text())
    return content["machine"], [Table(**one) for one in content["tables"]]
