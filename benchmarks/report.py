"""Run every benchmark, one after another, and write what they found as report.md and report.html.

Into a folder named after the date go each benchmark's tables (NAME.json), what it said (NAME.log),
its plots, and the two documents. One that fails is told with its last lines; the others go on. The
whole takes about 20 minutes on 2 cores that have nothing else to do; --quick takes a few, and its
figures mean nothing: it shows that everything works. Servers are started on free ports of this
machine, and stopped.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import colorizer
from benchmarks import document, results
from benchmarks.document import Section
from colorizer.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
STORE = Path("model_store")
GRAPHS = Path("runs/bench/graphs")  # unpacked from the archives: what is served is what is timed
LIMIT = 1200.0  # seconds for one benchmark: it hangs, and the others are to have their turn
GRACE = 40.0  # seconds for a benchmark to stop its servers
TICK = 0.2
LAST_LINES = 15  # of one that failed


@dataclass(frozen=True)
class Benchmark:
    """One run: its name, the module below benchmarks/, and its arguments."""

    name: str
    module: str
    arguments: Sequence[str] = ()


REGRESSION, CLASSES = str(GRAPHS / "colorize"), str(GRAPHS / "colorize-classes")
SEARCH = ["limit", "--start", "torchserve", "--max-p99", "3000", "--rate", "2"]
BENCHMARKS = (
    Benchmark("engines", "engines", [str(STORE / "regression.safetensors"), REGRESSION]),
    Benchmark("engines-classes", "engines", [str(STORE / "classification.safetensors"), CLASSES]),
    Benchmark("batches", "batches", [REGRESSION, CLASSES]),
    Benchmark("pipeline", "pipeline", [REGRESSION, CLASSES]),
    Benchmark("growth", "growth", [REGRESSION]),
    Benchmark("peers", "peers"),
    Benchmark("soft_encode", "soft_encode"),
    Benchmark("film", "film"),
    Benchmark("folder", "folder", [str(STORE / "colorize.mar")]),
    Benchmark("memory", "memory"),
    Benchmark("serving", "serving"),
    Benchmark("load", "load", SEARCH),
    Benchmark("quality", "quality", ["--limit", "60"]),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run all and write the report; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = {one.name: one for one in BENCHMARKS}
    names = list(known)
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("--out", type=Path, help="folder (default: runs/bench/DATE)")
    add("--only", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    add("--quick", action="store_true", help="everything at its smallest: shows that it works")
    add(
        "--photos",
        type=Path,
        help="folder in colour, for quality and peers (default: samples)",
    )
    options = parser.parse_args(arguments)
    if options.photos and not options.photos.is_dir():
        parser.error(f"--photos: there is no folder {options.photos}")
    folder = options.out or Path("runs/bench", datetime.now().strftime("%Y-%m-%d-%H%M"))
    folder = folder.resolve()
    options.photos = options.photos and options.photos.resolve()
    os.chdir(ROOT)  # where the benchmarks, and the commands in the report, find each other
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    sections: list[Section] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(str(GRAPHS) in " ".join(known[name].arguments) for name in options.only):
            unpack()
        for number, name in enumerate(options.only, start=1):
            say(f"[{number}/{len(options.only)}] {name}")
            sections.append(run(known[name], folder, options))
            last = sections[-1]
            say(f"[{number}/{len(options.only)}] {name}: {last.outcome} in {last.seconds:.0f} s")
            write(folder, sections, options.quick)  # what is measured isn't lost by what comes
    except KeyboardInterrupt:
        kept = f"; {folder} keeps what was measured" if sections else ""
        say(f"report: interrupted{kept}")
        return 130
    except OSError as error:
        say(f"report: {error}")
        return 1
    failed = [one.name for one in sections if one.error]
    print(f"wrote {folder / 'report.md'} and {folder / 'report.html'}")
    if failed:
        say(f"report: failed: {', '.join(failed)}")
    return 1 if failed else 0


def unpack() -> None:
    """Unpack the graphs of the archives to where the benchmarks read them.

    Raises:
        FileNotFoundError: if the archives are not built.
    """
    for name in ("colorize", "colorize-classes"):
        archive = STORE / f"{name}.mar"
        if not archive.exists():
            raise FileNotFoundError(f"{archive} is missing: run `make archives` to build it")
        with zipfile.ZipFile(archive) as file:
            graphs = [one for one in file.namelist() if one.startswith(("onnx/", "torchscript/"))]
            file.extractall(GRAPHS / name, graphs)


def run(benchmark: Benchmark, folder: Path, options: argparse.Namespace) -> Section:
    """Run one benchmark as a person would, and gather what it leaves."""
    saved, log = folder / f"{benchmark.name}.json", folder / f"{benchmark.name}.log"
    saved.unlink(missing_ok=True)
    module = f"benchmarks.{benchmark.module}"
    given = [*benchmark.arguments, *(["--quick"] if options.quick else [])]
    if benchmark.name in ("peers", "quality") and options.photos:
        given += ["--photos", str(options.photos)]
    start = time.monotonic()
    code, late = carry_out([sys.executable, "-m", module, *given, "--json", str(saved)], log)
    seconds = time.monotonic() - start
    error = ""
    if code:
        lines = log.read_text(errors="replace").strip().splitlines()[-LAST_LINES:]
        why = f"stopped after {LIMIT:.0f} s" if late else f"exit code {code}"
        error = "\n".join([*lines, f"({why})"])
    tables: list[results.Table] = []
    if saved.exists():
        _, _, tables = results.load(saved)
    elif not error:
        error = "It ended well, but left no tables."
    command = " ".join(["python -m", module, *given])
    return Section(benchmark.name, about(benchmark.module), command, seconds, tables, error)


def carry_out(command: Sequence[str], log: Path) -> tuple[int, bool]:
    """Run a command, its output into a file and onto the terminal.

    Returns:
        Its exit code, and whether it was stopped at LIMIT.
    """
    with log.open("wb") as out, log.open("rb") as seen:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C reaches us alone; we end it in order
        )
        deadline = time.monotonic() + LIMIT
        try:
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(TICK)
                _pass_on(seen.read())
        finally:
            late = process.poll() is None
            stop(process)
            _pass_on(seen.read())
    return process.returncode, late


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a benchmark: first so that it can stop its servers, at last with all it has started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if process.poll() is None:
            process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def about(module: str) -> str:
    """The first paragraph of a module's description."""
    path = ROOT / "benchmarks" / f"{module}.py"
    if not path.exists():
        return ""
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0]


def write(folder: Path, sections: Sequence[Section], quick: bool) -> None:
    """Write both documents and the plots."""
    machine = results.machine()
    title = f"Benchmarks of {machine['date']}"
    intro = (
        "Made by `python -m benchmarks.report`. Each table's command stands above it; the graphs "
        f"in `{GRAPHS}` are those of the archives in `{STORE}`."
    )
    if quick:
        intro = f"**Quick: the smallest sizes, to show that it works; no figure counts.** {intro}"
    for section in sections:
        document.write_plots(folder, section)
    for name, made in (
        ("report.md", document.markdown(title, intro, machine, sections)),
        ("report.html", document.page(title, intro, machine, sections)),
    ):
        write_whole(folder / name, made.encode())


def say(text: str) -> None:
    """Tell what happens, beside the tables."""
    print(text, file=sys.stderr, flush=True)


def _pass_on(output: bytes) -> None:
    sys.stderr.write(output.decode(errors="replace"))
    sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
