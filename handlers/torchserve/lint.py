"""Find in a config.properties what TorchServe would ignore without a word.

Unknown keys, with the nearest right one; keys given twice; values of a wrong type; keys that a
variable of the environment replaces.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from colorizer import __version__
from handlers.torchserve import settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and lint.

    Returns:
        0: all is right. 1: something is wrong. 2: a file can't be read.
    """
    parser = argparse.ArgumentParser(prog="python -m handlers.torchserve.lint", description=__doc__)
    add = parser.add_argument
    add("--version", action="version", version=__version__)
    add("files", nargs="+", type=Path, metavar="FILE", help="a config.properties")
    options = parser.parse_args(arguments)
    wrong = 0
    for path in options.files:
        try:
            found = settings.problems_of_properties(path.read_text(), os.environ)
        except (OSError, UnicodeDecodeError) as error:
            print(f"lint: {path}: {error}", file=sys.stderr)
            return 2
        wrong += len(found)
        for one in found:
            print(f"{path}: {one}")
    if not wrong:
        print("TorchServe reads all of it.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
