"""Bytes <-> RGB: everything hostile stops here.

`read` turns the bytes of a stranger's picture into upright 8-bit sRGB; `write` turns a finished
picture into a file. EXIF comes back where it is asked for; other metadata (XMP, colour profile,
text) is used on the way in and never copied to the way out.

What a user can cause is in `errors`.
"""

from __future__ import annotations

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, PngImagePlugin, UnidentifiedImageError
from PIL import TiffImagePlugin as Tiff

from colorizer.errors import BadOption as BadOption
from colorizer.errors import BadPicture as BadPicture
from colorizer.errors import NotAPicture as NotAPicture
from colorizer.errors import RequestError as RequestError
from colorizer.errors import TooLarge as TooLarge

UInt8 = NDArray[np.uint8]
Format = Literal["jpeg", "png", "webp"]

# All that Pillow may try on a request. What phones write needs the extra "heic", whose decoder is
# a large one: nothing installs it unasked.
FORMATS: tuple[str, ...] = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
with contextlib.suppress(ImportError):
    import pillow_heif

    pillow_heif.register_heif_opener(thumbnails=False)
    FORMATS += ("HEIF",)
_LAST_FORMAT = "GIF, nor a HEIC" if "HEIF" in FORMATS else "GIF"
CONTENT_TYPES: dict[str, str] = {"jpeg": "image/jpeg", "png": "image/png", "webp": "image/webp"}
# libjpeg stops at 65500 though the file format could say 65535; WebP has 14 bits for a side.
_MAX_SIDE = {"jpeg": 65_500, "png": 2**31 - 1, "webp": 16_383}

# What a file of FORMATS begins with (WebP: see _claims_to_be_a_picture).
_SIGNATURES = (
    *(b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM"),
    *(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),  # TIFF and BigTIFF, either byte order
)
# A usual progressive JPEG has about 10 scans. A hostile one of 300 kB has a thousand, each a pass
# over every pixel: a minute of work. libtiff draws the same line for JPEG inside TIFF.
_MAX_JPEG_SCANS = 100
_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # without stuffing and restart markers

_UPRIGHT = {  # EXIF orientation -> what turns the stored picture upright (EXIF 2.32, tag 0x0112)
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_MAX_EXIF = 65_533  # of a JPEG's marker
_TIFF_KEEPS = {  # who, what, when
    *(ExifTags.Base.ImageDescription, ExifTags.Base.Make, ExifTags.Base.Model),
    *(ExifTags.Base.DateTime, ExifTags.Base.Artist, ExifTags.Base.Copyright),
}
_BROKEN = "The picture is broken or cut short; check that the file opens and post all of it."


@dataclass(frozen=True)
class Limits:
    """The largest picture that `read` decodes, checked before any pixel is; the largest reply.

    Pillow's own guard stays on behind it, so max_pixels above twice `Image.MAX_IMAGE_PIXELS`
    (2 x 89 million, unless the process changed it) has no further effect.
    """

    max_bytes: int = 32 * 1024**2  # a 50-megapixel JPEG of a camera is 15 to 30 MB
    max_pixels: int = 50_000_000  # 8660 x 5773; takes about 0.6 GB while it is colorized
    max_reply_bytes: int = 120 * 1024**2  # under max_response_size of config.properties


@dataclass(frozen=True, eq=False)
class Picture:
    """An upright picture in 8-bit sRGB; the arrays are read-only.

    Attributes:
        pixels: (H, W, 3) uint8, or (H, W) where the file itself is greyscale.
        alpha: (H, W) uint8, 255 opaque, not premultiplied; None where the file has none.
        exif: the file's EXIF without its orientation, which is done; empty where it has none.
    """

    pixels: UInt8
    alpha: UInt8 | None = None
    exif: bytes = b""

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])


@dataclass(frozen=True)
class OutputOptions:
    """How `write` encodes.

    Attributes:
        format: one of CONTENT_TYPES.
        quality: 1..100, for JPEG and WebP; PNG is lossless and ignores it.
    """

    format: Format = "jpeg"
    quality: int = 92

    def __post_init__(self) -> None:
        if self.format not in get_args(Format):
            raise BadOption(f"format is {self.format!r:.40}; use jpeg, png or webp.")
        # bool is an int to isinstance, and no quality
        if type(self.quality) is not int or not 1 <= self.quality <= 100:
            raise BadOption(f"quality is {self.quality!r:.40}; use a whole number from 1 to 100.")


def read(data: bytes | bytearray | memoryview, limits: Limits = Limits()) -> Picture:
    """Decode a picture into upright 8-bit sRGB.

    The first frame or page counts. Colour profiles (RGB, grey, CMYK) are applied; without one,
    RGB and grey are taken as sRGB. Grey of more than 8 bits is scaled by the range of its type:
    integers by the largest value of their bits (12, 16 or 32, signed ones from 0), floats by 1.0.

    Args:
        data: a JPEG, PNG, WebP, TIFF, BMP or GIF file.
        limits: the largest picture to accept.

    Raises:
        BadPicture: empty, broken or cut short.
        TooLarge: beyond the limits.
        NotAPicture: another format.
    """
    size = memoryview(data).nbytes
    if size == 0:
        raise BadPicture("The body is empty; post the bytes of a picture file.")
    if size > limits.max_bytes:
        raise TooLarge(
            f"The file has {size:,} bytes and at most {limits.max_bytes:,} are accepted; "
            "post a smaller copy."
        )
    body = bytes(data)
    try:
        with _silent_pillow():
            return _decode(body, limits)
    except RequestError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(limits) from None
    except UnidentifiedImageError:
        if _claims_to_be_a_picture(body):
            raise BadPicture(_BROKEN) from None
        raise NotAPicture(
            f"The body is not a JPEG, PNG, WebP, TIFF, BMP or {_LAST_FORMAT}; convert the "
            "picture to one of these and post the file's own bytes."
        ) from None
    except Exception:
        # Hostile bytes make Pillow's parsers raise nearly anything: OSError, SyntaxError, KeyError,
        # struct.error, zlib.error, MemoryError... No list of them would stay complete, and one
        # that is missing would take down a whole batch. Nothing of ours runs in here but _decode.
        raise BadPicture(_BROKEN) from None


def write(
    rgb: UInt8, options: OutputOptions, alpha: UInt8 | None = None, exif: bytes = b""
) -> bytes:
    """Encode a picture, without metadata but for the EXIF that is given.

    JPEG and WebP carry no colour profile, which means sRGB; PNG says so in its sRGB chunk.

    Args:
        rgb: (H, W, 3) uint8 sRGB.
        options: format and quality.
        alpha: (H, W) uint8, kept by PNG and WebP; JPEG has none and gets white behind the picture.
        exif: to write into the file.

    Raises:
        BadOption: a side is longer than the format can hold.
    """
    longest, most = max(rgb.shape[:2]), _MAX_SIDE[options.format]
    if longest > most:
        fits = [name for name, side in _MAX_SIDE.items() if longest <= side]
        raise BadOption(
            f"format is {options.format!r}, which holds at most {most} pixels a side, and the "
            f"picture has {longest}; use {' or '.join(fits)}."
        )
    im = Image.fromarray(rgb)
    mask = None if alpha is None else Image.fromarray(alpha)
    file = io.BytesIO()
    if options.format == "jpeg":
        if mask is not None:
            on_white = Image.new("RGB", im.size, "white")
            on_white.paste(im, mask=mask)
            im = on_white
        # Chroma is what we made: 4:4:4 keeps all of it. An optimized Huffman table would save 2%
        # of the bytes for three times the time.
        im.save(file, "JPEG", quality=options.quality, subsampling=0, optimize=False, exif=exif)
        return file.getvalue()
    if mask is not None:
        im.putalpha(mask)
    if options.format == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add(b"sRGB", b"\0")  # rendering intent: perceptual
        # Level 6, the default, takes 2.4 times the time for 14% fewer bytes.
        im.save(file, "PNG", compress_level=1, pnginfo=chunks, exif=exif)
    else:
        # Method 2 is as small as the default 4 in less than half the time. WebP always halves
        # chroma's resolution, unlike our JPEG.
        im.save(file, "WEBP", quality=options.quality, method=2, exif=exif)
    return file.getvalue()


def _decode(body: bytes, limits: Limits) -> Picture:
    with Image.open(io.BytesIO(body), formats=FORMATS) as im:  # reads the header only
        _check_header(im, body, limits)
        return from_pillow(im)


def from_pillow(im: Image.Image) -> Picture:
    """Bring a Pillow image to upright 8-bit sRGB, as `read` does."""
    im.load()  # before anything is asked of EXIF: PNG may hold it behind the pixels
    upright = _turn_upright(im)
    if im.mode[0] in "IF":  # I;16 and its kin, I (32 bits), F: grey wider than 8 bits
        colour, alpha = _narrow(upright, im)
    else:
        colour, alpha = _split_alpha(upright)
    pixels = np.asarray(_to_srgb(colour, im.info.get("icc_profile")))
    return Picture(pixels, alpha, _exif(im))


def _check_header(im: Image.Image, body: bytes, limits: Limits) -> None:
    """Refuse, from what the header says, a picture that would take too much to decode."""
    area = im.width * im.height
    if isinstance(im, Tiff.TiffImageFile):
        # A whole tile is decoded, even where the picture ends inside it. A hostile tag may hold
        # bytes or a tuple, and their product with a number would be a very long one.
        sides = [int(im.tag_v2.get(tag, 1)) for tag in (Tiff.TILEWIDTH, Tiff.TILELENGTH)]
        area = max(area, sides[0] * sides[1])
    if area > limits.max_pixels:
        raise _too_many_pixels(limits, f"{im.width} x {im.height} pixels")
    if im.format in ("JPEG", "MPO") and _count_scans(body) > _MAX_JPEG_SCANS:
        raise BadPicture(
            f"The JPEG has more than {_MAX_JPEG_SCANS} scans; save it again as a usual JPEG."
        )


def _count_scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG's first picture, without those of its thumbnails."""
    scans, at = 0, 2
    while marker := _JPEG_MARKER.search(jpeg, at):
        kind, after = jpeg[marker.start() + 1], marker.end()
        if kind == 0xD9:  # end of image: other pictures may follow
            break
        scans += kind == 0xDA
        at = after + int.from_bytes(jpeg[after : after + 2], "big")
    return scans


def _turn_upright(im: Image.Image) -> Image.Image:
    try:
        orientation = im.getexif().get(ExifTags.Base.Orientation)
        how = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    except Exception:  # EXIF is a TIFF inside the picture; broken, it fails in as many ways
        how = None  # a spoilt note on the back does not spoil the photograph
    return im if how is None else im.transpose(how)


def _exif(im: Image.Image) -> bytes:
    """Give the EXIF of a picture that was turned upright; none where it can't be written again."""
    try:
        tags = im.getexif()
        if isinstance(im, Tiff.TiffImageFile):  # the tags of the file: most describe its pixels
            tags = Image.Exif()
            for kept in _TIFF_KEEPS & set(im.tag_v2):
                tags[kept] = im.tag_v2[kept]
        tags.pop(ExifTags.Base.Orientation, None)
        # It holds offsets into the file that it was in.
        if ExifTags.IFD.Exif in tags:
            tags.get_ifd(ExifTags.IFD.Exif).pop(ExifTags.Base.MakerNote, None)
        written = tags.tobytes() if len(tags) else b""
    except Exception:  # as broken as can be: see _turn_upright
        return b""
    return written if len(written) <= _MAX_EXIF else b""


def _narrow(im: Image.Image, source: Image.Image) -> tuple[Image.Image, UInt8 | None]:
    """Scale grey of 12, 16 or 32 bits, or of floats, to 8 bits."""
    bits, signed, white_is_zero = 16, False, False  # PNG
    if isinstance(source, Tiff.TiffImageFile):
        tags = source.tag_v2
        bits = tags.get(Tiff.BITSPERSAMPLE, (16,))[0]
        signed = tags.get(Tiff.SAMPLEFORMAT, (1,))[0] == 2
        # Pillow turns such pictures itself at 8 bits, not at 16
        white_is_zero = tags.get(Tiff.PHOTOMETRIC_INTERPRETATION) == 0
    values = np.asarray(im)
    if im.mode == "I" and bits == 32 and not signed:
        values = values.view(np.uint32)  # mode I holds the same bits as int32
    full = 1.0 if im.mode == "F" else 2.0 ** (bits - signed) - 1
    scaled = np.clip(np.nan_to_num(values.astype(np.float32)), 0, full) * (255 / full)
    grey = np.rint(255 - scaled if white_is_zero else scaled).astype(np.uint8)
    see_through = im.info.get("transparency")  # PNG: the one value that is transparent
    if see_through is None:
        return Image.fromarray(grey), None
    return Image.fromarray(grey), np.asarray(Image.fromarray(values != see_through).convert("L"))


def _split_alpha(im: Image.Image) -> tuple[Image.Image, UInt8 | None]:
    """Any mode of 8 bits or fewer -> L, RGB or CMYK; and (H, W) alpha, or None."""
    grey = im.mode in ("1", "L", "LA", "La")
    alpha = None
    if im.has_transparency_data:
        im = im.convert("LA" if grey else "RGBA")
        alpha = np.asarray(im.getchannel("A"))
    if im.mode not in ("L", "RGB", "CMYK"):  # P, YCbCr, LAB (which Pillow takes as D50), ...
        im = im.convert("L" if grey else "RGB")
    return im, alpha


def _to_srgb(im: Image.Image, profile: bytes | None) -> Image.Image:
    """L, RGB or CMYK -> L or RGB in sRGB; a profile that is broken or misplaced is ignored."""
    if profile:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            if im.mode != "L":
                return _transform(im, source)
            # A grey profile is a curve: put 256 values through it and look the others up.
            ramp = Image.frombytes("L", (256, 1), bytes(range(256)))
            return im.point(list(_transform(ramp, source).getchannel("G").tobytes()))
        except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
            pass  # no profile, or one for other channels; the picture is still worth colouring
    return im if im.mode in ("L", "RGB") else im.convert("RGB")


def _transform(im: Image.Image, source: ImageCms.ImageCmsProfile) -> Image.Image:
    transform = ImageCms.buildTransform(
        source,
        ImageCms.createProfile("sRGB"),
        im.mode,
        "RGB",
        # as browsers and Photoshop do: CMYK's paper becomes white and its ink black
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    return transform.apply(im)


def _claims_to_be_a_picture(body: bytes) -> bool:
    heic = "HEIF" in FORMATS and body[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1")
    webp = body[:4] == b"RIFF" and body[8:12] == b"WEBP"
    return heic or webp or body.startswith(_SIGNATURES)


def _too_many_pixels(limits: Limits, found: str = "too many pixels") -> TooLarge:
    return TooLarge(
        f"The picture has {found} and at most {limits.max_pixels:,} in all are accepted; "
        "post a smaller copy."
    )


_silent_lock = threading.Lock()
_silent_stack = ExitStack()
_silent_readers = 0


@contextmanager
def _silent_pillow() -> Iterator[None]:
    """Keep Pillow's warnings about a stranger's file out of our log.

    `warnings.catch_warnings` alone swaps a list of the whole process, and two threads that leave
    in the wrong order lose the original: so the first reader in swaps and the last one out puts
    back. Warnings of other packages pass.
    """
    global _silent_readers
    with _silent_lock:
        if _silent_readers == 0:
            _silent_stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", module=r"PIL\.")
        _silent_readers += 1
    try:
        yield
    finally:
        with _silent_lock:
            _silent_readers -= 1
            if _silent_readers == 0:
                _silent_stack.close()
