"""Colorize with an older checkout of this project: python benchmarks/older.py CHECKOUT ARCHIVE.

Reads paths of pictures, a line each, and prints the milliseconds that each took. Before
`graph.json` had a format number, its recipe was among its other values: such a checkout gets the
same graph with a manifest of its own kind.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any


def load(archive: str) -> Any:
    """Load an archive's ONNX graph into that checkout's pipeline."""
    from colorizer.api import Colorizer

    if importlib.util.find_spec("colorizer.engine") is None:  # its name before there was a format
        return Colorizer(archive, "cpu").pipeline
    from colorizer.engine import MANIFEST, Graph  # type: ignore[import-not-found]

    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(archive) as packed:
        packed.extractall(folder, [one for one in packed.namelist() if one.startswith("onnx/")])
        manifest = Path(folder, "onnx", MANIFEST)
        values = json.loads(manifest.read_text())
        values |= values.pop("recipe")
        known = {name: values[name] for name in Graph.__dataclass_fields__ if name in values}
        manifest.write_text(json.dumps(known))
        return Colorizer(folder, "cpu").pipeline


def main() -> None:
    """Answer until there is nothing more to read."""
    os.environ["COLORIZER_ENGINE"] = "onnx"
    sys.path.insert(0, sys.argv[1])
    import colorizer

    assert Path(colorizer.__file__).is_relative_to(Path(sys.argv[1]).resolve()), colorizer.__file__
    pipeline = load(sys.argv[2])
    for line in sys.stdin:
        body = Path(line.strip()).read_bytes()
        start = time.perf_counter()
        pipeline.colorize(body)
        print(1000 * (time.perf_counter() - start), flush=True)


if __name__ == "__main__":
    main()
