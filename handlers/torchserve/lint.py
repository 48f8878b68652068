"""Find in settings what TorchServe would ignore without a word.

A config.properties, or a model-config.yaml: unknown keys with the nearest right one, keys given
twice, values of a wrong type, and keys that a variable of the environment replaces.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from colorizer import __version__
from handlers.torchserve import settings

if TYPE_CHECKING:
    import yaml


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and lint.

    Returns:
        0: all is right. 1: something is wrong. 2: a file can't be read.
    """
    parser = argparse.ArgumentParser(prog="python -m handlers.torchserve.lint", description=__doc__)
    add = parser.add_argument
    add("--version", action="version", version=__version__)
    add("files", nargs="+", type=Path, metavar="FILE", help="ending in .properties or .yaml")
    options = parser.parse_args(arguments)
    wrong = 0
    for path in options.files:
        try:
            found = problems(path)
        except (OSError, ValueError) as error:
            print(f"lint: {path}: {error}", file=sys.stderr)
            return 2
        wrong += len(found)
        for one in found:
            print(f"{path}: {one}")
    if not wrong:
        print("TorchServe reads all of it.")
    return 1 if wrong else 0


def problems(path: Path) -> list[str]:
    """Say what is wrong with a file; nothing where all is right.

    Raises:
        OSError: if it can't be read.
        ValueError: if it is neither kind of file, or no YAML.
    """
    if path.suffix == ".properties":
        return settings.problems_of_properties(path.read_text(), os.environ)
    if path.suffix not in (".yaml", ".yml"):
        raise ValueError("neither a .properties file nor a .yaml file")
    import yaml

    text = path.read_text()
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        found = settings.problems_of_model(yaml.safe_load(text))
    except yaml.YAMLError as error:
        raise ValueError(f"no YAML: {' '.join(str(error).split())}") from None
    return [*_given_twice(node), *found]


def _given_twice(node: yaml.Node | None) -> Iterator[str]:
    """Name keys that YAML would take the last of."""
    import yaml

    if not isinstance(node, yaml.MappingNode):
        return
    lines: dict[str, int] = {}
    for key, value in node.value:
        number = key.start_mark.line + 1
        if key.value in lines:
            yield f"line {number}: {key.value} stands in line {lines[key.value]} too"
        lines[key.value] = number
        yield from _given_twice(value)


if __name__ == "__main__":
    sys.exit(main())
