"""The path of a photograph: bytes -> L -> network -> ab -> the same photograph in colour.

The one implementation that TorchServe, Triton, the commands and evaluation share. A picture passes
four stages: read, network, finish, write.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import threading
import time
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from colorizer import encode, engines, gamut, hints, image, provenance, smooth
from colorizer.cores import cores
from colorizer.errors import BadOption, RequestError
from colorizer.finish import Prepared, enlarge, finish, finish_planes, in_lab, prepare
from colorizer.graph import Engine, Graph, Name
from colorizer.image import Limits, Picture
from colorizer.jpeg import Planes
from colorizer.lab import Levels
from colorizer.metadata import Metadata
from colorizer.options import Options

Float = NDArray[np.float32]
_LoadedBy = tuple[str | Path | bytes, str | None, Name | Literal["auto"], int | None]
# A picture file's bytes, or why there are none; and its options, as text or parsed already.
Request = tuple[bytes | RequestError, Mapping[str, str] | Options]

STAGES = ("read", "network", "finish", "write")


@dataclass(frozen=True)
class Reply:
    """A finished picture as a file; of several variants, a zip file; of likely colours, JSON.

    Attributes:
        body: the file.
        content_type: its media type.
        seconds: that each of STAGES took.
        pixels: of the picture.
        bytes_in: of the file that it came from.
        notes: what of the file was left out, each a sentence.
        graph: SHA-256 of the graph that made it; empty for a checkpoint that was not exported.
    """

    body: bytes
    content_type: str
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    pixels: int = 0
    bytes_in: int = 0
    notes: tuple[str, ...] = ()
    graph: str = ""


class Stage(NamedTuple):
    """A stage's time on one picture; `start` and `end` are nanoseconds since 1970."""

    name: str
    start: int
    end: int


@dataclass
class Outcome:
    """How one picture ended: with a reply, or with an error that is its own.

    Attributes:
        reply: the picture in colour.
        error: a RequestError for what its sender can fix; anything else is a bug, or a machine
            that ran out of memory.
        began: when its batch did, in nanoseconds since 1970.
        stages: that it went through, in their order; of several variants, some several times. An
            error is the last one's.
    """

    reply: Reply | None = None
    error: Exception | None = None
    began: int = field(default_factory=time.time_ns)
    stages: list[Stage] = field(default_factory=list)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds in each stage that the picture reached."""
        found: dict[str, float] = {}
        for stage in self.stages:
            found[stage.name] = found.get(stage.name, 0.0) + (stage.end - stage.start) / 1e9
        return found

    def result(self) -> Reply:
        """Give the reply, or raise the error."""
        if self.reply is None:
            raise self.error or AssertionError("the picture has not ended yet")
        return self.reply


@dataclass(eq=False)
class _Job:
    """One picture on its way, and what each stage leaves for the next."""

    body: bytes | RequestError
    fields: Mapping[str, str] | Options
    outcome: Outcome = field(default_factory=Outcome)
    options: Options = field(default_factory=Options)
    prepared: Prepared | None = None
    output: Float | None = None  # (C, S, S), the head's


class Pipeline:
    """A graph, the engine that runs it, and threads for the work around it.

    It may be used from several threads, and in a process that was forked from the one that loaded
    it, where it loads its model again.

    Args:
        graph: what the engine runs.
        run: the engine.
        limits: of pictures and replies.
        batch_invariant: whether the network runs picture by picture, so that each gets the same
            bytes as alone. A batch sums in another order, and a colour may end up a level apart.
            On CPUs that costs little; GPUs are built for batches.
    """

    def __init__(
        self, graph: Graph, run: Engine, limits: Limits | None = None, batch_invariant: bool = True
    ) -> None:
        self.graph, self.run, self.limits = graph, run, limits or Limits()
        self.batch_invariant = batch_invariant
        self._bins = np.array(graph.recipe.bins, np.float32)  # (Q, 2)
        self._threads = ThreadPoolExecutor(cores())
        # Arguments of `engines.load`, by which a forked pipeline loads again.
        self._loaded_by: _LoadedBy | None = None
        _all.add(self)

    @classmethod
    def load(
        cls,
        model: str | Path | bytes,
        device: str | None = "cpu",
        engine: Name | Literal["auto"] = "auto",
        threads: int | None = None,
        limits: Limits | None = None,
    ) -> Pipeline:
        """Load a model into the engine that suits the machine, or is named.

        Args:
            model: "regression" or "classification", if its weights are installed; the path of an
                archive, a folder or a checkpoint; or an archive's bytes.
            device: "cpu", "cuda:N", or None for a GPU where there is one.
            engine: that runs the graph.
            threads: of the network on a CPU; None: as many as there are cores.
            limits: of pictures and replies.

        Raises:
            BadDevice: if there is no such device.
            BadGraph: if there is no graph, it was altered, or nothing here can run it.
        """
        graph, run = engines.load(model, device, engine, threads)
        pipeline = cls(graph, run, limits, batch_invariant=run.device == "cpu")
        pipeline._loaded_by = model, device, engine, threads
        return pipeline

    def warm_up(self) -> None:
        """Colorize some black, so that the first picture is not the slowest."""
        black = encode.write(np.zeros((8, 8, 3), np.uint8), Options())
        for batch in (1, 2, 1):  # TorchScript specializes during its first runs
            for outcome in self.colorize_batch([(black, {})] * batch):
                outcome.result()

    def colorize(self, body: bytes, options: Options | Mapping[str, str] | None = None) -> Reply:
        """Colorize one picture.

        Raises:
            RequestError: if it is not a picture that can be colorized, or an option is wrong.
        """
        (outcome,) = self.colorize_batch([(body, options or Options())])
        return outcome.result()

    def colorize_batch(self, requests: Sequence[Request]) -> list[Outcome]:
        """Colorize pictures of any sizes together; one that fails doesn't affect the others.

        Returns:
            How each picture ended, in the order of the requests.
        """
        jobs = [_Job(body, fields) for body, fields in requests]
        list(self._threads.map(self._read, jobs))
        ready = [job for job in jobs if job.outcome.error is None]
        step = 1 if self.batch_invariant else max(1, len(ready))
        finishing = []
        for first in range(0, len(ready), step):
            group = ready[first : first + step]
            self._run_network(group)  # while threads finish the pictures before
            finishing += [self._threads.submit(self._finish, job) for job in group]
        for one in finishing:
            one.result()
        return [job.outcome for job in jobs]

    def _read(self, job: _Job) -> None:
        """Stage "read": bytes and text -> L, its small copy, and options."""
        with _errors(job), _stage("read", job):
            fields = job.fields
            job.options = fields if isinstance(fields, Options) else Options.parse(fields)
            self._check(job.options)
            if isinstance(job.body, RequestError):
                raise job.body
            picture = image.read(job.body, self.limits, job.options.bits)
            # before the work, not after it
            encode.check_format(job.options, picture.height, picture.width)
            job.prepared = prepare(picture, self.graph.recipe.side)

    def _run_network(self, jobs: Sequence[_Job]) -> None:
        """Stage "network": small copies of L -> the head's output."""
        with _errors(*jobs), _stage("network", *jobs):
            small = [job.prepared.small for job in jobs if job.prepared is not None]
            for job, output in zip(jobs, self.run(np.stack(small)), strict=True):
                job.output = output

    def _finish(self, job: _Job) -> None:
        """Stages "finish" and "write", for each variant: the head's output -> files."""
        prepared, output, options = job.prepared, job.output, job.options
        job.prepared = job.output = None  # a large picture's are large
        if prepared is None or output is None:
            return
        with _errors(job):
            if options.likely is not None:
                with _stage("finish", job):
                    body = self._likely(prepared, output, *options.likely)
                kind = "application/json"
            else:
                files = self._files(job, prepared, output)
                body, kind = files[options.seed], encode.CONTENT_TYPES[options.format]
                if options.variants > 1:
                    body, kind = _zipped(files, options.format), "application/zip"
            assert isinstance(job.body, bytes)
            size, pixels = len(job.body), prepared.lightness.size
            seconds, notes, graph = job.outcome.seconds, prepared.notes, self.graph.sha256
            job.outcome.reply = Reply(body, kind, seconds, pixels, size, notes, graph)

    def _files(self, job: _Job, prepared: Prepared, output: Float) -> dict[int, bytes]:
        """Make the file of each variant, by its seed."""
        files: dict[int, bytes] = {}
        options, metadata = job.options, prepared.metadata
        if options.metadata == "strip":  # a TIFF keeps the size of its scan, which is no secret
            metadata = Metadata(dpi=metadata.dpi if options.format == "tiff" else None)
        for seed in range(options.seed, options.seed + options.variants):
            with _stage("finish", job):
                own = replace(options, seed=seed % 2**53)
                pixels: Levels | Planes
                if own.show == "colour" and encode.as_planes(own, prepared.alpha):
                    pixels = finish_planes(prepared, *self._colours(prepared, output, own))
                else:
                    pixels = self.finished(prepared, output, own)
            with _stage("write", job):
                written = metadata
                if options.provenance == "yes":
                    assert isinstance(job.body, bytes)
                    told = provenance.record(job.body, self.graph, own)
                    written = provenance.embed(metadata, told)
                files[seed] = encode.write(pixels, options, prepared.alpha, written)
                self._check_size(files, options)
        return files

    def _check(self, options: Options) -> None:
        """Refuse, before any work, what only the other head can do."""
        if self.graph.recipe.head != "classification" and options.needs_classifier:
            raise BadOption(
                f"{' and '.join(options.needs_classifier)} can only be chosen with a "
                "classification network, and this model is a regression network; leave "
                "decoding, temperature, variants and show=uncertainty out, or use the "
                "classification network: colorize-classes on a server, --model classification "
                "in a command."
            )

    def _check_size(self, files: Mapping[int, bytes], options: Options) -> None:
        if sum(map(len, files.values())) > self.limits.max_reply_bytes:
            raise BadOption(
                f"format is {options.format!r}, and the reply would have more than "
                f"{self.limits.max_reply_bytes:,} bytes; use jpeg, or fewer variants."
            )

    def colorize_pixels(self, picture: Picture, options: Options | None = None) -> Levels:
        """Colorize a picture that is read already.

        Returns:
            (H, W, 3) uint8, or uint16 where L was read, in the space of `options.profile`.

        Raises:
            BadOption: if an option needs the other head.
        """
        options = options or Options()
        self._check(options)
        prepared = prepare(picture, self.graph.recipe.side)
        (output,) = self.run(prepared.small[None])
        return self.finished(prepared, output, options)

    def finished(self, prepared: Prepared, output: Float, options: Options) -> Levels:
        """Finish a picture from its (C, S, S) output.

        Returns:
            (H, W, 3) uint8, or uint16 of a deep one.
        """
        if options.show == "colour":
            colours = self._colours(prepared, output, options)
            return finish(prepared, *colours, options.profile)
        height, width = prepared.lightness.shape
        logits = output[: self.graph.recipe.channels]
        unsure = gamut.uncertainty(logits, options.temperature or 1.0)
        large = enlarge(unsure, height, width)
        large *= 65535 if prepared.deep else 255
        levels = np.rint(large).astype(np.uint16 if prepared.deep else np.uint8)
        return levels[..., None].repeat(3, axis=-1)

    def _colours(
        self, prepared: Prepared, output: Float, options: Options
    ) -> tuple[Float, float, Sequence[hints.Hint], float, Float]:
        """What `finish` and `finish_planes` take: ab and its gain, hints, their reach, `alike`."""
        gain = self.graph.recipe.chroma_gain * options.chroma
        alike = output[self.graph.recipe.channels :]
        ab = self.decode(prepared, output, options)
        return ab, gain, options.hints or (), options.spread, alike

    def _likely(self, prepared: Prepared, output: Float, x: float, y: float) -> bytes:
        """Name colours that a place is likely to have, for a person to choose from, as JSON.

        A classification network has a distribution over colours at each place, and the likeliest
        are named. A regression network has one colour: named with variations of it, and grey.
        """
        height, width = prepared.lightness.shape
        row, column = min(int(y * height), height - 1), min(int(x * width), width - 1)
        lightness = float(in_lab(prepared.lightness[row : row + 1, column : column + 1])[0, 0])
        if self.graph.recipe.head == "regression":
            ab = self.decode(prepared, output, Options()) * self.graph.recipe.chroma_gain
            colours = hints.variations(ab, lightness, x, y)
        else:
            logits = output[: self.graph.recipe.channels]
            colours = hints.likely(logits, self._bins, lightness, x, y)
        return json.dumps({"colours": colours}).encode() + b"\n"

    def decode(self, prepared: Prepared, output: Float, options: Options) -> Float:
        """Turn the head's output for a picture, (C, S, S), into ab, (2, S, S), without its gain.

        Samples of different pictures have different noise, whichever pictures share their batch.
        """
        recipe = self.graph.recipe
        output = output[: recipe.channels]
        if recipe.head == "classification":
            output = gamut.decode(
                output,
                self._bins,
                options.decoding or recipe.decoding,
                options.temperature or recipe.temperature,
                (options.seed, zlib.crc32(prepared.small.tobytes())),
            )
        return smooth.calmed(output, prepared.small[0], recipe)

    def __getstate__(self) -> dict[str, Any]:
        """Pickle how the model was loaded, rather than the engine."""
        if self._loaded_by is None:
            raise TypeError("a Pipeline can be pickled only if Pipeline.load made it")
        return {"loaded_by": self._loaded_by, "limits": self.limits}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Load the model again."""
        how: _LoadedBy = state["loaded_by"]
        self.__dict__.update(Pipeline.load(*how, limits=state["limits"]).__dict__)
        _all.add(self)

    def _after_fork(self) -> None:
        """Start afresh in a forked process, which has this one's memory, but not its threads."""
        self._threads = ThreadPoolExecutor(cores())
        if self._loaded_by is None:
            return
        model, device, engine, threads = self._loaded_by
        if self.graph.engine == "torchscript":
            threads = 1  # torch hangs in a forked process where it would use more
        lock = threading.Lock()

        def load_at_first_use(lightness: Float) -> Float:
            with lock:
                if self.run is load_at_first_use:
                    self.run = engines.load(model, device, engine, threads)[1]
            return self.run(lightness)

        # Never destroyed: ONNX Runtime would wait for its threads, which are not in this process.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(self.run))
        self.run = load_at_first_use


_all: weakref.WeakSet[Pipeline] = weakref.WeakSet()


def _after_fork() -> None:
    for pipeline in _all:
        pipeline._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _errors(*jobs: _Job) -> Iterator[None]:
    """Make an exception the outcome of these jobs."""
    try:
        yield
    except Exception as error:
        for job in jobs:
            job.outcome.error = error


@contextmanager
def _stage(name: str, *jobs: _Job) -> Iterator[None]:
    """Note when a stage of these jobs begins and ends."""
    began, start = time.time_ns(), time.perf_counter()
    try:
        yield
    finally:
        stage = Stage(name, began, began + int((time.perf_counter() - start) * 1e9))
        for job in jobs:
            job.outcome.stages.append(stage)


def _zipped(files: Mapping[int, bytes], kind: str) -> bytes:
    """Pack pictures by their seeds; the same pictures give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # stored: pictures do not compress
        for seed, body in files.items():
            archive.writestr(zipfile.ZipInfo(f"seed-{seed}.{kind}"), body)  # dated 1980-01-01
    return packed.getvalue()
