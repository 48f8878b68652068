"""Colorize a folder of millions of pictures on a Ray cluster.

Only names and errors pass through Ray: workers read pictures from the folder or store, and write
results there. A picture is done if the target holds its result, so the same command resumes an
interrupted run.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray sends nothing to its makers
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # none of Ray's messages on stdout
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray's next default, no warning

from colorizer import graph
from colorizer.commands import results
from colorizer.commands.cli import report
from colorizer.commands.folder import ENDINGS, target_name
from colorizer.commands.progress import Progress, say
from colorizer.commands.storage import Folder
from colorizer.cores import cores
from colorizer.errors import UserError
from colorizer.image import SUFFIXES
from colorizer.options import Options
from colorizer.pipeline import Pipeline

CALLS = 2  # at once to a worker: while one runs the network, the other reads and writes
ALONE = 2  # retries of a picture whose worker died, alone on a worker
CONNECT_SECONDS = 5.0  # for a cluster's head to answer
STORE_BYTES = 512 * 1024**2  # a local cluster's object store, which holds the model alone


class CannotStart(UserError):
    """A cluster that can't work."""


@dataclasses.dataclass(frozen=True)
class Work:
    """The settings of all workers.

    Attributes:
        source: address of the folder to read.
        target: address of the folder to write.
        options: of all pictures.
        overwrite: whether to replace results in the target.
        device: as for `Pipeline.load`.
        threads: of each worker's network; the same everywhere, since another number may change a
            result's bytes. None: all cores of this machine, or a GPU's share of them.
        gpus: of each worker, 0 or 1.
    """

    source: str
    target: str
    options: Options
    overwrite: bool
    device: str | None
    threads: int | None
    gpus: int = 0

    def result(self, name: str) -> str:
        """Name a picture's result, relative to the target folder."""
        return str(target_name(PurePosixPath(name), ENDINGS[self.options.format]))


class Worker:
    """A process of the cluster, with its own network."""

    def load(self, model: bytes, work: Work) -> list[str | None]:
        """Load the network, and try everything that could fail for all pictures."""
        self._work = work
        self._source, self._target = Folder(work.source), Folder(work.target)
        self._pipeline = Pipeline.load(model, work.device, threads=work.threads)
        self._pipeline.colorize(results.sample("png"), work.options)
        self._target.check_writable()
        return []

    def colorize(self, names: list[str]) -> list[str | None]:
        """Colorize pictures that aren't in the target yet; returns each one's error, or None."""
        errors: dict[str, str | None] = dict.fromkeys(names)
        bodies: dict[str, bytes] = {}
        for name in names:
            try:
                if self._work.overwrite or not self._target.has(self._work.result(name)):
                    bodies[name] = self._source.read(name)
            except OSError as error:
                errors[name] = str(error)
        requests = [(body, self._work.options) for body in bodies.values()]
        for name, outcome in zip(bodies, self._pipeline.colorize_batch(requests), strict=True):
            try:
                self._target.write(self._work.result(name), outcome.result().body)
            except Exception as error:
                errors[name] = str(error) or type(error).__name__
        return list(errors.values())


class Crew:
    """Workers on the connected cluster, which share pictures among them.

    A worker gets pictures once it has loaded. One that dies is replaced, and its pictures are lost;
    one that can't load isn't replaced.

    Args:
        model: Ray's reference to what `pack` returns.
        work: as `fit` returns it.
        workers: how many to start.
        batch: pictures in a call to a worker.
        calls: to a worker at the same time.
    """

    def __init__(self, model: Any, work: Work, workers: int, batch: int, calls: int) -> None:
        import ray

        self._hire: Any = ray.remote(Worker).options(
            num_cpus=work.threads, num_gpus=work.gpus, max_concurrency=calls
        )
        self._model, self._work, self._workers = model, work, workers
        self._batch, self._calls = batch, calls
        self._loaded: set[Any] = set()
        # Worker and pictures of each call; one without pictures loads.
        self._running: dict[Any, tuple[Any, list[str]]] = {}
        self._unable: set[str] = set()  # errors of workers that can't load, until reported

    def colorize(self, names: Sequence[str]) -> Iterator[tuple[str, str | None]]:
        """Colorize pictures, each at most once.

        Yields:
            Name and error (or None) of each picture that wasn't lost, in any order.

        Raises:
            CannotStart: if no worker is left.
        """
        left = deque(names)
        for _ in range(min(self._workers, len(left))):
            self._start()
        while left or any(some for _, some in self._running.values()):
            self._hand_out(left)
            if not self._running:
                raise CannotStart(f"no worker can start: {self._unable.pop()}")
            yield from self._wait(bool(left))
            while self._loaded and self._unable:
                line = f"a worker cannot start, the others go on: {self._unable.pop()}"
                say(line, sys.stderr)

    def _start(self) -> None:
        worker = self._hire.remote()
        self._running[worker.load.remote(self._model, self._work)] = worker, []

    def _hand_out(self, left: deque[str]) -> None:
        """Give pictures to workers that have fewer calls than they may have."""
        busy = Counter(worker for worker, _ in self._running.values())
        for worker in [one for one in self._loaded for _ in range(self._calls - busy[one])]:
            if some := [left.popleft() for _ in range(min(self._batch, len(left)))]:
                self._running[worker.colorize.remote(some)] = worker, some

    def _wait(self, more: bool) -> Iterator[tuple[str, str | None]]:
        """Wait for a call to end; replace its worker if that died and there is more to do."""
        import ray

        (call, *_), _ = ray.wait(list(self._running), num_returns=1)
        worker, some = self._running.pop(call)
        try:
            errors = ray.get(call)
        except ray.exceptions.RayError as error:
            if not some:
                self._unable.add(_reason(error))
            elif worker in self._loaded:  # else its other call has reported it
                self._loaded.remove(worker)
                say(f"a worker died: {_reason(error)}", sys.stderr)
                if more:
                    self._start()
            return
        if not some:
            self._loaded.add(worker)
        yield from zip(some, errors, strict=True)


def _reason(error: Exception) -> str:
    """Describe in one line why a call failed: its exception, or how its process ended."""
    if cause := getattr(error, "cause", None):
        return str(cause).partition("\n")[0]
    # The last line is the exception, or begins with a sentence about the process.
    return str(error).strip().rpartition("\n")[2].partition(". ")[0]


def fit(work: Work) -> tuple[Work, int]:
    """Choose the workers' threads, device and GPUs, and how many there can be.

    Raises:
        CannotStart: if there can be none.
    """
    import ray

    there = [one["Resources"] for one in ray.nodes() if one["Alive"]]
    machines = [(int(one.get("CPU", 0)), int(one.get("GPU", 0))) for one in there]
    with_gpus = [(cpu, gpu) for cpu, gpu in machines if gpu]
    device, threads, gpus = work.device, work.threads, 0
    if (device is None and with_gpus) or (device or "").startswith("cuda"):
        if not with_gpus:
            raise CannotStart(f"no machine of the cluster has a GPU, for --device {device}")
        machines, gpus = with_gpus, 1
        threads = threads or max(1, min(cpu // gpu for cpu, gpu in machines))
        device = device and "cuda:0"  # the one GPU that Ray shows to each worker
    threads = threads or cores()
    workers = sum(min(cpu // threads, gpu if gpus else cpu) for cpu, gpu in machines)
    if not workers:
        most = max((cpu for cpu, _ in machines), default=0)
        raise CannotStart(
            f"no machine of the cluster has {threads} cores; choose --worker-cores {most}"
        )
    return dataclasses.replace(work, device=device, threads=threads, gpus=gpus), workers


@contextlib.contextmanager
def connected(address: str) -> Iterator[None]:
    """Connect to a cluster; the address "local" starts one on this machine.

    Raises:
        CannotStart: if there is no cluster.
    """
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        how: dict[str, Any] = {"address": address}
        try:
            if address == "local":
                # Makes Ray listen on 127.0.0.1 only, on any system. It is read when Ray is
                # imported, so no module imports Ray at its top.
                os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
                how |= {"include_dashboard": False, "_temp_dir": folder}
                how |= {"object_store_memory": STORE_BYTES, "num_cpus": cores()}
            elif address != "auto":  # Ray itself would wait for minutes
                host, _, port = address.rpartition(":")
                socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
            import ray

            ray.init(log_to_driver=False, logging_level=logging.ERROR, **how)
        except (RuntimeError, ValueError, OverflowError, OSError) as error:
            line = (str(error).splitlines() or [type(error).__name__])[0]
            raise CannotStart(
                f"no Ray cluster answers at {address!r} ({line}): --ray takes local, auto or the "
                "HOST:PORT of a head that `ray start --head` started"
            ) from None
        try:
            yield
        finally:
            ray.shutdown()


def pack(model: Path) -> bytes:
    """Read an archive, or zip a folder with a graph, for workers that lack the file.

    Raises:
        BadGraph: if there is no graph.
    """
    graph.find(graph.open_place(model))
    if model.is_file():
        return model.read_bytes()
    with tempfile.TemporaryDirectory(prefix="colorizer-") as folder:
        return Path(shutil.make_archive(f"{folder}/model", "zip", model)).read_bytes()


def colorize_folder(work: Work, model: Path, address: str, batch: int, as_json: bool) -> int:
    """Colorize a folder, showing progress; returns the number of pictures that failed.

    Raises:
        CannotStart: if there is no cluster, no folder with pictures, or no worker can load.
        BadGraph: if there is no model.
    """
    there: set[str] = set()
    try:
        source, target = Folder(work.source), Folder(work.target)
        if source == target:
            raise ValueError("--out must be another folder than that of the pictures")
        print(f"listing {work.source} ...", file=sys.stderr)
        names = list(source.names(SUFFIXES, target))
        if not work.overwrite:
            with contextlib.suppress(FileNotFoundError):
                there = set(target.names())
    except (OSError, ValueError) as why:
        raise CannotStart(str(why)) from None
    if not names:
        raise CannotStart(f"{work.source} holds no picture ({', '.join(sorted(SUFFIXES))})")
    left = dict.fromkeys(name for name in names if work.result(name) not in there)
    total, failed = len(left), 0

    def done(name: str, error: str | None) -> None:
        nonlocal failed
        failed += error is not None
        report(name, work.result(name), error, as_json)
        bar.update()

    if left:
        packed = pack(model)
        with connected(address), Progress(total, "pictures") as bar:
            import ray  # only now, see connected

            fitted, workers = fit(work)
            shared = ray.put(packed)
            # Retried alone, a picture that kills its worker takes no others with it.
            for size, calls in [(batch, CALLS), *[(1, 1)] * ALONE]:
                crew = Crew(shared, fitted, workers, size, calls)
                for name, error in crew.colorize(list(left)):
                    del left[name]
                    done(name, error)
            for name in left:
                done(name, f"{1 + ALONE} workers died while they had it in hand")
    print(
        f"{total - failed} colorized, {failed} failed, {len(names) - total} there already",
        file=sys.stderr,
    )
    return failed
