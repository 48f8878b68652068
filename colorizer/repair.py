"""Files that Pillow rejects although their pixels are intact."""

from __future__ import annotations

import re
import zlib
from collections import defaultdict

_PNG = b"\x89PNG\r\n\x1a\n"
# What is used of a PNG's ancillary chunks. None other reaches Pillow, whose parsers refuse the
# whole picture for one that is malformed.
_PNG_KEEPS = {b"tRNS", b"eXIf", b"tEXt", b"zTXt", b"iTXt", b"pHYs"}
_MAX_PROFILE = 16 * 2**20  # bytes, unpacked; profiles of presses have 1 to 3 MB

_JPEG_MARKER = re.compile(rb"\xff[\x02-\xcf\xd9-\xfe]")  # without stuffing and restart markers
_MAX_SEGMENTS = 10_000
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_END = b"\xff\xd9"
# Where an encoder's bits end, anything may follow; where they were cut, this makes other pixels.
_NOISE = bytes(254 - value for value in range(0, 254, 7)) * 8


def png(body: bytes) -> tuple[bytes, bytes | None]:
    """Take the ICC profile out of a PNG, and leave out corrupt or unused ancillary chunks.

    Returns:
        The PNG, and the profile if there is a sound one.
    """
    profile, at, colours = None, len(_PNG), -1
    kept: list[bytes | memoryview] = [_PNG]
    while at + 12 <= len(body):
        length = int.from_bytes(body[at : at + 4], "big")
        kind, end = body[at + 4 : at + 8], at + 12 + length
        if end > len(body):
            break  # cut short: Pillow may have all pixels, or says so
        chunk = memoryview(body)[at:end]
        at = end
        if kind == b"IHDR" and length == 13:
            colours = chunk[8 + 9]
        if not kind[:1].islower():
            kept.append(chunk)
            if kind == b"IEND":
                break
            continue
        content = chunk[8:-4]
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            continue
        if kind == b"iCCP":
            profile = profile or _unpacked_profile(bytes(content))
        elif kind in _PNG_KEEPS and _is_sound(kind, content, colours):
            kept.append(chunk)
    return b"".join([*kept, memoryview(body)[at:]]), profile


def _is_sound(kind: bytes, content: memoryview, colours: int) -> bool:
    """Whether a chunk has the form that Pillow's parser expects."""
    if kind == b"tRNS":
        return len(content) == {0: 2, 2: 6}.get(colours, len(content))
    if kind == b"pHYs":
        return len(content) == 9
    if kind == b"zTXt":
        return bytes(content).partition(b"\0")[2][:1] == b"\0"  # the method, behind a keyword
    return True


def _unpacked_profile(content: bytes) -> bytes | None:
    name, _, packed = content.partition(b"\0")
    try:
        unpacker = zlib.decompressobj()
        profile = unpacker.decompress(packed[1:], _MAX_PROFILE)
    except zlib.error:
        return None
    return None if unpacker.unconsumed_tail or len(name) > 79 else profile


def jp2_profile(body: bytes) -> bytes | None:
    """The ICC profile of a JPEG 2000 file, which Pillow leaves out."""
    at = body.find(b"colr", 0, 65_536)
    if at < 4 or body[at + 4 : at + 5] != b"\2":  # method 2: a restricted profile
        return None
    return body[at + 7 : at - 4 + int.from_bytes(body[at - 4 : at], "big")]


def bits(body: bytes) -> int:
    """Bits of a sample of a PNG or JPEG 2000, which Pillow may narrow; 8 for other formats."""
    if body.startswith(_PNG):
        return body[24]
    at = body.find(b"\xff\x4f\xff\x51", 0, 65_536)  # a codestream, and its size segment
    is_jpeg2000 = at == 0 or body[4:8] == b"jP  "
    return (body[at + 42] & 127) + 1 if is_jpeg2000 and 0 <= at < len(body) - 42 else 8


def _segments(jpeg: bytes) -> list[tuple[int, int]]:
    """Markers of a JPEG's first picture, each with the place of its content."""
    found, at = [], 2
    while marker := _JPEG_MARKER.search(jpeg, at):
        kind, after = jpeg[marker.start() + 1], marker.end()
        found.append((kind, after + 2))
        if len(found) > _MAX_SEGMENTS:
            raise ValueError("too many segments")
        if kind == 0xD9:  # end of image: other pictures may follow
            break
        at = after + int.from_bytes(jpeg[after : after + 2], "big")
    return found


def jpeg_scans(jpeg: bytes) -> int:
    """Count the scans of a JPEG's first picture, without those of its thumbnails."""
    return sum(kind == 0xDA for kind, _ in _segments(jpeg))


def jpeg_layout(jpeg: bytes) -> str | None:
    """Name a kind of JPEG that Pillow lacks; None for usual ones."""
    for kind, at in _segments(jpeg):
        if kind in _FRAMES and at + 6 <= len(jpeg):
            bits, channels = jpeg[at], jpeg[at + 5]
            if bits != 8:
                return f"{bits}-bit JPEG"
            if kind not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
                return "lossless JPEG" if kind in (0xC3, 0xCB) else "hierarchical JPEG"
            return None if channels in (1, 3, 4) else f"JPEG of {channels} channels"
    return "lossless JPEG (JPEG-LS)" if jpeg[:4] == b"\xff\xd8\xff\xf7" else None


def jpeg_endings(jpeg: bytes) -> list[bytes]:
    """Complete a JPEG without its end marker, in ways that give the same pixels if it is whole.

    libjpeg fills what is missing with zeros, and doesn't tell Pillow. So beside the plain end there
    is one after noise, which a decoder that still waits for bits takes for them; and where there
    are restart markers, at which it skips noise, one with the next of these.

    Returns:
        Nothing if whole scans are missing.
    """
    complete: defaultdict[int, set[int]] = defaultdict(set)
    channels: list[int] = []
    progressive, last, restarts = False, 0, False
    for kind, at in _segments(jpeg):
        if kind == 0xD9:
            return []
        if kind in _FRAMES:
            progressive = kind in (0xC2, 0xCA)
            channels = list(jpeg[at + 6 : at + 6 + 3 * jpeg[at + 5] : 3])
        elif kind == 0xDD:
            restarts = jpeg[at : at + 2] != b"\0\0"
        elif kind == 0xDA:
            count, last = jpeg[at], at
            end = at + 1 + 2 * count
            low, high, bits = jpeg[end : end + 3].ljust(3, b"\0")
            for channel in jpeg[at + 1 : end : 2]:
                if not progressive or not bits & 15:
                    complete[channel] |= set(range(low, high + 1)) if progressive else {*range(64)}
    if not channels or any(len(complete[channel]) < 64 for channel in channels):
        return []
    body = jpeg.rstrip(b"\xff")
    endings = [body + _END, body + _NOISE + _END]
    if restarts:
        seen = re.findall(rb"\xff[\xd0-\xd7]", body[last:])
        following = 0xD0 + (seen[-1][1] + 1) % 8 if seen else 0xD0
        endings.append(body + bytes((0xFF, following)) + _NOISE + _END)
    return endings
