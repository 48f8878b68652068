"""Plan the work of the folder command: which pictures, under which names, and what is done."""

from __future__ import annotations

import hashlib
import os
from pathlib import PurePath

ENDINGS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp"}

_SAME_FORMAT = {
    ".jpg": {".jpg", ".jpeg", ".jpe", ".jfif"},
    ".png": {".png"},
    ".webp": {".webp"},
}
# Suffixes of pictures, whether or not they can be read here: names must not depend on what is
# installed.
_PICTURES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".dng", ".nef", ".heic", ".heif", ".hif", ".avif", ".jxl"),
    *(".jp2", ".j2k", ".jpx", ".jpf", ".jpc"),
}
_NAME_BYTES = 255  # of one name, on nearly every file system


def target_name(name: PurePath, ending: str) -> PurePath:
    """Name the result of a picture, from the picture's own name alone.

    A name that has the result's format already is kept; any other gets the ending appended, so
    photo.jpg becomes photo.jpg and photo.png becomes photo.png.jpg. No two names of pictures get
    the same result, whatever else is in their folder.

    Args:
        name: of the picture, relative to the folder it is in.
        ending: one of ENDINGS' values, by the format of the result.
    """
    kept = name.suffix.lower() in _SAME_FORMAT[ending]
    # a.png.jpg is what a.png becomes; a picture of that name must become something else.
    if kept and PurePath(name.stem).suffix.lower() not in _PICTURES:
        return name
    return name.with_name(_fit(name.name + ending))


def marked(name: PurePath, mark: str) -> PurePath:
    """Insert a mark before the suffix: photo.jpg becomes photo-colour.jpg."""
    return name.with_name(_fit(name.stem + mark + name.suffix))


def _fit(name: str) -> str:
    """Shorten a name that file systems refuse as too long; a hash keeps it unique."""
    raw = os.fsencode(name)
    if len(raw) <= _NAME_BYTES:
        return name
    end = f"-{hashlib.sha256(raw).hexdigest()[:12]}{PurePath(name).suffix}"
    length = _NAME_BYTES - len(end)
    while raw[length] & 0xC0 == 0x80:  # the middle of a character in UTF-8
        length -= 1
    return os.fsdecode(raw[:length]) + end
