"""Time the folder command beside its engine alone, on the same pictures.

The engine alone runs on pictures that are prepared already, one after the other, on all cores: its
own rate. The command reads, prepares, runs, finishes, encodes and writes them, on the same cores.
A third run leaves the network out, so that the work around it is known by itself. Rounds alternate,
and medians are printed. On a CPU the engine's threads already use all cores, so the work around
it comes on top; shared perfectly, it costs its CPU time divided by the cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

import colorizer
from benchmarks import results
from benchmarks.pictures import load_mix, read_folder
from benchmarks.results import Table
from colorizer import image
from colorizer.api import BATCH, Colorizer
from colorizer.commands import cli
from colorizer.engine import BadGraph
from colorizer.pipeline import Options, Pipeline, prepare

MEGAPIXELS = 0.3
PICTURES = 48
ROUNDS = 7
QUICK_PICTURES = 6


def measure(model: Path, photographs: Sequence[bytes], rounds: int, batch: int, size: str) -> Table:
    """Time the engine, the folder command and the command without a network, in turn.

    Args:
        model: an archive, or a folder with a graph.
        photographs: files' bytes.
        rounds: that count; one more warms up.
        batch: pictures that the command takes together.
        size: of the photographs, in words.
    """
    whole = Colorizer(model)
    pipeline = whole.pipeline
    small = [
        torch.stack([prepare(image.read(body), pipeline.graph.side).small]) for body in photographs
    ]
    answer = pipeline.run(small[0]).cpu()
    around = Colorizer.of(Pipeline(pipeline.graph, lambda _: answer, exact=pipeline.exact))

    def engine() -> None:
        _run_all(pipeline, small, batch)

    with tempfile.TemporaryDirectory(prefix="folder-") as made:
        photos, out = Path(made, "photos"), Path(made, "out")
        photos.mkdir()
        for number, body in enumerate(photographs):
            (photos / f"{number:06}.jpg").write_bytes(body)
        runs: dict[str, Callable[[], None]] = {
            "engine alone": engine,
            "folder command": lambda: _command(whole, photos, out, batch),
            "command without its network": lambda: _command(around, photos, out, batch),
        }
        found = _alternate(runs, rounds, len(photographs))
    return _table(found, len(photographs), rounds, size, pipeline.graph.engine)


def _run_all(pipeline: Pipeline, small: Sequence[Tensor], batch: int) -> None:
    """Run the network as the pipeline does: picture by picture, or on a GPU by batches."""
    step = 1 if pipeline.exact else batch
    for first in range(0, len(small), step):
        pipeline.run(torch.cat(list(small[first : first + step]))).cpu()


def _command(colorizer: Colorizer, photos: Path, out: Path, batch: int) -> None:
    """What `colorizer FOLDER --out DIR --overwrite` does once its network is loaded."""
    jobs, done = cli.plan([photos], out, ".jpg", overwrite=True)
    method = cli.colorizing(colorizer, Options(), batch)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        failed = cli.run(jobs, done, method, as_json=False)
    if failed:
        raise ValueError(f"{failed} of the photographs could not be colorized")


def _alternate(
    runs: dict[str, Callable[[], None]], rounds: int, pictures: int
) -> dict[str, tuple[float, float]]:
    """Median milliseconds a picture of each run, by the clock and of CPU time."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    with tqdm(total=(rounds + 1) * len(runs), unit="run", file=sys.stderr, disable=None) as bar:
        for number in range(rounds + 1):
            for name, call in runs.items():
                start, used = time.perf_counter(), time.process_time()
                call()
                took = time.perf_counter() - start, time.process_time() - used
                if number:
                    times[name].append((1000 * took[0] / pictures, 1000 * took[1] / pictures))
                bar.update()
    return {
        name: (statistics.median(t for t, _ in kept), statistics.median(c for _, c in kept))
        for name, kept in times.items()
    }


def _table(
    found: dict[str, tuple[float, float]], pictures: int, rounds: int, size: str, engine: str
) -> Table:
    cores = int(results.machine()["cores"])
    alone = found["engine alone"][0]
    bound = alone + found["command without its network"][1] / cores
    rows: list[Sequence[results.Value]] = [
        [name, 1000 / wall, wall, cpu, alone / wall if name != "engine alone" else 1.0]
        for name, (wall, cpu) in found.items()
    ]
    rows.append(["bound: the rest shared perfectly", 1000 / bound, bound, None, alone / bound])
    return Table(
        f"Folder command beside its engine ({engine}), {size}",
        ["what", "pictures/s", "ms a picture", "CPU ms a picture", "of the engine's rate"],
        rows,
        f"{pictures} pictures, medians of {rounds} alternating rounds, {cores} cores. Start and "
        "loading of the network are not counted. The bound is the engine's time and the rest's "
        "CPU time divided by the cores; where the engine leaves a core idle in between, the "
        "command can do better.",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line, measure and print a table; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.folder", description=__doc__)
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("model", type=Path, help="an archive (.mar), or a folder that export wrote")
    add("--photos", type=Path, help="folder of photographs (default: samples of --megapixels)")
    add("--megapixels", type=float, default=MEGAPIXELS, help="(default: %(default)s)")
    add("--pictures", type=int, default=PICTURES, help="samples to make (default: %(default)s)")
    add("--rounds", type=int, default=ROUNDS, help="(default: %(default)s)")
    add("--batch", type=int, default=BATCH, help="of the command (default: %(default)s)")
    add("--json", type=Path, help="file to keep the table in, for the report")
    add("--quick", action="store_true", help="a few pictures, one round: only shows that it works")
    options = parser.parse_args(arguments)
    if options.quick:
        options.pictures, options.rounds = QUICK_PICTURES, 1
    for name in ("pictures", "rounds", "batch", "megapixels"):
        if not getattr(options, name) > 0:
            parser.error(f"--{name} must be above 0")
    errors = BadGraph, ValueError
    return results.carry_out("benchmarks.folder", options.json, arguments, tables(options), errors)


def tables(options: argparse.Namespace) -> Iterator[Table]:
    """Measure the photographs that were asked for.

    Raises:
        BadGraph, OSError: if there is no such model or photograph.
        ValueError: if one could not be colorized.
    """
    if options.photos:
        found, _ = read_folder(options.photos)
        sizes = sorted(one.width * one.height / 1e6 for one in found)
        size = f"{sizes[0]:.2g} to {sizes[-1]:.2g} MP, middle {statistics.median(sizes):.2g}"
    else:
        samples, _ = load_mix({options.megapixels: 1.0})
        found = [samples[n % len(samples)] for n in range(options.pictures)]
        size = f"grey JPEG of {options.megapixels:g} MP"
    bodies = [one.body for one in found[: options.pictures if options.quick else None]]
    yield measure(options.model, bodies, options.rounds, options.batch, size)


if __name__ == "__main__":
    sys.exit(main())
