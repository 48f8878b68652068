"""What the exports for TorchServe and for Triton have in common."""

from __future__ import annotations

import argparse
import difflib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import yaml

from colorizer.errors import UserError
from colorizer.graph import NAMES, Name
from export import graphs
from export.graphs import Source
from export.parity import Row

ROOT = Path(__file__).resolve().parent.parent
SETTINGS = ROOT / "handlers" / "serving.yaml"
# The commands and what they need stay outside of archives.
LEFT_OUT = shutil.ignore_patterns("__pycache__", "__main__.py", "commands")


class BadSettings(UserError):
    """A serving.yaml with a key that doesn't exist, or a value that isn't allowed."""


@dataclass(frozen=True)
class Settings:
    """How a model is served; handlers/serving.yaml says why.

    Attributes:
        workers: processes for each model.
        batch: the most requests that are answered together.
        batch_delay_ms: milliseconds to wait for more of them.
        queue: requests that may wait.
        timeout_s: seconds that a batch may take.
        startup_s: seconds that loading may take.
        threads: of the network; 0 for as many as there are cores.
    """

    workers: int
    batch: int
    batch_delay_ms: int
    queue: int
    timeout_s: int
    startup_s: int
    threads: int

    @classmethod
    def read(cls, path: Path = SETTINGS) -> Settings:
        """Read a serving.yaml.

        Raises:
            BadSettings: naming the first thing that is wrong with it.
            OSError: if it can't be read.
        """
        names = [one.name for one in fields(cls)]
        text = path.read_text()
        try:
            values, node = yaml.safe_load(text), yaml.compose(text, yaml.SafeLoader)
        except yaml.YAMLError as error:
            raise BadSettings(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
            raise BadSettings(f"{path} has no settings; write {names[0]}: 1, and so on")
        if len(node.value) > len(values):  # YAML takes the last one
            raise BadSettings(f"{path} gives a setting twice")
        for name in values:
            if name not in names:
                near = difflib.get_close_matches(str(name), names, 1)
                hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(names)}"
                raise BadSettings(f"{path} has no setting {name!r:.40}; {hint}")
        for name in names:
            if name not in values:
                raise BadSettings(f"{path} lacks {name}")
            least = 0 if name in ("batch_delay_ms", "threads") else 1
            if type(values[name]) is not int or values[name] < least:
                raise BadSettings(
                    f"{path}: {name} must be a whole number from {least}, not {values[name]!r:.40}"
                )
        return cls(**values)


def stage(
    source: Source, folder: Path, engines: Sequence[Name], say: Callable[[str], None]
) -> None:
    """Write into a folder what a model of either server carries: graphs, and this library.

    Raises:
        NotEqual, NotBuilt: as `graphs.export`.
    """
    matrix: list[Row] = []
    for name in engines:
        graphs.export(source, name, folder / name, matrix, say=say)
    shutil.rmtree(folder / graphs.HALF_ONNX, ignore_errors=True)  # the plan was built from it
    shutil.copytree(ROOT / "colorizer", folder / "colorizer", ignore=LEFT_OUT)


def add_graph_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that both exports share."""
    add = parser.add_argument
    add("--engine", nargs="+", choices=NAMES, default=graphs.ENGINES,
        help=f"engines to carry graphs for (default: {' '.join(graphs.ENGINES)}); the server takes "
        "what it can run")  # fmt: skip
    add("--photos", type=Path, help="compare on these, not on scikit-image's samples")
    add("--settings", type=Path, default=SETTINGS, help="how to serve (default: %(default)s)")
