"""Colorize without a server: `from colorizer import Colorizer`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import BinaryIO, overload

import numpy as np
from PIL import Image

from colorizer import colours, icc, image
from colorizer.errors import BadOption, BadPicture
from colorizer.image import Picture
from colorizer.lab import Levels
from colorizer.options import Options
from colorizer.pipeline import Pipeline, Reply
from colorizer.samples import Samples

# Pictures that go together. On a CPU the network takes them one by one, and fewer stay in the
# cache; a GPU is worth a larger --batch.
BATCH = 4
_IN_FLIGHT = 2  # batches: while one is in the network, pictures of the other are read and written


class Colorizer:
    """A network, loaded once, for any number of pictures and from any thread.

    >>> colour = Colorizer("model_store/colorize.mar").colorize("photo.jpg")

    Args:
        model: the path of an archive (.mar), or of a folder that export wrote a graph into; an
            archive's bytes; or a pipeline that is loaded already.
        device: "cpu" or "cuda:0"; None takes a GPU where there is one.

    Raises:
        BadDevice: if there is no such device.
        BadGraph: if there is no model there, it cannot be read, or it was altered.
    """

    def __init__(
        self,
        model: str | Path | bytes | Pipeline = "model_store/colorize.mar",
        device: str | None = None,
    ) -> None:
        if isinstance(model, str):
            model = Path(model)
        self.pipeline = model if isinstance(model, Pipeline) else Pipeline.load(model, device)

    @overload
    def colorize(self, picture: str | Path | bytes | BinaryIO, **options: object) -> bytes: ...
    @overload
    def colorize(self, picture: Image.Image, **options: object) -> Image.Image: ...
    @overload
    def colorize(self, picture: Levels, **options: object) -> Levels: ...

    def colorize(
        self, picture: str | Path | bytes | BinaryIO | Image.Image | Levels, **options: object
    ) -> bytes | Image.Image | Levels:
        """Colorize one picture; what comes back is of the kind that was given.

        Args:
            picture: a file, by its path, its bytes or opened; or a Pillow image; or an array,
                (H, W), (H, W, 3) or with alpha (H, W, 4), uint8 or uint16, grey or sRGB.
            options: those of `colorizer.options.OPTIONS`: chroma, decoding, seed, ...; format,
                quality and metadata apply to files. `hints` is a list of dictionaries, or that
                in JSON: [{"x": 0.41, "y": 0.63, "color": "#7a2f2f"}] (docs/hints.md).

        Returns:
            For a file, the bytes of one, JPEG unless `format` says otherwise; for an image, an
            image; for an array, (H, W, 3), or with alpha (H, W, 4). Always of the same size.

        Raises:
            RequestError: if it is not a picture that can be colorized, or an option is wrong.
            OSError: if the file cannot be read.
        """
        chosen = parse_options(options)
        if isinstance(picture, Image.Image):
            read = image.from_pillow(picture)
            coloured = Image.fromarray(self.pipeline.colorize_pixels(read, chosen))
            if chosen.profile != "srgb":
                coloured.info["icc_profile"] = icc.build(chosen.profile)
            if read.alpha is not None:
                coloured.putalpha(Image.fromarray(read.alpha))
            return coloured
        if isinstance(picture, np.ndarray):
            return self._colorize_array(picture, chosen)
        if isinstance(picture, (str, Path)):
            picture = Path(picture).read_bytes()
        body = picture if isinstance(picture, (bytes, bytearray)) else picture.read()
        return self.pipeline.colorize(bytes(body), chosen).body

    def likely(self, picture: str | Path | bytes, x: float, y: float) -> list[str]:
        """Name a few colours that a place in a picture is likely to have, the likeliest first.

        A regression network knows one colour of each place; the others are its variations.

        Args:
            picture: a file, by its path or its bytes.
            x: of the place, 0..1 from the left.
            y: 0..1 from above.

        Returns:
            "#rrggbb" each, at the lightness of the place.

        Raises:
            RequestError: if it is not a picture that can be colorized, or the place is not in it.
        """
        body = picture if isinstance(picture, bytes) else Path(picture).read_bytes()
        reply = self.pipeline.colorize(body, parse_options({"likely": f"{x:.6f},{y:.6f}"}))
        colours: list[str] = json.loads(reply.body)["colours"]
        return colours

    def _colorize_array(self, pixels: Levels, options: Options) -> Levels:
        channels = pixels.shape[2:] or (1,)
        if (
            pixels.dtype not in (np.uint8, np.uint16)
            or pixels.ndim not in (2, 3)
            or channels[0] not in (1, 3, 4)
        ):
            raise BadPicture(
                f"the array is {pixels.dtype} of shape {pixels.shape}; give uint8 or uint16 of "
                "shape (H, W), (H, W, 3) or (H, W, 4)."
            )
        if not pixels.size:
            raise BadPicture(f"the array of shape {pixels.shape} has no pixels.")
        colour = pixels[..., :3] if channels[0] > 1 else pixels.reshape(pixels.shape[:2])
        picture = Picture(np.ascontiguousarray(colour))
        if pixels.dtype == np.uint16:
            deep = Samples(colour.reshape(*pixels.shape[:2], -1), 65535)
            picture = Picture(colours.lightness(deep, None))
        rgb = self.pipeline.colorize_pixels(picture, options)
        return np.dstack([rgb, pixels[..., 3]]) if channels[0] == 4 else rgb

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
        outcomes = self.pipeline.colorize_batch([(body, options) for body in bodies.values()])
        for path, outcome in zip(bodies, outcomes, strict=True):
            found[path] = outcome.reply or outcome.error or AssertionError(path)
        return [(path, found[path]) for path in paths]


def parse_options(options: Mapping[str, object]) -> Options:
    """Read options as a request's: values may be text, numbers or None, which leaves one out.

    Raises:
        BadOption: on a name that does not exist or a value that is not allowed.
    """
    texts = {name: str(value) for name, value in options.items() if value is not None}
    if not isinstance(hints := options.get("hints"), str | None):
        try:
            texts["hints"] = json.dumps(hints)
        except (TypeError, ValueError, RecursionError) as error:
            raise BadOption(f"hints are not like JSON ({error}); use a list of dicts.") from None
    return Options.parse(texts)
