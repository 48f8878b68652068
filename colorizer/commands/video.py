"""Read films with FFmpeg: their properties, frames and packets, and what of them is damaged."""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np
from av.container import InputContainer
from av.stream import Disposition
from numpy.typing import NDArray

from colorizer.errors import UserError

RGB = NDArray[np.uint8]

# FFmpeg's numbers of the YUV matrices that swscale computes, and their names in its filters.
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
BT709, BT601, FULL_RANGE = 1, 6, 2
# FFmpeg's formats that turn text into pictures; they accept many text files.
TEXT_ART = {"tty", "bin", "adf", "idf", "xbin"}
NOT_A_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
TS_DISCONT = 0x0200  # FFmpeg's flag of formats whose clock begins anywhere and may jump
LOOK = 10  # first frames to inspect: an interlaced film may begin with a progressive one
# Seconds; a clock that jumps further, or back, was reset: FFmpeg's command has the same limits.
JUMP, BACK = 10, Fraction(1, 10)


class FilmError(UserError):
    """A film that can't be read or written."""


@dataclass(frozen=True)
class Film:
    """Properties of a film, known before its frames are read.

    Attributes:
        track: index of the picture's stream.
        rate: frames a second, for frames without a time.
        frames: their approximate number.
        end: seconds at which it ends, by its header; None if that doesn't tell.
        start: seconds at which the film begins, in containers whose clock begins anywhere.
        matrix: FFmpeg's number of the YUV matrix, one of MATRICES.
        fields: which field comes first, if the film is interlaced.
        display_matrix: how players turn the picture; None for upright films.
        turns: quarter turns, anticlockwise, that make a frame upright.
    """

    path: Path
    track: int
    width: int
    height: int
    rate: Fraction
    time_base: Fraction
    frames: int
    end: Fraction | None
    start: Fraction
    sample_aspect: Fraction | None
    matrix: int
    full_range: bool
    primaries: int
    transfer: int
    fields: Literal["tff", "bff"] | None
    display_matrix: tuple[int, ...] | None
    turns: int
    has_alpha: bool


@dataclass
class Tally:
    """What was read so far."""

    times: list[tuple[int, int]] = field(default_factory=list)  # (pts, duration) of each frame
    end: Fraction = Fraction(0)  # seconds at which the last packet of any track ends
    damaged: int = 0  # packets that couldn't be decoded
    repaired: int = 0  # frames that the decoder patched up
    broken: str | None = None  # FFmpeg's error that ended reading early

    def problems(self, film: Film) -> list[str]:
        """Describe what is missing of a film."""
        lines = []
        if self.damaged:
            lines.append(f"{self.damaged} damaged packet{_were(self.damaged)} skipped")
        if self.repaired:
            lines.append(f"{self.repaired} damaged frame{_were(self.repaired)} patched up")
        if self.broken is not None:
            lines.append(f"the film breaks off: {self.broken}")
        elif film.end is not None and self.end < film.end - max(2 / film.rate, Fraction(1, 10)):
            read, whole = float(self.end), float(film.end)
            lines.append(f"the film breaks off after {read:.1f} of {whole:.1f} s")
        return lines


def _were(count: int) -> str:
    return " was" if count == 1 else "s were"


def open_film(path: Path) -> InputContainer:
    """Open a film by its path, even if that looks like a URL.

    Raises:
        FilmError: if FFmpeg can't read it, or it isn't a film.
    """
    try:
        # Old tags may be in any encoding: their bytes are kept.
        film = av.open(f"file:{path.absolute()}", "r", metadata_errors="surrogateescape")
    except av.FFmpegError as error:
        reason = "" if isinstance(error, av.InvalidDataError) else f" ({error.strerror})"
        raise FilmError(f"{path} is not a film that FFmpeg can read{reason}") from None
    name = film.format.name
    if name in TEXT_ART:
        raise FilmError(f"{path} is not a film that FFmpeg can read: it is text")
    if name.endswith("_pipe") or name == "image2":
        raise FilmError(f"{path} is a picture, not a film; the command colorizer takes pictures")
    return film


def inspect(path: Path) -> Film:
    """Read the properties of a film, from its header and first frames.

    Raises:
        FilmError: if it can't be read, or holds no moving picture.
    """
    with open_film(path) as film:
        video = picture(film)
        if video is None:
            raise FilmError(f"{path} has no moving picture in it")
        frames = _first_frames(film, video, path)
        frame = frames[0]
        fields = [_field_order(one) for one in frames if one.interlaced_frame]
        rate = video.guessed_rate or video.average_rate or Fraction(25)
        start, length = (Fraction(n or 0, av.time_base) for n in (film.start_time, film.duration))
        matrix = frame.colorspace
        if matrix not in MATRICES:  # untagged: as players guess it
            matrix = BT709 if frame.width >= 1280 or frame.height > 576 else BT601
        turned: Any = frame.side_data.get("DISPLAYMATRIX")
        # Broadcasts begin at any hour; other containers count from their own zero.
        floating = film.format.flags & TS_DISCONT
        return Film(
            path=path,
            track=video.index,
            width=frame.width,
            height=frame.height,
            rate=rate,
            time_base=video.time_base or 1 / rate,
            frames=video.frames or round(length * rate) or _count(path, video.index),
            end=None if floating else length or None,
            start=start if floating else Fraction(0),
            sample_aspect=video.sample_aspect_ratio or None,
            matrix=matrix,
            full_range=frame.color_range == FULL_RANGE or frame.format.name.startswith("yuvj"),
            primaries=frame.color_primaries,
            transfer=frame.color_trc,
            fields=fields[0] if fields else None,
            display_matrix=struct.unpack("=9i", bytes(turned)[:36]) if turned else None,
            turns=round(frame.rotation / 90) % 4,
            has_alpha=any(one.is_alpha for one in frame.format.components),
        )


def picture(film: InputContainer) -> av.VideoStream | None:
    """Find the track to colorize; cover art and previews are video streams, too."""
    tracks = [one for one in film.streams.video if not one.disposition & NOT_A_FILM]
    best = film.streams.best("video")  # FFmpeg's choice; a picture of one frame comes last
    return best if best in tracks else tracks[0] if tracks else None


def _count(path: Path, track: int) -> int:
    with open_film(path) as film, contextlib.suppress(av.FFmpegError):
        return sum(1 for packet in film.demux(film.streams[track]) if packet.size)
    return 0


def _first_frames(film: InputContainer, video: Any, path: Path) -> list[av.VideoFrame]:
    frames: list[av.VideoFrame] = []
    reason, packets = "it holds none", film.demux(video)
    if video.codec_context is None:
        raise FilmError(f"{path}: FFmpeg has no decoder for its picture")
    while len(frames) < LOOK:
        try:
            packet = next(packets)
            frames += video.decode(packet)
        except av.FFmpegError as error:
            reason = str(error.strerror)
        except StopIteration:
            break
    if not frames:
        raise FilmError(f"{path} has no frame that can be read: {reason}")
    return frames


def graph(width: int, height: int, pixels: str, *filters: tuple[str, str]) -> Any:
    """Make a graph of FFmpeg's filters: their names and options, after a source of this form."""
    made = av.filter.Graph()
    source = f"video_size={width}x{height}:pix_fmt={pixels}:time_base=1/1000"
    nodes = [("buffer", source), *filters, ("buffersink", "")]
    made.link_nodes(*(made.add(name, options or None) for name, options in nodes)).configure()
    return made


def _pull(filters: Any) -> Iterator[av.VideoFrame]:
    """Take the frames that filters have ready."""
    with contextlib.suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield filters.vpull()


def _field_order(frame: av.VideoFrame) -> Literal["tff", "bff"]:
    # The frame knows, but only filters can ask it.
    only_top_first = ("select", "eq(interlace_type,1)")
    filters = graph(frame.width, frame.height, frame.format.name, only_top_first)
    filters.vpush(frame)
    filters.vpush(None)
    return "tff" if any(True for _ in _pull(filters)) else "bff"


def read_frames(
    source: InputContainer,
    film: Film,
    tally: Tally,
    copy: Callable[[Any], None],
    deinterlace: bool = False,
) -> Iterator[RGB]:
    """Decode a film's frames, in order.

    Args:
        source: the film, opened.
        film: what `inspect` found.
        tally: is filled with the frames' times and what was damaged.
        copy: gets the packets of all other tracks.
        deinterlace: whether to make whole frames of fields.

    Yields:
        (H, W, 3) uint8 each, all of one size.
    """
    frames = _decode(source, film, tally, copy)
    matrix = BT601 - 1 if film.matrix == BT601 else film.matrix  # swscale's number of the same
    for frame in _deinterlaced(frames, film) if deinterlace else frames:
        rgb = frame.reformat(
            film.width, film.height, "rgb24", src_colorspace=None if frame.format.is_rgb else matrix
        )
        yield np.asarray(rgb.to_ndarray(), np.uint8)


def _decode(
    source: InputContainer, film: Film, tally: Tally, copy: Callable[[Any], None]
) -> Iterator[av.VideoFrame]:
    video: Any = source.streams[film.track]
    video.thread_type = "SLICE"  # with frame threads, an error takes good frames along
    step = max(1, round(1 / film.rate / film.time_base))
    for packet in _packets(source, film, tally):
        if packet.stream.index != film.track:
            copy(packet)
            continue
        try:
            frames = video.decode(packet)
        except av.FFmpegError:
            tally.damaged += 1
            continue
        for frame in frames:
            pts = frame.pts
            if tally.times and (pts is None or pts <= tally.times[-1][0]):
                pts = sum(tally.times[-1])  # after the last frame
            tally.times.append((pts or 0, frame.duration or step))
            tally.repaired += frame.is_corrupt
            frame.pts = None
            yield frame


def _packets(source: InputContainer, film: Film, tally: Tally) -> Iterator[Any]:
    """Demux; the times of broadcasts begin at zero, and never jump."""
    shift, last = -film.start, Fraction(0)
    due: dict[int, Fraction] = {}  # when the next packet of each track should come
    floating = source.format.flags & TS_DISCONT
    try:
        for packet in source.demux():
            if floating and packet.dts is not None:
                now = packet.dts * packet.time_base + shift
                expected = due.get(packet.stream_index, last)
                if abs(now - last) > JUMP or now < expected - BACK:
                    shift, now = shift + expected - now, expected
                last = max(last, now)
                due[packet.stream_index] = now + (packet.duration or 0) * packet.time_base
                ticks = round(shift / packet.time_base)
                packet.dts += ticks
                if packet.pts is not None:
                    packet.pts += ticks
            if packet.pts is not None:
                end = (packet.pts + (packet.duration or 0)) * packet.time_base
                tally.end = max(tally.end, end)
            yield packet
    except av.FFmpegError as error:
        tally.broken = str(error.strerror)


def _deinterlaced(frames: Iterator[av.VideoFrame], film: Film) -> Iterator[av.VideoFrame]:
    """Deinterlace; the number of frames stays."""
    filters = None
    for count, frame in enumerate(frames):
        if filters is None:
            pixels = frame.format.name
            filters = graph(frame.width, frame.height, pixels, ("bwdif", "mode=send_frame"))
        frame = frame.reformat(film.width, film.height, pixels)
        frame.pts, frame.time_base = count, Fraction(1, 1000)
        filters.vpush(frame)
        yield from _pull(filters)
    if filters is not None:
        filters.vpush(None)
        yield from _pull(filters)
