"""Run every benchmark, one after another, and write what they found as one report.md.

Each benchmark's tables (NAME.json) and messages (NAME.log) go into the same folder. One that fails
is named in the report with its last lines, and the others go on. --quick takes the smallest sizes,
whose figures mean nothing: it shows that everything works.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from benchmarks import results
from colorizer.commands.run import command_parser
from colorizer.files import write_whole

ROOT = Path(__file__).resolve().parent.parent
STORE = "model_store"
MODELS = [f"{STORE}/colorize.mar", f"{STORE}/colorize-classes.mar"]
# Name -> module below benchmarks/ and its arguments
BENCHMARKS = {
    "engines": ["engines", f"{STORE}/regression.safetensors", MODELS[0]],
    "engines-classes": ["engines", f"{STORE}/classification.safetensors", MODELS[1]],
    "stages": ["stages", *MODELS],
    "folder": ["folder", MODELS[0]],
    "memory": ["memory"],
    "serving": ["serving"],
    "quality": ["quality", "--limit", "60"],
}
LAST_LINES = 15  # of one that failed


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run all and write the report; returns the exit code."""
    parser = command_parser("python -m benchmarks", __doc__, as_written=True)
    add = parser.add_argument
    add("--out", type=Path, help="folder (default: runs/bench/DATE)")
    add("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME",
        help=", ".join(BENCHMARKS))  # fmt: skip
    add("--photos", type=Path, help="folder of colour photographs for quality (default: samples)")
    add("--quick", action="store_true", help="smallest sizes: only shows that everything works")
    options = parser.parse_args(arguments)
    if options.photos and not options.photos.is_dir():
        parser.error(f"--photos: there is no folder {options.photos}")
    folder = options.out or ROOT / "runs/bench" / f"{datetime.now():%Y-%m-%d-%H%M}"
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    report = [f"# Benchmarks\n\n{'**Quick: no figure counts.**' if options.quick else ''}\n"]
    report += [f"- {name}: {value}\n" for name, value in results.machine().items()]
    failed = []
    try:
        folder = folder.resolve()
        folder.mkdir(parents=True, exist_ok=True)
        for name in options.only:
            given = [*BENCHMARKS[name], *(["--quick"] if options.quick else [])]
            if name == "quality" and options.photos:
                given += ["--photos", str(options.photos.resolve())]
            code, section = run(name, given, folder)
            failed += [name] if code else []
            report.append(section)
            write_whole(folder / "report.md", "".join(report).encode())  # keeps what was measured
    except KeyboardInterrupt:
        print(f"interrupted; {folder} keeps what was measured", file=sys.stderr)
        return 130
    except OSError as error:
        print(f"benchmarks: {error}", file=sys.stderr)
        return 2
    print(f"wrote {folder / 'report.md'}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(name: str, given: Sequence[str], folder: Path) -> tuple[int, str]:
    """Run one benchmark as a person would.

    Args:
        name: of its files.
        given: module below benchmarks/, and its arguments.
        folder: where its tables and its log go.

    Returns:
        Its exit code, and its section of the report.
    """
    print(f"{name} ...", file=sys.stderr, flush=True)
    saved, log = folder / f"{name}.json", folder / f"{name}.log"
    saved.unlink(missing_ok=True)
    arguments = ["-m", f"benchmarks.{given[0]}", *given[1:], "--json", str(saved)]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, *arguments], cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
        )
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)  # if it hasn't got it from the terminal
            process.wait()  # it stops its servers
            raise
    section = f"\n## {name}\n\n`python {' '.join(arguments[:-2])}`\n\n"
    if code:
        last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
        return code, f"{section}Failed (exit code {code}):\n\n```\n{last}\n```\n"
    _, _, tables = results.load(saved)
    return code, section + "\n".join(table.markdown() for table in tables)


if __name__ == "__main__":
    sys.exit(main())
