"""Measure checkpoints against photographs with known colours: python -m training.evaluate --help"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

import colorizer
from colorizer import checkpoint, gamut
from colorizer.checkpoint import BadCheckpoint
from colorizer.engine import Graph
from colorizer.image import Picture, RequestError
from colorizer.pipeline import Options, Pipeline, finish, prepare
from training.data import find_photographs, is_held_out, read_rgb
from training.metrics import Scores, UInt8


def eager_pipeline(weights: Path) -> Pipeline:
    """Serve a checkpoint without exporting it: same pipeline, eager network.

    Raises:
        BadCheckpoint, FileNotFoundError: if it cannot be read.
    """
    net, known = checkpoint.load(weights)
    classes = net.config.head == "classification"
    graph = Graph(
        file="",
        sha256="",
        head=net.config.head,
        side=net.config.side,
        bins=tuple(map(tuple, gamut.bins().tolist())) if classes else (),
        decoding=known.decoding,
        temperature=known.temperature,
        chroma_gain=known.chroma_gain,
        max_error=0.0,
        versions={},
        provenance={},
    )
    return Pipeline(graph, torch.inference_mode()(net))


INTERPOLATED = ", interpolated"  # ends the name of a pipeline that is measured without guidance


def evaluate(pipelines: Mapping[str, Pipeline], paths: Sequence[Path]) -> dict[str, Scores]:
    """Colorize each photograph's lightness and compare; "grey" is the photograph without colour.

    Photographs that cannot be read are left out, and said so on stderr.
    """
    scores = {name: Scores() for name in ("grey", *pipelines)}
    for path in tqdm(paths, desc="evaluating", file=sys.stderr, mininterval=2):
        try:
            truth = read_rgb(path.read_bytes())
        except RequestError as error:
            print(f"left out: {path}: {error}", file=sys.stderr)
            continue
        for name, score in scores.items():
            guided = not name.endswith(INTERPOLATED)
            score.add(colour_again(truth, pipelines.get(name), guided), truth)
    return scores


def colour_again(truth: UInt8, pipeline: Pipeline | None, guided: bool = True) -> UInt8:
    """(H, W, 3) uint8 -> its lightness, coloured by a pipeline, or grey without one."""
    side = pipeline.graph.side if pipeline else 32
    prepared = prepare(Picture(truth), side)
    if pipeline is None:
        return finish(prepared.lightness, torch.zeros(2, side, side).numpy())
    output = pipeline.run(prepared.small[None])
    ab = pipeline.decode(output, Options())[0]
    return finish(prepared.lightness, ab, pipeline.graph.chroma_gain, guided)


def table(scores: Mapping[str, Scores]) -> str:
    """Format the measures as Markdown, with the truth's colorfulness in the last row."""
    rows = {name: score.row() for name, score in scores.items()}
    names = list(next(iter(rows.values())))
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    for name, row in rows.items():
        cells = [f"{row[n]:.4f}" if "AuC" in n else f"{row[n]:.2f}" for n in names]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    truth = next(iter(scores.values())).truth
    cells = [f"{sum(truth) / len(truth):.2f}" if n == "CF" else "" for n in names]
    lines.append(f"| truth | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and evaluate; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.evaluate", description=__doc__)
    parser.add_argument("--version", action="version", version=colorizer.__version__)
    parser.add_argument("checkpoint", type=Path, nargs="+")
    parser.add_argument("--photos", type=Path, required=True, help="folder of colour photographs")
    parser.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="only those that a training run with this --validation held out",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        nargs="+",
        help="measure classification checkpoints at each of these instead of their own",
    )
    parser.add_argument(
        "--interpolated",
        action="store_true",
        help="measure each without the guided filter too, which lets colour follow L's edges",
    )
    parser.add_argument("--limit", type=int, help="every n-th photograph only, this many in all")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    options = parser.parse_args(arguments)
    try:
        paths = find_photographs(options.photos)
        if options.held_out is not None:
            paths = [p for p in paths if is_held_out(p.read_bytes(), options.held_out)]
        if options.limit:
            paths = paths[:: max(1, len(paths) // options.limit)][: options.limit]
        pipelines = {path.stem: eager_pipeline(path) for path in options.checkpoint}
        for name, pipeline in list(pipelines.items()):
            if options.temperature and pipeline.graph.head == "classification":
                del pipelines[name]
                for t in options.temperature:
                    graph = replace(pipeline.graph, temperature=t)
                    pipelines[f"{name}, T = {t}"] = Pipeline(graph, pipeline.run)
        if options.interpolated:
            pipelines |= {name + INTERPOLATED: one for name, one in pipelines.items()}
        scores = evaluate(pipelines, paths)
    except (BadCheckpoint, FileNotFoundError) as error:
        print(f"evaluate: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("evaluate: interrupted", file=sys.stderr)
        return 130
    if options.json:
        print(json.dumps({name: score.row() for name, score in scores.items()}, indent=1))
    else:
        print(f"{len(scores['grey'].psnr)} photographs\n\n{table(scores)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
