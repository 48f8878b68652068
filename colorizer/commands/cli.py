"""Give black-and-white photographs colour, each at its own size.

A photograph goes to photo-colour.jpg beside it, or into the folder --out, where a folder keeps its
shape. What is there already is left alone, so a run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, NamedTuple

from colorizer import __version__
from colorizer.commands import client

if TYPE_CHECKING:
    from colorizer.api import Colorizer
    from colorizer.pipeline import Options

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"}
ENDINGS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}
OPTIONS = ("format", "quality", "chroma", "metadata", "decoding", "temperature", "seed")
CLIENTS = 4  # requests to a server at once: it batches those that wait together

Result = bytes | Exception  # a picture's colours, or why there are none
Method = Callable[[Iterable[Path]], Iterator[Result]]  # in the order of the paths


class Job(NamedTuple):
    """One picture: where from, where to."""

    source: Path
    target: Path


class Refused(Exception):
    """A command that cannot be carried out."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and colorize.

    Returns:
        0: all is done. 1: some pictures failed. 2: nothing could be begun. 130: interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        if options.ray is not None:
            return 1 if run_on_cluster(options) else 0
        _need_paths([*options.pictures, options.out])
        jobs, done = plan(options.pictures, options.out, ENDINGS[options.format], options.overwrite)
        failed = run(jobs, done, choose_method(options) if jobs else None, options.json)
    except Refused as error:
        print(f"colorizer: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("colorizer: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="colorizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=__version__)
    add("pictures", nargs="+", type=_place, metavar="PICTURE", help="a file, or a folder of them")
    add("--out", type=_place, metavar="DIR", help="folder to write to; needed for folders")
    add("--overwrite", action="store_true", help="make anew what is there already")
    add("--json", action="store_true", help="print a line of JSON for each picture")
    where = parser.add_argument_group("what colorizes (default: the archive in model_store)")
    where.add_argument(
        "--model",
        default="model_store/colorize.mar",
        help="an archive, or a folder with an exported graph (default: %(default)s)",
    )
    where.add_argument("--device", help="cpu or cuda:0 (default: a GPU where there is one)")
    where.add_argument(
        "--batch", type=int, default=4, help="pictures that go together (default: %(default)s)"
    )
    where.add_argument(
        "--server",
        metavar="URL",
        help="post to a server instead, as http://127.0.0.1:8080/predictions/colorize",
    )
    where.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="colorize a folder, here or as s3://..., on the machines of a Ray cluster: HOST:PORT "
        "of its head, auto, or local for this machine alone",
    )
    where.add_argument(
        "--worker-cores",
        type=int,
        metavar="N",
        help="cores of each of the cluster's workers (default: those of this machine)",
    )
    how = parser.add_argument_group("how")
    how.add_argument("--format", choices=list(ENDINGS), default="jpeg", help="(default: jpeg)")
    how.add_argument("--quality", type=int, help="1 to 100, for JPEG and WebP (default: 92)")
    how.add_argument("--chroma", type=float, help="strength of the colours, 0 to 3 (default: 1)")
    how.add_argument("--metadata", help="keep or strip EXIF (default: strip)")
    how.add_argument("--decoding", help="annealed-mean, mean, mode or sample (classification)")
    how.add_argument(
        "--temperature", type=float, help="lower decides, higher mixes (classification)"
    )
    how.add_argument("--seed", type=int, help="another draw for --decoding sample")
    return parser


def _place(text: str) -> Path | str:
    """A path, or the address of a folder elsewhere."""
    return text if "://" in text else Path(text)


def _need_paths(places: Sequence[Path | str | None]) -> None:
    for place in places:
        if isinstance(place, str):
            raise Refused(f"{place} is no path; addresses need --ray (or --ray local)")


def plan(
    pictures: Sequence[Path], out: Path | None, ending: str, overwrite: bool
) -> tuple[list[Job], int]:
    """List what has to be done, and count what is there already.

    Raises:
        Refused: if a picture is missing, a folder is given without `out`, or two pictures would
            go to one file.
    """
    jobs: dict[Path, Path] = {}
    for source, target in _targets(pictures, out, ending):
        if target in jobs and jobs[target] != source:
            raise Refused(f"{jobs[target]} and {source} would both go to {target}; rename one")
        jobs[target] = source
    for target, source in jobs.items():
        if target.exists() and target.samefile(source):
            raise Refused(f"{source} would be written over; choose another folder for --out")
    left = [Job(s, t) for t, s in jobs.items() if overwrite or not t.exists()]
    return left, len(jobs) - len(left)


def _targets(
    pictures: Sequence[Path], out: Path | None, ending: str
) -> Iterator[tuple[Path, Path]]:
    for picture in pictures:
        if picture.is_dir():
            if out is None:
                raise Refused(f"{picture} is a folder: say where its colours go, with --out DIR")
            inside = sorted(
                p
                for p in picture.rglob("*")
                # not what an earlier run wrote, where --out lies inside the folder
                if p.suffix.lower() in SUFFIXES
                and not p.name.startswith(".")
                and p.is_file()
                and out.resolve() not in p.resolve().parents
            )
            if not inside:
                raise Refused(f"{picture} holds no picture ({', '.join(sorted(SUFFIXES))})")
            names = [path.relative_to(picture) for path in inside]
            for path, target in zip(inside, named(names, ending), strict=True):
                yield path, out / target
        elif picture.is_file():
            name = picture.stem + ("-colour" if out is None else "") + ending
            yield picture, (picture.parent if out is None else out) / name
        else:
            raise Refused(f"there is no picture at {picture}")


def named(names: Iterable[PurePath], ending: str) -> Iterator[PurePath]:
    """Name the colours of a folder's pictures."""
    taken: set[PurePath] = set()
    for name in names:
        target = name.with_suffix(ending)
        if target in taken:  # a.png beside a.jpg: the later one keeps its whole name
            target = name.with_name(name.name + ending)
        taken.add(target)
        yield target


def choose_method(options: argparse.Namespace) -> Method:
    """Load the network, or talk to the server.

    Raises:
        Refused: if there is no network to load, the server's address is none, or an option's value
            is not allowed.
    """
    if options.server is not None:
        try:
            client.check_address(options.server)
        except ValueError as error:
            raise Refused(f"--server: {error}") from None
        said = _said(options)
        return lambda paths: _ask_server(options.server, said, paths)
    return colorizing(*_load(options), options.batch)


def _said(options: argparse.Namespace) -> dict[str, object]:
    return {name: getattr(options, name) for name in OPTIONS}


def _load(options: argparse.Namespace) -> tuple[Colorizer, Options]:
    from colorizer.api import Colorizer, parse_options
    from colorizer.engine import BadGraph
    from colorizer.image import BadOption

    if options.batch < 1:
        raise Refused(f"--batch must be at least 1, not {options.batch}")
    try:
        chosen = parse_options(_said(options))
        return Colorizer(options.model, options.device), chosen
    except (BadOption, BadGraph, FileNotFoundError) as error:
        raise Refused(str(error)) from None
    except RuntimeError as error:  # torch's, about the device; its first line says it
        raise Refused(
            f"{options.model} on {options.device or 'auto'}: {str(error).splitlines()[0]}"
        ) from None


def colorizing(colorizer: Colorizer, options: Options, batch: int) -> Method:
    """Colorize by a network that is loaded."""

    def colorize(paths: Iterable[Path]) -> Iterator[Result]:
        for _, reply in colorizer.colorize_files(paths, options, batch):
            yield reply if isinstance(reply, Exception) else reply.body

    return colorize


def _ask_server(url: str, options: Mapping[str, object], paths: Iterable[Path]) -> Iterator[Result]:
    """Post each picture; the answers come in order."""

    def ask(path: Path) -> Result:
        try:
            return client.post(url, path.read_bytes(), options)
        except (client.Refused, OSError) as error:
            return error

    with ThreadPoolExecutor(CLIENTS) as threads:
        try:
            yield from threads.map(ask, paths)
        finally:
            threads.shutdown(cancel_futures=True)


def run(jobs: Sequence[Job], done: int, method: Method | None, as_json: bool) -> int:
    """Colorize and write, showing how far it is; returns how many pictures failed."""
    from tqdm import tqdm

    from colorizer.files import write_whole

    failed = 0
    results = method(job.source for job in jobs) if method else iter(())
    with tqdm(total=len(jobs), unit="picture", file=sys.stderr, disable=None) as bar:
        for job, result in zip(jobs, results, strict=True):
            error = result if isinstance(result, Exception) else None
            if isinstance(result, bytes):
                try:
                    write_whole(job.target, result)
                except OSError as why:
                    error = why
            failed += error is not None
            bar.update()
            said = None if error is None else str(error)
            report(str(job.source), str(job.target), said, as_json)
    said = f"{len(jobs) - failed} colorized, {failed} failed, {done} there already"
    print(said, file=sys.stderr)
    return failed


def run_on_cluster(options: argparse.Namespace) -> int:
    """Colorize a folder by Ray; returns how many pictures failed.

    Raises:
        Refused: if Ray is not installed, there is no cluster, no folder, or no network.
    """
    if options.server is not None or len(options.pictures) != 1 or options.out is None:
        raise Refused("--ray takes one folder, and --out for its colours, without --server")
    try:
        import pyarrow  # noqa: F401
        import ray  # noqa: F401
    except ImportError:
        raise Refused("--ray needs Ray: pip install 'colorizer[ray]'") from None
    from colorizer.commands import cluster
    from colorizer.threads import available_cores

    cores = available_cores() if options.worker_cores is None else options.worker_cores
    if cores < 1:
        raise Refused(f"--worker-cores must be at least 1, not {cores}")
    _load(options)  # so that what is wrong with the network or an option is said here, once
    places = [
        place if isinstance(place, str) else str(place.absolute())
        for place in (options.pictures[0], options.out)
    ]
    work = cluster.Work(
        places[0], places[1], _said(options), options.overwrite, options.device, cores
    )
    try:
        return cluster.colorize_folder(
            work, Path(options.model), options.ray, options.batch, options.json
        )
    except cluster.CannotStart as error:
        raise Refused(str(error)) from None


def report(source: str, target: str, error: str | None, as_json: bool) -> None:
    """Tell how a picture ended."""
    from tqdm import tqdm

    if as_json:
        line: dict[str, Any] = {"picture": source, "colour": target}
        if error is not None:
            line = {"picture": source, "error": error}
        tqdm.write(json.dumps(line, ensure_ascii=False))
    elif error is None:
        tqdm.write(target)
    else:
        tqdm.write(f"{source}: {error}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
