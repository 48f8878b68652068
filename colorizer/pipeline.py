"""The way of a photograph: bytes -> L -> network -> ab -> the same photograph in colour.

The one implementation that TorchServe, the command line and evaluation share.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from colorizer import engine, gamut, image, lab
from colorizer.engine import Engine, Graph
from colorizer.image import BadOption, Limits, OutputOptions, Picture

Float = NDArray[np.float32]
T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """What a person may choose for one picture; None leaves it to the graph.

    Attributes:
        output: format and quality.
        decoding: of a classification head, one of gamut.DECODINGS.
        temperature: of a classification head's annealed mean and samples, 0.01..10.
        seed: of samples, 0..2**63 - 1.
    """

    output: OutputOptions = field(default_factory=OutputOptions)
    decoding: gamut.Decoding | None = None
    temperature: float | None = None
    seed: int = 0

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> Options:
        """Read options from text: format, quality, decoding, temperature, seed.

        Raises:
            BadOption: on a name that does not exist or a value that is not allowed.
        """
        known = ("format", "quality", "decoding", "temperature", "seed")
        for name in values:
            if name not in known:
                raise BadOption(f"there is no option {name!r:.40}; known are {', '.join(known)}.")
        output: dict[str, Any] = {}
        if "format" in values:
            output["format"] = {"jpg": "jpeg"}.get(values["format"].lower(), values["format"])
        if "quality" in values:
            output["quality"] = _number(values, "quality", int, 1, 100)
        chosen: dict[str, Any] = {"output": OutputOptions(**output)}
        if "decoding" in values:
            if values["decoding"] not in gamut.DECODINGS:
                raise BadOption(
                    f"decoding is {values['decoding']!r:.40}; use {', '.join(gamut.DECODINGS)}."
                )
            chosen["decoding"] = values["decoding"]
        if "temperature" in values:
            chosen["temperature"] = _number(values, "temperature", float, 0.01, 10)
        if "seed" in values:
            chosen["seed"] = _number(values, "seed", int, 0, 2**63 - 1)
        return cls(**chosen)


def _number(values: Mapping[str, str], name: str, kind: type, low: float, high: float) -> Any:
    try:
        number = kind(values[name])
        if low <= number <= high:  # False for NaN as well
            return number
    except ValueError:
        pass
    what = "a whole number" if kind is int else "a number"
    raise BadOption(f"{name} is {values[name]!r:.40}; use {what} from {low} to {high}.")


@dataclass(frozen=True)
class Reply:
    """A finished picture, encoded."""

    body: bytes
    content_type: str


@dataclass(frozen=True)
class Prepared:
    """A picture on its way: what the network gets, and what waits for its answer."""

    lightness: Float  # (H, W), the original's, full size
    small: Tensor  # (1, S, S)
    alpha: NDArray[np.uint8] | None


def prepare(picture: Picture, side: int) -> Prepared:
    """Take L at full size, and a small copy for the network: (1, S, S) float32, 0..100."""
    lightness = lab.rgb_to_lightness(picture.pixels)
    small = cv2.resize(lightness, (side, side), interpolation=cv2.INTER_AREA)
    return Prepared(lightness, torch.from_numpy(small)[None], picture.alpha)


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
    planes = np.ascontiguousarray(ab.transpose(1, 2, 0)) * np.float32(chroma_gain)
    enlarge = guided_upsample if guided else _interpolate
    return lab.lab_to_rgb(lightness, enlarge(lightness, planes))


def _interpolate(lightness: Float, values: Float) -> Float:
    """(S, S, C) -> (H, W, C), for (H, W) lightness."""
    height, width = lightness.shape
    large = cv2.resize(values, (width, height), interpolation=cv2.INTER_LINEAR)
    return np.asarray(large, np.float32)


# Radius of the guided filter's window, in the network's pixels, and the variance of L under which
# a window counts as flat. On photographs with known colours they lowered the colour difference and
# raised AuC against plain interpolation (model_store/MODEL_CARD.md).
_RADIUS = 4
_FLAT = 25.0


def guided_upsample(lightness: Float, ab: Float) -> Float:
    """Enlarge ab so that its edges follow those of L.

    In each small window ab is taken for a linear function of L; its coefficients are fitted at
    the network's size, are smooth, and are what is enlarged. Source: He, Sun 2015, "Fast Guided
    Filter".

    Args:
        lightness: (H, W) float32, 0..100.
        ab: (S, S, 2) float32.

    Returns:
        (H, W, 2) float32.
    """
    side = ab.shape[0]
    guide = cv2.resize(lightness, (side, side), interpolation=cv2.INTER_AREA)
    mean_guide, mean_ab = _mean(guide), _mean(ab)
    covariance = _mean(ab * guide[..., None]) - mean_ab * mean_guide[..., None]
    variance = _mean(guide * guide) - mean_guide * mean_guide
    slope = covariance / (variance + _FLAT)[..., None]
    offset = _mean(mean_ab - slope * mean_guide[..., None])
    large = _interpolate(lightness, _mean(slope))
    offset = _interpolate(lightness, offset)
    large *= lightness[..., None]  # in place: these are the largest arrays of all
    large += offset
    return large


def _mean(values: NDArray[Any]) -> Float:
    """Mean over a window around each pixel."""
    return np.asarray(cv2.blur(values, (2 * _RADIUS + 1, 2 * _RADIUS + 1)), np.float32)


class Pipeline:
    """A graph, the engine that runs it, and threads for the work around it."""

    def __init__(self, graph: Graph, run: Engine, limits: Limits | None = None) -> None:
        self.graph, self.run, self.limits = graph, run, limits or Limits()
        self._centres = torch.tensor(graph.bins)  # (Q, 2)
        self._threads = ThreadPoolExecutor(os.cpu_count())

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", name: engine.Name | Literal["auto"] = "auto"
    ) -> Pipeline:
        """Load a graph that export wrote into a folder, into the engine that suits, or is named.

        Raises:
            BadGraph: if there is none, it was altered, or nothing here can run it.
        """
        return cls(*engine.load(folder, device, name))

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
        """Colorize pictures of any sizes in one run of the network.

        Returns:
            For each picture its reply, or the exception that it alone ended in: a RequestError
            for what its sender can mend.
        """
        prepared = self._each(self._prepare, bodies)
        waiting = {i: p for i, p in enumerate(prepared) if isinstance(p, Prepared)}
        replies: dict[int, Reply | Exception] = {
            i: p for i, p in enumerate(prepared) if isinstance(p, Exception)
        }
        if waiting:
            try:
                output = self.run(torch.stack([p.small for p in waiting.values()]))
            except Exception as error:  # out of memory, say: none of these pictures has an answer
                replies.update(dict.fromkeys(waiting, error))
            else:
                jobs = [
                    (p, output[k : k + 1], options[i]) for k, (i, p) in enumerate(waiting.items())
                ]
                replies.update(
                    zip(waiting, self._each(lambda job: self._finish(*job), jobs), strict=True)
                )
        return [replies[i] for i in range(len(bodies))]

    def _each(self, work: Callable[[Any], T], items: Sequence[Any]) -> list[T | Exception]:
        """Do the work on each item, in threads; an item that fails gives its exception."""

        def guarded(item: Any) -> T | Exception:
            try:
                return work(item)
            except Exception as error:
                return error

        return list(self._threads.map(guarded, items))

    def _prepare(self, body: bytes) -> Prepared:
        return prepare(image.read(body, self.limits), self.graph.side)

    def _finish(self, prepared: Prepared, output: Tensor, options: Options) -> Reply:
        rgb = finish(prepared.lightness, self.decode(output, options)[0], self.graph.chroma_gain)
        body = image.write(rgb, options.output, prepared.alpha)
        return Reply(body, image.CONTENT_TYPES[options.output.format])

    def decode(self, output: Tensor, options: Options) -> Float:
        """The head's output (B, C, S, S) -> (B, 2, S, S) ab float32; regression's is ab already.

        Raises:
            BadOption: if the options are a classifier's and this is none.
        """
        if self.graph.head == "classification":
            output = gamut.decode(
                output,
                self._centres,
                options.decoding or self.graph.decoding,
                options.temperature or self.graph.temperature,
                options.seed,
            )
        elif options.decoding is not None or options.temperature is not None:
            raise BadOption(
                "decoding and temperature belong to the classification network; "
                "leave them out, or ask /predictions/colorize-classes."
            )
        return np.asarray(output.float().cpu())
