"""Run every benchmark, one after another, and write what they found as one report.md.

Each benchmark's tables are saved as NAME.json, too. One that fails is named in the report, and the
others go on. --quick takes the smallest sizes, whose figures mean nothing: it shows that everything
works.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from benchmarks import results
from colorizer.commands.run import command_parser, run_command

ROOT = Path(__file__).resolve().parent.parent
STORE = "model_store"
MODELS = [f"{STORE}/colorize.mar", f"{STORE}/colorize-classes.mar"]
# Name -> module below benchmarks/ and its arguments
BENCHMARKS = {
    "engines": ["engines", f"{STORE}/regression.safetensors", MODELS[0]],
    "engines-classes": ["engines", f"{STORE}/classification.safetensors", MODELS[1]],
    "stages": ["stages", *MODELS],
    "memory": ["memory"],
    "serving": ["serving"],
    "quality": ["quality", "--limit", "60"],
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, run all and write the report; returns the exit code."""
    parser = command_parser("python -m benchmarks", __doc__, as_written=True)
    add = parser.add_argument
    now = f"{datetime.now():%Y-%m-%d-%H%M}"
    add("--out", type=Path, default=ROOT / "runs/bench" / now, help="folder (runs/bench/DATE)")
    add("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME",
        help=", ".join(BENCHMARKS))  # fmt: skip
    add("--photos", type=Path, help="folder of colour photographs for quality (default: samples)")
    add("--quick", action="store_true", help="smallest sizes: only shows that everything works")
    options = parser.parse_args(arguments)
    if options.photos and not options.photos.is_dir():
        parser.error(f"--photos: there is no folder {options.photos}")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    return run_command("benchmarks", lambda: report(options), "report.md keeps what was measured")


def report(options: argparse.Namespace) -> int:
    """Run the benchmarks that were named; returns 1 if one failed."""
    folder = options.out.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    failed = []
    with (folder / "report.md").open("w") as file:

        def write(text: str) -> None:
            print(text, file=file, flush=True)

        write(f"# Benchmarks\n\n{'**Quick: no figure counts.**' if options.quick else ''}\n")
        write("\n".join(f"- {name}: {value}" for name, value in results.machine().items()))
        for name in options.only:
            module, *given = BENCHMARKS[name]
            given += ["--quick"] if options.quick else []
            if name == "quality" and options.photos:
                given += ["--photos", str(options.photos.resolve())]
            command = ["-m", f"benchmarks.{module}", *given]
            results.say(name)
            write(f"\n## {name}\n\n`python {' '.join(command)}`\n")
            command += ["--json", str(folder / f"{name}.json")]
            process = subprocess.Popen([sys.executable, *command], cwd=ROOT, stdout=file)
            try:
                code = process.wait()
            except KeyboardInterrupt:
                process.send_signal(signal.SIGINT)  # if it hasn't got it from the terminal
                process.wait()  # it stops its servers
                raise
            if code:
                failed.append(name)
                write(f"Failed (exit code {code}); the terminal has its message.")
    print(f"wrote {folder / 'report.md'}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
