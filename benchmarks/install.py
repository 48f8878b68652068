"""Measure what a new user waits for: python -m benchmarks.install --help

Installs wheels with pip into a new environment, outside the repository, and colorizes a picture.
Run it twice and take the second result: the first fills pip's cache.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

OWN = ("pip", "setuptools", "_distutils_hack")  # what a new environment has
SCRIPTS = "Scripts" if os.name == "nt" else "bin"


def measure(wheels: Sequence[Path], photo: Path, runs: int) -> dict[str, float]:
    """Install and colorize.

    Args:
        wheels: of the program and of a network's weights.
        photo: a picture.
        runs: of the command, after the first.

    Returns:
        Seconds and megabytes, by what was measured.
    """
    with tempfile.TemporaryDirectory(prefix="install-") as temporary:
        folder = Path(temporary)
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        environment["COLORIZER_HOME"] = str(folder / "home")  # nothing of this user's
        scripts = folder / "environment" / SCRIPTS

        def run(*command: str | Path) -> float:
            began = time.monotonic()
            subprocess.run([*map(str, command)], cwd=folder, env=environment, check=True)
            return time.monotonic() - began

        found = {"new environment, s": run(sys.executable, "-m", "venv", "environment")}
        paths = [wheel.absolute() for wheel in wheels]
        found["pip install, s"] = run(scripts / "pip", "install", "--quiet", *paths)
        colorize = (scripts / "colorizer", photo.absolute(), "-o", "colour.jpg", "--overwrite")
        found["first picture, s"] = run(*colorize)
        found["from nothing to the first picture, s"] = sum(found.values())
        later = [run(*colorize) for _ in range(runs)]
        found[f"later pictures, median of {runs}, s"] = median(later)
        (site,) = (folder / "environment").rglob("site-packages")
        sizes = {one.name: _size(one) / 1e6 for one in site.iterdir()}
        used = {name: size for name, size in sizes.items() if not name.startswith(OWN)}
        found["site-packages without pip, MB"] = sum(used.values())
        for name in sorted(used, key=lambda name: -used[name])[:8]:
            found[f"… {name}"] = used[name]
        return found


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.install", description=__doc__.splitlines()[0].partition(":")[0]
    )
    parser.add_argument("photo", type=Path, help="a picture to colorize")
    parser.add_argument("wheels", type=Path, nargs="+", help="of the program and of weights")
    parser.add_argument("--runs", type=int, default=5, help="of the command (default: 5)")
    options = parser.parse_args(arguments)
    found = measure(options.wheels, options.photo, options.runs)
    print("| what | |\n|---|---|")
    for name, value in found.items():
        print(f"| {name} | {value:.2f} |" if name.endswith(", s") else f"| {name} | {value:.0f} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
