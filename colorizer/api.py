"""Colorize without a server: `from colorizer import Colorizer`."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import torch

from colorizer import engine
from colorizer.engine import BadGraph
from colorizer.pipeline import Options, Pipeline, Reply

# Pictures that go together. On a CPU the network takes them one by one, and fewer stay in the cache
# (`python -m benchmarks.folder`); a GPU is worth a larger --batch.
BATCH = 4
_IN_FLIGHT = 2  # batches: while one is in the network, pictures of the other are read and written


class Colorizer:
    """A network, loaded once, for any number of pictures.

    >>> colour = Colorizer("model_store/colorize.mar").colorize(Path("photo.jpg"))
    """

    def __init__(
        self, model: str | Path = "model_store/colorize.mar", device: str | None = None
    ) -> None:
        """Load an archive (.mar), or a folder that export wrote a graph into.

        Args:
            model: its path.
            device: torch's name of one; None takes a GPU where there is one.

        Raises:
            FileNotFoundError: if there is none.
            BadGraph: if it cannot be read, or was altered.
        """
        path = Path(model)
        device = device or ("cuda:0" if torch.cuda.is_available() else "cpu")
        if path.is_dir():
            self.pipeline = Pipeline.load(path, device)
            return
        if not path.is_file():
            raise FileNotFoundError(
                f"no archive at {path}: run `make archives` to build the shipped ones, or name "
                "another"
            )
        with tempfile.TemporaryDirectory(prefix="colorizer-") as folder:
            try:
                with zipfile.ZipFile(path) as archive:
                    names = _needed(archive, device)
                    archive.extractall(folder, names)
            except (OSError, zipfile.BadZipFile) as error:
                raise BadGraph(
                    f"{path} is not an archive that can be read ({error}); build it again: "
                    "make archives"
                ) from None
            self.pipeline = Pipeline.load(Path(folder), device)

    @classmethod
    def of(cls, pipeline: Pipeline) -> Colorizer:
        """Colorize by a pipeline that is loaded already."""
        colorizer = cls.__new__(cls)
        colorizer.pipeline = pipeline
        return colorizer

    def colorize(self, picture: bytes | Path, **options: object) -> bytes:
        """Colorize one picture.

        Args:
            picture: a file's bytes, or its path.
            options: as those of a request: format, quality, decoding, temperature, seed, ...

        Returns:
            The bytes of a picture of the same size, JPEG unless `format` says otherwise.

        Raises:
            RequestError: if it is not a picture that can be colorized, or an option is wrong.
            OSError: if the file cannot be read.
        """
        body = picture.read_bytes() if isinstance(picture, Path) else picture
        return self.pipeline.colorize(body, parse_options(options)).body

    def colorize_files(
        self, paths: Iterable[Path], options: Options | None = None, batch: int = BATCH
    ) -> Iterator[tuple[Path, Reply | Exception]]:
        """Colorize files in batches, reading ahead.

        Yields:
            For each path, in order, its reply, or the exception that it alone ended in.
        """
        chosen = options or Options()
        paths = iter(paths)
        waiting: list[Future[list[tuple[Path, Reply | Exception]]]] = []
        with ThreadPoolExecutor(_IN_FLIGHT) as threads:
            try:
                while True:
                    while len(waiting) < _IN_FLIGHT and (some := list(islice(paths, batch))):
                        waiting.append(threads.submit(self._colorize_some, some, chosen))
                    if not waiting:
                        return
                    yield from waiting.pop(0).result()
            finally:  # the caller has had enough: begin nothing more
                for one in waiting:
                    one.cancel()

    def _colorize_some(
        self, paths: list[Path], options: Options
    ) -> list[tuple[Path, Reply | Exception]]:
        found: dict[Path, Reply | Exception] = {}
        bodies: dict[Path, bytes] = {}
        for path in paths:
            try:
                bodies[path] = path.read_bytes()
            except OSError as error:
                found[path] = error
        replies = self.pipeline.colorize_batch(list(bodies.values()), [options] * len(bodies))
        found.update(zip(bodies, replies, strict=True))
        return [(path, found[path]) for path in paths]


def _needed(archive: zipfile.ZipFile, device: str) -> list[str]:
    """Names of an archive's files, without the graphs that won't be run: each is a hundred MB."""
    names = archive.namelist()
    held = [one for one in engine.NAMES if f"{one}/{engine.MANIFEST}" in names]
    for chosen in engine.PREFERRED[torch.device(device).type]:
        if chosen == "tensorrt" and chosen in held:
            break  # whether a plan fits this GPU, only loading tells; the others may be needed
        if chosen in held and engine.installed(engine.PACKAGES[chosen]):
            others = tuple(f"{one}/" for one in held if one != chosen)
            return [name for name in names if not name.startswith(others)]
    return names


def parse_options(options: Mapping[str, object]) -> Options:
    """Read options as a request's: values may be text, numbers or None, which leaves one out.

    Raises:
        BadOption: on a name that does not exist or a value that is not allowed.
    """
    return Options.parse({k: str(v) for k, v in options.items() if v is not None})
