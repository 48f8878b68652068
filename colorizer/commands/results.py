"""Check that a result is a picture of the requested format and of its source's size."""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

Size = tuple[int, int]  # width, height

MAX_BYTES = 2**30  # of a reply


def header_size(picture: bytes | Path, *formats: str) -> Size | None:
    """Read the upright size of a picture from its header; None if it isn't a picture.

    Args:
        picture: a file, or its bytes.
        formats: Pillow's names of formats to accept; by default, all that can be colorized.
    """
    from PIL import ExifTags, Image

    from colorizer.image import FORMATS, quiet_pillow

    file = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    try:
        with quiet_pillow(sys.maxsize), Image.open(file, formats=formats or FORMATS) as im:
            turned = im.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
            return (im.height, im.width) if turned else im.size
    except Exception:  # hostile bytes make Pillow raise nearly anything: see image.read
        return None


def fits(size: Size, source: bytes | Path) -> bool | None:
    """Whether a result of this size fits a picture; None if that can't be read."""
    from colorizer import image
    from colorizer.errors import RequestError

    if header_size(source) == size:
        return True
    # Headers may mislead: a TIFF may begin with its thumbnail.
    try:
        body = source if isinstance(source, bytes) else source.read_bytes()
        picture = image.read(body)
    except (RequestError, OSError):
        return None
    return size == (picture.width, picture.height)


def unpack(reply: bytes, variants: int = 1) -> list[bytes]:
    """Split a reply into its pictures; several variants come as a ZIP file.

    Raises:
        ValueError: if it isn't a ZIP file of that many pictures.
    """
    if variants == 1:
        return [reply]
    try:
        with zipfile.ZipFile(io.BytesIO(reply)) as archive:
            members = archive.infolist()
            if len(members) == variants and sum(m.file_size for m in members) <= MAX_BYTES:
                return [archive.read(member) for member in members]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, OSError, EOFError) as error:
        raise ValueError(f"the reply is not a ZIP file of {variants} pictures ({error})") from None
    raise ValueError(f"the reply is not a ZIP file of {variants} pictures")


def check(reply: bytes, source: bytes, format: str, variants: int = 1) -> None:
    """Check that a reply has complete pictures of the right format, of the source's size.

    Raises:
        ValueError: naming what is wrong.
    """
    from PIL import Image

    from colorizer.image import quiet_pillow

    for result in unpack(reply, variants):
        try:
            file = io.BytesIO(result)
            with quiet_pillow(sys.maxsize), Image.open(file, formats=[format.upper()]) as im:
                size = im.size
                right = fits(size, source) is not False
                if right:
                    im.load()
        except Exception:  # see header_size
            raise ValueError(f"the reply is not a {format} picture") from None
        if not right:
            raise ValueError(f"the reply is a picture of another size, {size[0]} x {size[1]}")


def sample(format: str) -> bytes:
    """Encode a small grey picture, for trying a network or a server."""
    from PIL import Image

    file = io.BytesIO()
    Image.linear_gradient("L").resize((32, 24)).save(file, format.upper())
    return file.getvalue()
