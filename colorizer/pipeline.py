"""The way of a photograph: bytes -> L -> network -> ab -> the same photograph in colour.

The one implementation that TorchServe, Triton and evaluation share.
"""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from colorizer import engine, gamut, image, lab
from colorizer.engine import Engine, Graph
from colorizer.errors import BadOption
from colorizer.image import Limits, Picture
from colorizer.options import Options as Options
from colorizer.threads import available_cores

Float = NDArray[np.float32]
T = TypeVar("T")

STAGES = ("decode", "network", "finish", "encode")  # of the way of a picture, as they are timed


@dataclass(frozen=True)
class Reply:
    """A finished picture, encoded; of several variants, a zip file of them.

    Attributes:
        seconds: that each of STAGES took.
        pixels: of the picture.
        bytes_in: of the file that it came from.
    """

    body: bytes
    content_type: str
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    pixels: int = 0
    bytes_in: int = 0


@dataclass(frozen=True)
class Prepared:
    """A picture on its way: what the network gets, and what waits for its answer."""

    lightness: Float  # (H, W), the original's, full size
    small: Tensor  # (1, S, S)
    alpha: NDArray[np.uint8] | None
    exif: bytes = b""
    bytes_in: int = 0
    seconds: float = 0.0  # that it took until here


def prepare(picture: Picture, side: int) -> Prepared:
    """Take L at full size, and a small copy for the network: (1, S, S) float32, 0..100."""
    lightness = lab.rgb_to_lightness(picture.pixels)
    small = cv2.resize(lightness, (side, side), interpolation=cv2.INTER_AREA)
    return Prepared(lightness, torch.from_numpy(small)[None], picture.alpha, picture.exif)


def finish(
    lightness: Float, ab: Float, chroma_gain: float = 1.0, guided: bool = True
) -> NDArray[np.uint8]:
    """Bring ab to full size, and join the original L.

    Args:
        lightness: (H, W) float32.
        ab: (2, S, S) float32, ab units.
        chroma_gain: factor on ab.
        guided: whether colour's edges follow those of L; else they are interpolated.

    Returns:
        (H, W, 3) uint8 sRGB.
    """
    height, width = lightness.shape
    planes = np.ascontiguousarray(ab.transpose(1, 2, 0)) * np.float32(chroma_gain)
    slope, offset = guided_lines(lightness, planes) if guided else (np.zeros_like(planes), planes)
    # What lab.roots_to_rgb takes are lines in L as well, two of them with ab's share.
    share = np.array([1 / 500, -1 / 200], np.float32)
    small = np.dstack([slope * share + 1 / 116, offset * share + 16 / 116]).astype(np.float32)
    if width < len(small):  # a sliver: fewer columns to begin with
        fewer = cv2.resize(small, (width, len(small)), interpolation=cv2.INTER_LINEAR)
        small = np.asarray(fewer, np.float32)
    rgb = np.empty((height, width, 3), np.uint8)
    for rows in lab.bands(height, width):  # so that nothing else is as large as the picture
        light = lightness[rows]
        slope_x, slope_z, x, z = cv2.split(_rows(small, rows, height, width))
        x += np.multiply(slope_x, light, out=slope_x)
        z += np.multiply(slope_z, light, out=slope_z)
        y = light * np.float32(1 / 116)
        y += np.float32(16 / 116)
        lab.roots_to_rgb(np.asarray(cv2.merge([x, y, z]), np.float32), rgb[rows])
    return rgb


def _rows(small: Float, rows: slice, height: int, width: int) -> Float:
    """Some rows of (S, s, C) enlarged to (height, width, C), interpolated as cv2.resize does."""
    last = len(small) - 1
    at = (np.arange(rows.start, rows.stop) + 0.5) * (len(small) / height) - 0.5
    above = np.clip(np.floor(at).astype(np.intp), 0, last)
    below = np.minimum(above + 1, last)
    part = small[below] - small[above]
    part *= np.clip(at - above, 0, 1).astype(np.float32)[:, None, None]
    part += small[above]
    if width == part.shape[1]:
        return part
    large = cv2.resize(part, (width, len(part)), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)


# Radius of the guided filter's window, in the network's pixels, and the variance of L under which
# a window counts as flat. On photographs with known colours they lowered the colour difference and
# raised AuC against plain interpolation (docs/evaluation.md).
_RADIUS = 4
_FLAT = 25.0


def guided_lines(lightness: Float, ab: Float) -> tuple[Float, Float]:
    """Fit ab as lines in L, so that, enlarged, its edges follow those of L.

    In each small window ab is taken for a linear function of L; its coefficients are fitted at
    the network's size, are smooth, and are what is enlarged. Source: He, Sun 2015, "Fast Guided
    Filter".

    Args:
        lightness: (H, W) float32, 0..100.
        ab: (S, S, 2) float32.

    Returns:
        Slope and offset, (S, S, 2) float32 each: ab is slope * L + offset.
    """
    side = ab.shape[0]
    guide = cv2.resize(lightness, (side, side), interpolation=cv2.INTER_AREA)
    mean_guide, mean_ab = _mean(guide), _mean(ab)
    covariance = _mean(ab * guide[..., None]) - mean_ab * mean_guide[..., None]
    variance = _mean(guide * guide) - mean_guide * mean_guide
    slope = covariance / (variance + _FLAT)[..., None]
    return _mean(slope), _mean(mean_ab - slope * mean_guide[..., None])


def _mean(values: NDArray[Any]) -> Float:
    """Mean over a window around each pixel."""
    return np.asarray(cv2.blur(values, (2 * _RADIUS + 1, 2 * _RADIUS + 1)), np.float32)


def _interpolate(lightness: Float, values: Float) -> Float:
    """(S, S, C) -> (H, W, C), for (H, W) lightness."""
    height, width = lightness.shape
    large = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)


class Pipeline:
    """A graph, the engine that runs it, and threads for the work around it.

    Attributes:
        exact: whether the network runs picture by picture, so that each gets the very bytes that it
            would get alone. A batch sums in another order, and a colour may end a level apart.
            On CPUs that costs little (benchmarks/batches.py); GPUs are built for batches.
    """

    def __init__(
        self, graph: Graph, run: Engine, limits: Limits | None = None, exact: bool = True
    ) -> None:
        self.graph, self.run, self.limits = graph, run, limits or Limits()
        self.exact = exact
        self._centres = torch.tensor(graph.bins)  # (Q, 2)
        self._threads = ThreadPoolExecutor(available_cores())

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", name: engine.Name | Literal["auto"] = "auto"
    ) -> Pipeline:
        """Load a graph that export wrote into a folder, into the engine that suits, or is named.

        Raises:
            BadGraph: if there is none, it was altered, or nothing here can run it.
        """
        graph, run = engine.load(folder, device, name)
        return cls(graph, run, exact=not device.startswith("cuda"))

    def warm_up(self) -> None:
        """Colorize some black, so that the first picture is not the slowest."""
        black = image.write(np.zeros((8, 8, 3), np.uint8), Options().output)
        for batch in (1, 2, 1):  # TorchScript specializes during its first runs
            for reply in self.colorize_batch([black] * batch, [Options()] * batch):
                if isinstance(reply, Exception):
                    raise reply

    def colorize(self, body: bytes, options: Options | None = None) -> Reply:
        """Colorize one picture.

        Raises:
            RequestError: if it is not a picture that can be colorized.
        """
        (reply,) = self.colorize_batch([body], [options or Options()])
        if isinstance(reply, Exception):
            raise reply
        return reply

    def colorize_batch(
        self, bodies: Sequence[bytes], options: Sequence[Options]
    ) -> list[Reply | Exception]:
        """Colorize pictures of any sizes together.

        Returns:
            For each picture its reply, or the exception that it alone ended in: a RequestError
            for what its sender can mend.
        """
        prepared = list(self._threads.map(_guarded(self._prepare), bodies, options))
        waiting = {i: p for i, p in enumerate(prepared) if isinstance(p, Prepared)}
        outputs = self._infer([p.small for p in waiting.values()])
        # While the network has the next picture, threads finish those before.
        finished = self._threads.map(
            _guarded(self._finish), waiting.values(), outputs, [options[i] for i in waiting]
        )
        replies = dict(zip(waiting, finished, strict=True))
        return [p if isinstance(p, Exception) else replies[i] for i, p in enumerate(prepared)]

    def _infer(self, pictures: Sequence[Tensor]) -> Iterator[tuple[Tensor, float] | Exception]:
        """(1, S, S) each -> the head's output (1, C, S, S) and seconds; or what went wrong."""
        step = 1 if self.exact else max(1, len(pictures))
        for first in range(0, len(pictures), step):
            group = pictures[first : first + step]
            start = time.perf_counter()
            try:
                output = self.run(torch.stack(list(group)))
            except Exception as error:  # out of memory, say: none of these pictures has an answer
                yield from [error] * len(group)
                continue
            seconds = time.perf_counter() - start
            yield from ((output[k : k + 1], seconds) for k in range(len(group)))

    def _prepare(self, body: bytes, options: Options) -> Prepared:
        start = time.perf_counter()
        self._check(options)
        prepared = prepare(image.read(body, self.limits), self.graph.side)
        return replace(prepared, bytes_in=len(body), seconds=time.perf_counter() - start)

    def _check(self, options: Options) -> None:
        """Refuse, before any work, what only the other head can do."""
        if self.graph.head != "classification" and options.are_a_classifiers:
            raise BadOption(
                "decoding, temperature, variants and uncertainty belong to the classification "
                "network; leave them out, or ask the model colorize-classes."
            )

    def _finish(
        self, prepared: Prepared, output: tuple[Tensor, float] | Exception, options: Options
    ) -> Reply:
        if isinstance(output, Exception):
            raise output
        logits, seconds = output
        times = {"decode": prepared.seconds, "network": seconds, "finish": 0.0, "encode": 0.0}
        files = {}
        exif = prepared.exif if options.keep_metadata else b""
        for seed in range(options.seed, options.seed + options.variants):
            start = time.perf_counter()
            pixels = self._pixels(prepared, logits, replace(options, seed=seed))
            middle = time.perf_counter()
            files[seed] = image.write(pixels, options.output, prepared.alpha, exif)
            times["finish"] += middle - start
            times["encode"] += time.perf_counter() - middle
            if sum(map(len, files.values())) > self.limits.max_reply_bytes:
                raise BadOption(
                    f"format is {options.output.format!r}, and the reply would have more than "
                    f"{self.limits.max_reply_bytes:,} bytes; use jpeg, or fewer variants."
                )
        if options.variants > 1:
            body, kind = _zipped(files, options.output.format), "application/zip"
        else:
            body, kind = files[options.seed], image.CONTENT_TYPES[options.output.format]
        return Reply(body, kind, times, prepared.lightness.size, prepared.bytes_in)

    def _pixels(self, prepared: Prepared, output: Tensor, options: Options) -> NDArray[np.uint8]:
        if options.show == "uncertainty":
            unsure = gamut.uncertainty(output, options.temperature or 1.0)[0].cpu().numpy()
            large = _interpolate(prepared.lightness, unsure)
            return np.rint(255 * large).astype(np.uint8)[..., None].repeat(3, axis=-1)
        gain = self.graph.chroma_gain * options.chroma
        return finish(prepared.lightness, self.decode(output, options)[0], gain)

    def decode(self, output: Tensor, options: Options) -> Float:
        """The head's output (B, C, S, S) -> (B, 2, S, S) ab float32; regression's is ab already."""
        if self.graph.head == "classification":
            output = gamut.decode(
                output,
                self._centres,
                options.decoding or self.graph.decoding,
                options.temperature or self.graph.temperature,
                options.seed,
            )
        return np.asarray(output.float().cpu())


def _guarded(work: Callable[..., T]) -> Callable[..., T | Exception]:
    """Give an exception back instead of raising it: it is one picture's, not its neighbours'."""

    def call(*arguments: Any) -> T | Exception:
        try:
            return work(*arguments)
        except Exception as error:
            return error

    return call


def _zipped(files: Mapping[int, bytes], kind: str) -> bytes:
    """Pack pictures by their seeds; the same pictures give the same bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:  # stored: pictures do not compress
        for seed, body in files.items():
            archive.writestr(zipfile.ZipInfo(f"seed-{seed}.{kind}"), body)  # dated 1980-01-01
    return packed.getvalue()
