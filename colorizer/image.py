"""Bytes -> RGB: hostile input stops here.

`read` turns the bytes of a stranger's picture into upright 8-bit sRGB, or L at full depth, and the
metadata that may go with it. Beside this: `repair` (files that Pillow rejects), `tiff` (pages),
`samples` (layouts of TIFF), `colours` (8 bits, sRGB, L), `icc` (profiles), `metadata`.
"""

from __future__ import annotations

import contextlib
import io
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError, features

from colorizer import colours, jpeg, lab, metadata, repair, samples, tiff
from colorizer.errors import BadOption, BadPicture, NotAPicture, RequestError, TooLarge
from colorizer.metadata import Metadata
from colorizer.options import Bits

UInt8 = NDArray[np.uint8]

# What is read: Pillow's name of each format, ours, and how its files' names end.
_READ = {
    "JPEG": ("JPEG", ".jpg .jpeg .jpe .jfif .mpo"),
    "PNG": ("PNG", ".png"),
    "WEBP": ("WebP", ".webp"),
    "TIFF": ("TIFF", ".tif .tiff"),
    "BMP": ("BMP", ".bmp"),
    "DIB": ("BMP", ".dib"),
    "GIF": ("GIF", ".gif"),
}
if features.check("jpg_2000"):  # Pillow can be built without these two
    _READ["JPEG2000"] = ("JPEG 2000", ".jp2 .j2k .j2c .jpc .jpf .jpx")
if features.check("avif"):
    _READ["AVIF"] = ("AVIF", ".avif")
# What phones write needs the extra "heic", whose decoder is a large one: nothing installs it
# unasked.
with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    _READ["HEIF"] = ("HEIC", ".heic .heif .hif")
FORMATS = tuple(_READ)
SUFFIXES = frozenset(suffix for _, suffixes in _READ.values() for suffix in suffixes.split())

# What a file of FORMATS begins with; others: see _claims_to_be_a_picture.
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # and BigTIFF, either byte order
_JPEG2000 = (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  \r\n\x87\n")
_SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM"),
    *_TIFF,
    *(_JPEG2000 if "JPEG2000" in _READ else ()),
)
_BRANDS = {
    **dict.fromkeys((b"avif", b"avis"), "AVIF"),
    **dict.fromkeys((b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1", b"msf1"), "HEIF"),
}
_OTHERS = {  # what people send instead, and what to do
    b"%PDF": "a PDF document; convert its pages to PNG or TIFF",
    b"%!PS": "a PostScript file; convert it to PNG or TIFF",
    b"8BPS": "a Photoshop document; convert it to TIFF or PNG",
    b"<svg": "an SVG drawing; convert it to PNG",
    b"IIRO": "a camera raw file (ORF); convert it to JPEG or TIFF",
    b"IIU\0": "a camera raw file (RW2); convert it to JPEG or TIFF",
    b"FUJI": "a camera raw file (RAF); convert it to JPEG or TIFF",
}
# A usual progressive JPEG has about 10 scans. A hostile one of 300 kB has a thousand, each a pass
# over every pixel: a minute of work. libtiff draws the same line for JPEG inside TIFF.
_MAX_JPEG_SCANS = 100

cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # errors say what it would log
_NARROWED = "it has more than 8 bits, which bits=16 (or same) would keep"
_BROKEN = "The picture is broken or cut short; check that the file opens and send all of it."


@dataclass(frozen=True)
class Limits:
    """The largest picture that `read` decodes, checked before any pixel is; the largest reply.

    Pillow's own guard follows max_pixels while a picture is read.
    """

    max_bytes: int = 32 * 1024**2  # a 50-megapixel JPEG of a camera is 15 to 30 MB
    max_pixels: int = 50_000_000  # 8660 x 5773; takes 0.2 to 0.4 GB while it is colorized
    max_side: int = 100_000  # a strip one pixel wide takes half a minute for its 50 megapixels
    max_reply_bytes: int = 120 * 1024**2  # under max_response_size of config.properties

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_side", "max_reply_bytes"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise BadOption(f"{name} is {value!r:.40}; use a whole number above 0.")


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture in 8-bit sRGB, or its L; the arrays are read-only.

    Attributes:
        pixels: (H, W, 3) uint8, or (H, W) where the file itself is greyscale; (H, W) float32 is
            L, 0..100, of more than 8 bits.
        alpha: (H, W) uint8, 255 opaque, not premultiplied; None where the file has none.
        metadata: what the file says of the picture, true of these pixels.
        notes: what of the file was left out, each a sentence.
    """

    pixels: NDArray[Any]
    alpha: UInt8 | None = None
    metadata: Metadata = field(default_factory=Metadata)
    notes: tuple[str, ...] = ()

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


def read(
    data: bytes | bytearray | memoryview, limits: Limits = Limits(), bits: Bits = "8"
) -> Picture:
    """Decode a picture into upright 8-bit sRGB, or L of more bits.

    The first frame counts, and of a TIFF the first page that is no thumbnail. Colour profiles (RGB,
    grey, CMYK) are applied; without one, RGB and grey are taken as sRGB. Samples of more than 8
    bits are scaled by the range of their type: integers by the largest value of their bits (12, 16
    or 32, signed ones from 0), floats by 1.0.

    Args:
        data: a file of one of FORMATS.
        limits: the largest picture to accept.
        bits: "16" takes L, at the depth that the file has; "same" does so where that is above 8.

    Raises:
        BadPicture: empty, broken or cut short.
        TooLarge: beyond the limits.
        NotAPicture: another format, or a layout that is not read.
    """
    size = memoryview(data).nbytes
    if size == 0:
        raise BadPicture("The file is empty; send the bytes of a picture file.")
    if size > limits.max_bytes:
        raise TooLarge(
            f"The file has {size:,} bytes and at most {limits.max_bytes:,} are accepted; "
            "send a smaller copy."
        )
    body = bytes(data)
    try:
        with quiet_pillow(limits.max_pixels):
            return _decode(body, limits, bits)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(limits) from None
    except UnidentifiedImageError:
        raise _unidentified(body) from None
    except Exception:
        # Hostile bytes make Pillow's parsers raise nearly anything: OSError, SyntaxError, KeyError,
        # struct.error, zlib.error, MemoryError... No list of them would stay complete, and one
        # that is missing would take down a whole batch.
        raise _broken(body) from None


def _decode(body: bytes, limits: Limits, bits: Bits) -> Picture:
    is_tiff = body.startswith(_TIFF)
    return _turned(_open_tiff(body, limits, bits) if is_tiff else _open_other(body, limits, bits))


def _turned(stored: _Stored) -> Picture:
    """Bring a decoded file to sRGB, and turn it upright."""
    pixels = stored.colour
    if isinstance(pixels, Image.Image):
        pixels = _pixels(colours.to_srgb(pixels, stored.profile))
    pixels = upright(pixels, stored.orientation)
    alpha = None if stored.alpha is None else upright(np.asarray(stored.alpha), stored.orientation)
    for array in (pixels, alpha):
        if array is not None:
            array.flags.writeable = False
    about = stored.describe((pixels.shape[1], pixels.shape[0]), stored.orientation in (5, 6, 7, 8))
    return Picture(pixels, alpha, about, stored.notes)


def _pixels(im: Image.Image) -> UInt8:
    """Copy a picture in L or RGB, in bands: at once, Pillow would take twice the memory."""
    pixels = np.empty((im.height, im.width, *((3,) if im.mode == "RGB" else ())), np.uint8)
    for rows in lab.bands(im.height, im.width):
        pixels[rows] = im.crop((0, rows.start, im.width, rows.stop))
    return pixels


def upright(pixels: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Turn a stored picture upright by its orientation, 1..8 (EXIF 2.32, tag 0x0112)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)


def from_pillow(im: Image.Image) -> Picture:
    """Bring a Pillow image to upright 8-bit sRGB, as `read` does."""
    im.load()
    colour, alpha, profile = colours.eight_bits(im, im.info.get("icc_profile"))
    return _turned(
        _Stored(colour, alpha, profile, metadata.orientation(im), partial(metadata.of, im))
    )


@dataclass(frozen=True, eq=False)
class _Stored:
    """A decoded file: 8 bits a channel, or L, not yet turned or brought to sRGB.

    Attributes:
        colour: in L, RGB or CMYK; an array of uint8 is grey or sRGB, of float32 L at full depth.
        alpha: in L, or None.
        profile: to apply.
        orientation: 1..8.
        describe: (size, whether its sides were swapped) -> metadata.
        notes: as `Picture` has them.
    """

    colour: Image.Image | NDArray[Any]
    alpha: Image.Image | None
    profile: bytes | None
    orientation: int
    describe: Callable[[tuple[int, int], bool], Metadata]
    notes: tuple[str, ...] = ()


def _open_other(body: bytes, limits: Limits, bits: Bits) -> _Stored:
    """Decode any format but TIFF."""
    if metadata.is_bomb(body):
        raise BadPicture("The picture's EXIF is broken; save the picture without it.")
    profile = None
    if body.startswith(b"\xff\xd8") and repair.jpeg_scans(body) > _MAX_JPEG_SCANS:
        raise BadPicture(
            f"The JPEG has more than {_MAX_JPEG_SCANS} scans; save it again as a usual JPEG."
        )
    if body.startswith(b"\x89PNG"):
        body, profile = repair.png(body)
    elif body.startswith(_JPEG2000):
        profile = repair.jp2_profile(body)
    with Image.open(io.BytesIO(body), formats=FORMATS) as im:  # reads the header only
        _check_size(im.width, im.height, im.width * im.height, limits)
        if bits != "16" and (fast := _fast(im, body)) is not None:
            return _Stored(fast, None, None, metadata.orientation(im), partial(metadata.of, im))
        loaded = _load(im, body)  # all: PNG may hold EXIF behind its pixels
        stored = profile or im.info.get("icc_profile")
        deep = colours.is_wide(loaded) or repair.bits(body) > 8
        to_lightness = bits == "16" or (bits == "same" and deep)
        found: Image.Image | samples.Samples = loaded
        # Pillow narrows colours, turns JPEG 2000's white to black by that, and has 12 bits miss it.
        if deep and (im.format == "JPEG2000" or (to_lightness and not colours.is_wide(loaded))):
            sample = _sample(np.asarray(colours.eight_bits(loaded, stored)[0]))
            if to_lightness:
                del found, loaded
                im.close()  # its pixels
                found = _wide(body, sample)
            else:
                with contextlib.suppress(NotAPicture):
                    found = _wide(body, sample)
        colour, alpha, profile = colours.parts(found, stored, to_lightness)
        orientation = metadata.orientation(im)
    notes = (_NARROWED,) if deep and bits == "8" else ()
    return _Stored(colour, alpha, profile, orientation, partial(metadata.of, im), notes)


def _fast(im: Image.Image, body: bytes) -> UInt8 | None:
    """Decode a sound JPEG in sRGB without Pillow, which copies it twice; None for others."""
    usual = im.format in ("JPEG", "MPO") and im.mode in ("L", "RGB")
    if not usual or im.info.get("icc_profile"):
        return None
    pixels = jpeg.decode(body, im.mode == "L")
    if pixels is None or pixels.shape[1::-1] != im.size:
        return None
    return pixels


def _sample(pixels: NDArray[Any]) -> NDArray[Any]:
    """Copy some of a picture's pixels, (H, W, C)."""
    rows, columns = (slice(None, None, max(1, side // 500)) for side in pixels.shape[:2])
    return np.atleast_3d(pixels)[rows, columns].copy()


def _wide(body: bytes, sample: NDArray[Any]) -> samples.Samples:
    """Decode a PNG or JPEG 2000 of more than 8 bits, which Pillow narrows.

    Raises:
        NotAPicture: if OpenCV doesn't find what Pillow found.
    """
    found = cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_UNCHANGED)
    full = 2.0 ** repair.bits(body) - 1
    if found is not None and found.dtype == np.uint16:
        values = np.atleast_3d(found)
        colour = values[..., :1] if sample.shape[2] == 1 else values[..., 2::-1]
        some = _sample(colour) * (255 / full)
        if some.shape == sample.shape and np.abs((some - sample + 128) % 256 - 128).max() < 2:
            alpha = values[..., 3] if values.shape[2] == 4 else None
            return samples.Samples(colour, full, alpha=alpha)
    raise NotAPicture(
        "The picture has colours of more than 8 bits in a layout that isn't read; use bits=8, or "
        "convert it to a 16-bit TIFF."
    )


def _load(im: Image.Image, body: bytes) -> Image.Image:
    """Decode the pixels; of a JPEG also where nothing but the end marker is missing."""
    try:
        im.load()
        return im
    except OSError:
        endings = repair.jpeg_endings(body) if im.format in ("JPEG", "MPO") else []
        if not endings:
            raise
    first, *others = (Image.open(io.BytesIO(one), formats=("JPEG",)) for one in endings)
    pixels = np.asarray(first)
    if not all(np.array_equal(pixels, np.asarray(other)) for other in others):
        raise BadPicture(_BROKEN)
    return first


def _open_tiff(body: bytes, limits: Limits, bits: Bits) -> _Stored:
    """Decode the page of a TIFF that is the photograph."""
    page = tiff.page(body)
    _check_size(*page.size, page.area, limits)
    deep = page.main.number(tiff.BITS, 1) > 8
    to_lightness = bits == "16" or (bits == "same" and deep)
    found: Image.Image | samples.Samples | None = None
    if deep and to_lightness:  # Pillow narrows colours
        with contextlib.suppress(NotAPicture):
            found = samples.decode(page)
    if found is None and not page.pillow_is_wrong:
        with contextlib.suppress(UnidentifiedImageError):  # it lacks the layout
            im = Image.open(io.BytesIO(page.alone()), formats=("TIFF",))
            _check_size(im.width, im.height, im.width * im.height, limits)
            im.load()
            found = im
    found = found or samples.decode(page)
    colour, alpha, profile = colours.parts(found, page.profile, to_lightness, page)
    notes = page.left_out + ((_NARROWED,) if deep and not to_lightness else ())
    describe = partial(metadata.of_tiff, page)
    return _Stored(colour, alpha, profile, page.orientation, describe, notes)


def _check_size(width: int, height: int, area: int, limits: Limits) -> None:
    """Refuse, from what the header says, a picture that would take too much to decode."""
    if max(width * height, area) > limits.max_pixels:
        raise _too_many_pixels(limits, f"{width} x {height} pixels")
    if max(width, height) > limits.max_side:
        raise TooLarge(
            f"The picture has {width} x {height} pixels and at most {limits.max_side:,} a side are "
            "accepted; send a part of it."
        )


def _claims_to_be_a_picture(body: bytes) -> bool:
    boxed = body[4:8] == b"ftyp" and _BRANDS.get(body[8:12]) in FORMATS
    webp = body[:4] == b"RIFF" and body[8:12] == b"WEBP"
    return boxed or webp or body.startswith(_SIGNATURES)


def _broken(body: bytes) -> RequestError:
    """Tell a broken file from a sound one of a kind that Pillow lacks."""
    layout = None
    if body.startswith(b"\xff\xd8\xff"):
        with contextlib.suppress(ValueError, IndexError):
            layout = repair.jpeg_layout(body)
    if body.startswith(b"BM") and int.from_bytes(body[30:34], "little") in (3, 4, 5, 6):
        layout = "BMP of an unusual layout"
    if layout:
        return NotAPicture(
            f"The picture is a {layout}, which is not read; convert it to a usual JPEG or PNG."
        )
    return BadPicture(_BROKEN)


def _unidentified(body: bytes) -> RequestError:
    if _claims_to_be_a_picture(body):
        return _broken(body)
    if body[4:8] == b"ftyp" and _BRANDS.get(body[8:12]) == "HEIF":
        return NotAPicture(
            "The picture is a HEIC, which needs the extra 'heic'; convert it to JPEG."
        )
    for start, what in _OTHERS.items():
        if body.startswith(start):
            return NotAPicture(f"The file is {what}.")
    *names, last = dict.fromkeys(_READ[name][0] for name in FORMATS)
    return NotAPicture(
        f"The file is not a {', '.join(names)} or {last}; convert the picture to one of these."
    )


def _too_many_pixels(limits: Limits, found: str = "too many pixels") -> TooLarge:
    return TooLarge(
        f"The picture has {found} and at most {limits.max_pixels:,} in all are accepted; "
        "send a smaller copy."
    )


_quiet_lock = threading.Lock()
_quiet_stack = ExitStack()
_quiet_readers = 0


@contextmanager
def quiet_pillow(max_pixels: int = 0) -> Iterator[None]:
    """Keep Pillow's warnings about a stranger's file out of our log, and its guard above our limit.

    `warnings.catch_warnings` alone swaps a list of the whole process, and two threads that leave
    in the wrong order lose the original: so the first reader in swaps and the last one out puts
    back. Warnings of other packages pass. The guard, Image.MAX_IMAGE_PIXELS, is the process's too.
    """
    global _quiet_readers
    with _quiet_lock:
        if _quiet_readers == 0:
            _quiet_stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
            _quiet_stack.callback(setattr, Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)
        if Image.MAX_IMAGE_PIXELS is not None and max_pixels > Image.MAX_IMAGE_PIXELS:
            Image.MAX_IMAGE_PIXELS = max_pixels
        _quiet_readers += 1
    try:
        yield
    finally:
        with _quiet_lock:
            _quiet_readers -= 1
            if _quiet_readers == 0:
                _quiet_stack.close()
