"""Check archives against their manifests: python -m export.verify --help"""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

from colorizer import graph
from colorizer.commands.run import command_parser
from colorizer.errors import UserError
from colorizer.graph import BadGraph

MANIFEST = "MAR-INF/MANIFEST.json"


class BadArchive(UserError):
    """An archive that differs from what export wrote."""


def verify(path: Path) -> dict[str, int]:
    """Check each file of an archive against its hash, and each graph against its manifest.

    Returns:
        For each file its size.

    Raises:
        BadArchive: if a file is missing, altered, or was added.
    """
    rebuild = f"make it again: python -m export.archive CHECKPOINT --out {path}"
    if not path.is_file():
        raise BadArchive(f"there is no archive {path}; {rebuild}")
    try:
        with zipfile.ZipFile(path) as file:
            expected = json.loads(file.read(MANIFEST))["sha256"]
            found = [name for name in file.namelist() if name != MANIFEST]
            if len(set(found)) < len(found):
                raise BadArchive(f"{path} holds a file twice; {rebuild}")
            for name in sorted(set(found) | set(expected)):
                if name not in found:
                    raise BadArchive(f"{path} lacks {name}; {rebuild}")
                if name not in expected:
                    raise BadArchive(f"{path} holds {name}, which export did not write; {rebuild}")
                if hashlib.sha256(file.read(name)).hexdigest() != expected[name]:
                    raise BadArchive(f"{name} in {path} was altered after its export; {rebuild}")
            for place in graph.find(zipfile.Path(file)).values():
                manifest = graph.read_graph(place)
                graph.read_file(place, manifest)
                graph.read_weights(place, manifest)
            return {name: file.getinfo(name).file_size for name in found}
    except (zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        raise BadArchive(f"{path} is no archive of this project, or cut: {error}") from error
    except BadGraph as error:
        raise BadArchive(f"a graph of {path} doesn't fit its manifest: {error}") from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and check; returns the exit code."""
    parser = command_parser("python -m export.verify", __doc__)
    parser.add_argument("archives", type=Path, nargs="+", metavar="ARCHIVE", help=".mar files")
    options = parser.parse_args(arguments)
    failed = False
    for path in options.archives:
        try:
            sizes = verify(path)
        except (BadArchive, OSError) as error:
            print(f"verify: {error}", file=sys.stderr)
            failed = True
        else:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            print(f"{path}: {len(sizes)} files, all as export wrote them; sha256 {digest}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
