"""Colorize without a server: `from colorizer import Colorizer`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, TypeVar, overload

import numpy as np
from PIL import Image

from colorizer import colours, icc, image
from colorizer.cores import in_order
from colorizer.errors import BadOption, BadPicture
from colorizer.image import Picture
from colorizer.lab import Levels
from colorizer.models import DEFAULT
from colorizer.options import (
    NAMES,
    Bits,
    Compression,
    Format,
    Keep,
    Options,
    PictureOptions,
    Profile,
    Show,
    YesNo,
)
from colorizer.pipeline import Pipeline, Reply
from colorizer.recipe import Decoding, Name
from colorizer.samples import Samples

if TYPE_CHECKING:
    from typing_extensions import Unpack


Pixels = TypeVar("Pixels", Image.Image, Levels)

# Pictures that go together. On a CPU the network takes them one by one, and fewer stay in the
# cache; a GPU is worth a larger --batch.
BATCH = 4
_IN_FLIGHT = 2  # batches: while one is in the network, pictures of the other are read and written


class Colorizer:
    """A network, loaded once, for any number of pictures and from any thread.

    >>> colour = Colorizer().colorize("photo.jpg")

    Args:
        model: a network whose weights are installed, "regression" or "classification"; or the
            path of an archive (.mar), of a folder that export wrote a graph into, or of a
            checkpoint (.safetensors, which needs torch); or an archive's bytes; or a pipeline
            that is loaded already.
        device: "cpu" or "cuda:0"; None takes a GPU where there is one that the model can use.
        engine: that runs the graph. "auto" takes the fastest, on most processors "onnx-int8";
            "onnx" computes in float32 there.

    Raises:
        BadDevice: if there is no such device.
        BadGraph: if there is no such model, it cannot be read, or its checksum is wrong.
        BadCheckpoint: if the checkpoint cannot be read.
    """

    def __init__(
        self,
        model: str | Path | bytes | Pipeline = DEFAULT,
        device: str | None = None,
        engine: Name | Literal["auto"] = "auto",
    ) -> None:
        if not isinstance(model, Pipeline):
            model = Pipeline.load(model, device, engine)
        self.pipeline = model

    @overload
    def colorize(
        self, picture: str | Path | bytes | BinaryIO, **options: Unpack[PictureOptions]
    ) -> bytes: ...
    @overload
    def colorize(self, picture: Pixels, **options: Unpack[PictureOptions]) -> Pixels: ...

    def colorize(
        self,
        picture: str | Path | bytes | BinaryIO | Image.Image | Levels,
        *,
        format: Format = "jpeg",
        quality: int = 92,
        bits: Bits = "8",
        profile: Profile = "srgb",
        compression: Compression = "deflate",
        metadata: Keep = "strip",
        provenance: YesNo = "no",
        chroma: float = 1.0,
        hints: Sequence[Mapping[str, object]] | str | None = None,
        spread: float = 0.5,
        show: Show = "colour",
        decoding: Decoding | None = None,
        temperature: float | None = None,
        seed: int = 0,
    ) -> bytes | Image.Image | Levels:
        """Colorize one picture; the result is of the same kind and size.

        Args:
            picture: a file, as its path (str or Path), its bytes, or opened for reading; or a
                Pillow image; or an array, (H, W), (H, W, 3), or (H, W, 4) with alpha, uint8 or
                uint16, grey or sRGB.
            format: of the resulting file: "jpeg", "png", "webp" or "tiff". It, quality, bits,
                compression, metadata and provenance apply to files alone.
            quality: of JPEG and WebP, 1..100.
            bits: of each sample, for PNG and TIFF: "8", "16", or "same" as the photograph.
            profile: colour space, "srgb", "display-p3" or "adobe-rgb".
            compression: of TIFF, "deflate" or "none".
            metadata: "keep" copies EXIF (place and time included), XMP, IPTC and resolution.
            provenance: "yes" records in the file that it was coloured by machine.
            chroma: strength of the colours, 0..3; 0 is grey.
            hints: known colours of places in the picture, as dictionaries or JSON:
                [{"x": 0.41, "y": 0.63, "color": "#7a2f2f"}] (docs/hints.md).
            spread: how far a hint's colour reaches, in shorter sides, 0..1.
            show: "uncertainty" gives a map of where the network was unsure (white: most); it,
                decoding and temperature need a classification network.
            decoding: how one colour is chosen from the many that are likely: "annealed-mean",
                "mean", "mode" or "sample"; None leaves it to the network.
            temperature: of "annealed-mean" and "sample", 0.01..10: lower is more decided, higher
                is more mixed; None leaves it to the network.
            seed: of "sample": each seed gives other colours.

        Returns:
            For a file (a path too), the bytes of a file; for an image, an image; for an array, an
            array (H, W, 3), or (H, W, 4) with alpha, of the same type.

        Raises:
            RequestError: if it is not a picture that can be colorized, or an option is wrong.
            OSError: if the file cannot be read.
        """
        given = locals()
        chosen = parse_options({name: given[name] for name in NAMES if name in given})
        if isinstance(picture, Image.Image):
            return self._colorize_image(picture, chosen)
        if isinstance(picture, np.ndarray):
            return self._colorize_array(picture, chosen)
        return self.pipeline.colorize(_read(picture), chosen).body

    @overload
    def variants(
        self,
        picture: str | Path | bytes | BinaryIO,
        count: int = ...,
        **options: Unpack[PictureOptions],
    ) -> list[bytes]: ...
    @overload
    def variants(
        self, picture: Pixels, count: int = ..., **options: Unpack[PictureOptions]
    ) -> list[Pixels]: ...

    def variants(
        self,
        picture: str | Path | bytes | BinaryIO | Image.Image | Levels,
        count: int = 4,
        **options: Unpack[PictureOptions],
    ) -> list[Any]:
        """Colorize one picture several times, each time in other colours.

        It needs a classification network: each result is a sample from its distribution
        (decoding="sample"), with successive seeds.

        Args:
            picture: as for `colorize`.
            count: how many results.
            options: as for `colorize`; `seed` is that of the first result.

        Returns:
            A list of what `colorize` returns.

        Raises:
            RequestError, OSError: as `colorize`.
        """
        if not isinstance(picture, (Image.Image, np.ndarray)):
            picture = _read(picture)  # an open file can be read once
        options = {"decoding": "sample", **options}
        seed = options.pop("seed", 0)
        seeds = range(seed, seed + count)
        return [self.colorize(picture, seed=one, **options) for one in seeds]  # type: ignore[call-overload]

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

    def _colorize_image(self, picture: Image.Image, options: Options) -> Image.Image:
        read = image.from_pillow(picture)
        coloured = Image.fromarray(self.pipeline.colorize_pixels(read, options))
        if options.profile != "srgb":
            coloured.info["icc_profile"] = icc.build(options.profile)
        if read.alpha is not None:
            coloured.putalpha(Image.fromarray(read.alpha))
        return coloured

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
        self, paths: Iterable[str | Path], options: Options | None = None, batch: int = BATCH
    ) -> Iterator[tuple[Path, Reply | Exception]]:
        """Colorize many files, in batches, reading ahead.

        >>> for path, reply in colorizer.colorize_files(paths, Options(format="png")):
        ...     if not isinstance(reply, Exception):
        ...         path.with_suffix(".colour.png").write_bytes(reply.body)

        Args:
            paths: of the files.
            options: for all of them.
            batch: pictures that go through the network together; a GPU is worth more than 4.

        Yields:
            For each path, in order, its reply, or the exception that concerns it alone.
        """
        chosen, left = options or Options(), map(Path, paths)
        batches = iter(lambda: list(islice(left, batch)), [])

        def colorize(some: list[Path]) -> list[tuple[Path, Reply | Exception]]:
            found: dict[Path, Reply | Exception] = {}
            bodies: dict[Path, bytes] = {}
            for path in some:
                try:
                    bodies[path] = path.read_bytes()
                except OSError as error:
                    found[path] = error
            outcomes = self.pipeline.colorize_batch([(body, chosen) for body in bodies.values()])
            for path, outcome in zip(bodies, outcomes, strict=True):
                found[path] = outcome.reply or outcome.error or AssertionError(path)
            return [(path, found[path]) for path in some]

        for done in in_order(colorize, batches, _IN_FLIGHT, _IN_FLIGHT):
            yield from done


def _read(picture: str | Path | bytes | BinaryIO) -> bytes:
    if isinstance(picture, (str, Path)):
        return Path(picture).read_bytes()
    return bytes(picture) if isinstance(picture, (bytes, bytearray)) else picture.read()


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
