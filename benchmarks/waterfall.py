"""Tell where the time of one photograph goes, stage by stage."""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from skimage import data

import colorizer
from colorizer import image
from colorizer.engine import BadGraph
from colorizer.pipeline import STAGES, Pipeline


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.waterfall", description=__doc__)
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    parser.add_argument("graph", type=Path, help="folder that export wrote")
    parser.add_argument("--size", default="2048x1536", help="WIDTHxHEIGHT (default: %(default)s)")
    parser.add_argument("--repeat", type=int, default=7, help="rounds (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        width, height = map(int, options.size.split("x"))
        pipeline = Pipeline.load(options.graph)
    except ValueError:
        parser.error(f"--size must be WIDTHxHEIGHT, not {options.size!r}")
    except BadGraph as error:
        print(f"waterfall: {error}", file=sys.stderr)
        return 1
    grey = cv2.resize(data.camera(), (width, height), interpolation=cv2.INTER_CUBIC)
    rgb = np.asarray(grey, np.uint8)[..., None].repeat(3, axis=-1)
    body = image.write(rgb, image.OutputOptions())
    pipeline.warm_up()
    print(f"{width} x {height} JPEG, {pipeline.graph.head} network, {options.repeat} rounds\n")
    found = [pipeline.colorize(body).seconds for _ in range(options.repeat)]
    middle = {stage: 1000 * statistics.median(one[stage] for one in found) for stage in STAGES}
    print("| stage | ms | share |\n|---|---|---|")
    for stage, value in middle.items():
        print(f"| {stage} | {value:.0f} | {value / sum(middle.values()):.0%} |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
