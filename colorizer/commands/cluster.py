"""Colorize a folder of millions on the machines of a Ray cluster.

Ray's actors do it, not Ray Data: what travels are names and verdicts, a few bytes a picture, and
the pictures go from the store to a worker and back. Ray Data would hand out and report by blocks,
of which one may hold thousands of names, and redo a whole block when a worker dies; here a picture
is recorded as soon as its colours are in place, and names are listed only as fast as they are used.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import socket
import sys
import tempfile
import zipfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nobody is told that you use this
# That a restarted worker needs the network again: the driver holds it as long as it lives.
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a warning about GPUs, settled

from colorizer.api import parse_options
from colorizer.commands.cli import report
from colorizer.commands.folder import ENDINGS
from colorizer.commands.storage import Folder, Record
from colorizer.image import SUFFIXES
from colorizer.pipeline import Pipeline

IN_FLIGHT = 2  # portions of a worker: while one is in the network, the other is read and written
RETRIES = 2  # of a portion whose worker dies: a machine that goes is no picture's fault
LOOK_SECONDS = 5.0  # for a cluster's head to answer
STORE_BYTES = 512 * 1024**2  # of a local cluster's object store: it holds the network alone


class CannotStart(Exception):
    """Why there is no cluster to work on; the message says what to do."""


class Named(NamedTuple):
    """One picture: its name in the folder it comes from, and in the one it goes to."""

    source: str
    target: str


class Verdict(NamedTuple):
    """How a picture ended: with an error, with its colours, or with what was there already."""

    picture: Named
    error: str | None
    made: bool


@dataclass(frozen=True)
class Work:
    """What all workers do alike.

    Attributes:
        source: address of the folder to read.
        target: address of the folder to write.
        options: as a request's; `format` is one of them.
        overwrite: whether to make anew what is there already.
        device: as `Colorizer` has it.
        threads: of the network. The same number gives the same bytes, on whichever worker.
    """

    source: str
    target: str
    options: Mapping[str, object]
    overwrite: bool
    device: str | None
    threads: int


class Worker:
    """One process of the cluster, with a network of its own."""

    def __init__(self, model: bytes, work: Work) -> None:
        self._pipeline = Pipeline.load(model, work.device, threads=work.threads)
        self._source, self._target = Folder(work.source), Folder(work.target)
        self._options, self._overwrite = parse_options(work.options), work.overwrite

    def colorize(self, pictures: list[Named]) -> list[Verdict]:
        """Colorize pictures, each with a verdict of its own; none raises."""
        verdicts: dict[Named, Verdict] = {}
        bodies: dict[Named, bytes] = {}
        for one in pictures:
            try:
                if not self._overwrite and self._target.has(one.target):
                    verdicts[one] = Verdict(one, None, False)
                else:
                    bodies[one] = self._source.read(one.source)
            except OSError as error:
                verdicts[one] = Verdict(one, str(error), False)
        outcomes = self._pipeline.colorize_batch(
            [(body, self._options) for body in bodies.values()]
        )
        for one, outcome in zip(bodies, outcomes, strict=True):
            said = None if outcome.reply else str(outcome.error)
            if outcome.reply:
                try:
                    self._target.write(one.target, outcome.reply.body)
                except OSError as error:
                    said = str(error)
            verdicts[one] = Verdict(one, said, said is None)
        return [verdicts[one] for one in pictures]


def pack(model: Path) -> bytes:
    """Read an archive, or pack a folder with a graph as one, for workers that lack the file."""
    if model.is_file():
        return model.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(p for p in model.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(model).as_posix())
    return packed.getvalue()


@contextlib.contextmanager
def connected(address: str, cores: int) -> Iterator[int]:
    """Connect to a cluster, or start one of this machine alone for the address "local".

    Yields:
        How many workers of so many cores it has room for.

    Raises:
        CannotStart: if there is no cluster, or no machine of that many cores in it.
    """
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        how: dict[str, Any] = {"address": address}
        if address == "local":
            # Ray's name for "this machine alone": it then listens on 127.0.0.1 only.
            os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
            how |= {"include_dashboard": False, "_temp_dir": folder}
            how |= {"object_store_memory": STORE_BYTES}
        else:
            _look_for(address)
        import ray

        try:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, **how)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            raise CannotStart(f"--ray {address}: {str(error).splitlines()[0]}") from None
        try:
            machines = [one["Resources"] for one in ray.nodes() if one["Alive"]]
            room = sum(int(one.get("CPU", 0) // cores) for one in machines)
            if not room:
                most = max(int(one.get("CPU", 0)) for one in machines)
                raise CannotStart(
                    f"no machine of the cluster has {cores} cores; choose --worker-cores {most}"
                )
            yield room
        finally:
            ray.shutdown()


def _look_for(address: str) -> None:
    """Ask whether anybody listens: Ray itself would wait for many minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise CannotStart(f"--ray takes local, auto or HOST:PORT of a cluster's head: {address!r}")
    try:
        socket.create_connection((host, int(port)), LOOK_SECONDS).close()
    except OSError as error:
        raise CannotStart(
            f"no Ray cluster answers at {address} ({error}): start one with ray start --head"
        ) from None


def colorize(
    pictures: Iterator[Named], model: bytes, work: Work, workers: int, batch: int
) -> Iterator[Verdict]:
    """Colorize on a cluster that is connected, taking pictures only as fast as they are done.

    A portion whose worker dies is done again by the next one; what keeps killing workers is tried
    picture by picture, and the one that does it fails alone.

    Yields:
        A verdict for each picture, once its colours are in place; in no order.
    """
    import ray

    # A GPU for each worker where the device is one, or any will do and the cluster has them.
    any_device = work.device is None and ray.cluster_resources().get("GPU", 0) >= 1
    gpus = 1 if any_device or (work.device or "").startswith("cuda") else 0
    hire: Any = ray.remote(Worker).options(
        num_cpus=work.threads,
        num_gpus=gpus,
        max_restarts=-1,
        max_task_retries=RETRIES,
        max_concurrency=IN_FLIGHT,
    )
    shared = ray.put(model)
    free: deque[Any] = deque([hire.remote(shared, work) for _ in range(workers)] * IN_FLIGHT)
    again: deque[list[Named]] = deque()
    doing: dict[Any, tuple[Any, list[Named]]] = {}
    while True:
        while free and (portion := again.popleft() if again else [*islice(pictures, batch)]):
            worker = free.popleft()
            doing[worker.colorize.remote(portion)] = worker, portion
        if not doing:
            return
        (ready, *_), _ = ray.wait(list(doing), num_returns=1)
        worker, portion = doing.pop(ready)
        free.append(worker)
        try:
            yield from ray.get(ready)
        except ray.exceptions.RayError as error:
            if len(portion) > 1:
                again += [[one] for one in portion]
            else:
                said = f"its worker died {RETRIES + 1} times over it ({type(error).__name__})"
                yield Verdict(portion[0], said, False)


def colorize_folder(work: Work, model: Path, address: str, batch: int, as_json: bool) -> int:
    """Colorize a folder, showing how far it is; returns how many pictures failed.

    Raises:
        CannotStart: if there is no cluster, or no folder with pictures.
    """
    from tqdm import tqdm

    try:
        source, target = Folder(work.source), Folder(work.target)
        if source.root == target.root:
            raise ValueError("--out must be another folder than that of the pictures")
        print(f"listing {work.source} ...", file=sys.stderr)
        total = sum(map(len, source.list(SUFFIXES, target.root)))
        record = Record(target)
        done = set() if work.overwrite else record.done()
    except (OSError, ValueError) as error:
        raise CannotStart(str(error)) from None
    if not total:
        raise CannotStart(f"{work.source} holds no picture ({', '.join(sorted(SUFFIXES))})")
    made = failed = 0
    bar = tqdm(total=total, unit="picture", file=sys.stderr, disable=None)

    def left() -> Iterator[Named]:
        for names in source.list(SUFFIXES, target.root):
            colours = named(map(PurePosixPath, names), ENDINGS[str(work.options["format"])])
            for name, colour in zip(names, colours, strict=True):
                if name not in done:
                    yield Named(name, str(colour))
                else:
                    bar.update()

    with bar, connected(address, work.threads) as workers:
        try:
            for one in colorize(left(), pack(model), work, workers, batch):
                made, failed = made + one.made, failed + (one.error is not None)
                line = {"picture": one.picture.source, "colour": one.picture.target}
                if one.error is not None:
                    line = {"picture": one.picture.source, "error": one.error}
                record.add(line)
                bar.update()
                if one.made or one.error is not None:
                    report(*one.picture, one.error, as_json)
        finally:
            record.flush()
    there = total - made - failed
    print(f"{made} colorized, {failed} failed, {there} there already", file=sys.stderr)
    return failed
