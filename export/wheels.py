"""Build the wheels that people install: python -m export.wheels --help

One wheel holds the program. Each network's weights have a separate one, with their licence (55 MB;
PyPI takes files up to 100 MB), which installs the folder colorizer_weights/NAME, where
`colorizer.models` finds it. The same files on the same machine give the same bytes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import colorizer
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import written_whole
from colorizer.models import DISTRIBUTION, PACKAGE
from export import graphs, parity
from export.graphs import Source
from export.serving import ROOT

STORE = ROOT / "model_store"
LICENCES = ("LICENSE-WEIGHTS", "MODEL_CARD.md")  # the model card holds the notice of changes
LONG_AGO = "315532800"  # 1980-01-01, the earliest time that a zip file can hold
FILES = ("pyproject.toml", "README.md", "LICENSE")  # that the program's wheel is built from

# Of a wheel of weights.
PROJECT = """\
[build-system]
requires = ["setuptools>=77"]
build-backend = "setuptools.build_meta"
[project]
name = "{distribution}"
version = "{version}"
description = "Weights of the {name} network of {program}; for non-commercial use only"
readme = "MODEL_CARD.md"
license = "LicenseRef-Uber-Non-Commercial"
license-files = ["LICENSE-WEIGHTS", "MODEL_CARD.md"]
requires-python = ">=3.10"
[tool.setuptools]
packages = ["{package}.{name}"]
[tool.setuptools.package-data]
"*" = ["**/*"]
"""


class NotPacked(UserError):
    """A wheel that could not be built."""


def program(out: Path) -> Path:
    """Build the program's wheel into a folder; returns its path.

    Raises:
        NotPacked: if setuptools fails.
    """
    with tempfile.TemporaryDirectory(prefix="wheels-") as temporary:
        # From a copy: setuptools leaves files behind, and packs those of earlier builds.
        for name in ("colorizer", "page"):
            shutil.copytree(ROOT / name, Path(temporary, name))
        for name in FILES:
            shutil.copy(ROOT / name, temporary)
        return _build(Path(temporary), out)


def weights(checkpoint: Path, out: Path) -> Path:
    """Build the wheel of a network's weights into a folder; returns its path.

    Args:
        checkpoint: its head names the network, and LICENCES lie beside it.
        out: the folder.

    Raises:
        NotEqual, BadCheckpoint, FileNotFoundError: as `graphs.export`.
        NotPacked: if setuptools fails.
    """
    source = Source.read(checkpoint, parity.photographs(None))
    name = source.header.recipe.head
    with tempfile.TemporaryDirectory(prefix="wheels-") as temporary:
        folder = Path(temporary)
        for engine in graphs.ENGINES:
            graphs.export(source, engine, folder / PACKAGE / name / engine, [])
        for licence in LICENCES:
            shutil.copy(checkpoint.with_name(licence), folder)
        about = PROJECT.format(
            distribution=f"{DISTRIBUTION}-{name}",
            version=colorizer.__version__,
            program=DISTRIBUTION,
            name=name,
            package=PACKAGE,
        )
        (folder / "pyproject.toml").write_text(about)
        return _build(folder, out)


def _build(project: Path, out: Path) -> Path:
    """Build a project's wheel by the setuptools that is installed, without network."""
    made = project / "made"
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--disable-pip-version-check", f"--wheel-dir={made}", "."]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": LONG_AGO}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    wheels = list(made.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        raise NotPacked(f"setuptools built no wheel: {(done.stderr or done.stdout)[-1000:]}")
    target = out / wheels[0].name
    with written_whole(target) as beside:
        shutil.copyfile(wheels[0], beside)
    print(f"wrote {target} ({target.stat().st_size / 1e6:.1f} MB)", flush=True)
    return target


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and build; returns the exit code."""
    parser = command_parser(
        "python -m export.wheels", "Build the wheels of the program and of the networks' weights."
    )
    add = parser.add_argument
    shipped = [STORE / "regression.safetensors", STORE / "classification.safetensors"]
    add("checkpoints", type=Path, nargs="*", default=shipped, metavar="CHECKPOINT",
        help="weights, with LICENSE-WEIGHTS and MODEL_CARD.md (default: the shipped)")  # fmt: skip
    add("--out", type=Path, default=Path("dist"), help="folder to write to (default: dist)")
    options = parser.parse_args(arguments)

    def work() -> int:
        program(options.out)
        for checkpoint in options.checkpoints:
            weights(checkpoint, options.out)
        return 0

    return run_command("export", work)


if __name__ == "__main__":
    sys.exit(main())
