"""Read films, and write them again with other pictures, with FFmpeg.

Frame times, size, pixel shape, rotation, colour tags, field order, sound, subtitles, chapters and
metadata are kept; what the new container can't hold is listed.
"""

from __future__ import annotations

import contextlib
import io
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

# Containers that hold H.264 with any frame times, rotation, chapters and several tracks.
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = "18"  # x264's constant rate factor: visually lossless
# FFmpeg's numbers of the YUV matrices that swscale computes, and their names in its filters.
MATRICES = {1: "bt709", 4: "fcc", 5: "bt601", 6: "bt601", 7: "smpte240m", 9: "bt2020"}
BT709, BT601, FULL_RANGE = 1, 6, 2
# FFmpeg's formats that turn text into pictures; they accept many text files.
TEXT_ART = {"tty", "bin", "adf", "idf", "xbin"}
# Tags that describe the old file, not the film.
OWN_TAGS = {"encoder", "software", "duration", "vendor_id"}
OWN_TAGS |= {"major_brand", "minor_version", "compatible_brands"}
OWN_TAGS |= {"bps", "number_of_frames", "number_of_bytes"}
AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
NOT_A_FILM = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image
TS_DISCONT = 0x0200  # FFmpeg's flag of formats whose clock begins anywhere and may jump
LOOK = 10  # first frames to inspect: an interlaced film may begin with a progressive one
# Seconds; a clock that jumps further, or back, was reset: FFmpeg's command has the same limits.
JUMP, BACK = 10, Fraction(1, 10)
TOLERANCE = 0.25  # seconds that a sound track's length may differ: containers cut it differently


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
        video = _picture(film)
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


def _picture(film: InputContainer) -> av.VideoStream | None:
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


def _graph(width: int, height: int, pixels: str, *filters: tuple[str, str]) -> Any:
    graph = av.filter.Graph()
    source = f"video_size={width}x{height}:pix_fmt={pixels}:time_base=1/1000"
    nodes = [("buffer", source), *filters, ("buffersink", "")]
    graph.link_nodes(*(graph.add(name, options or None) for name, options in nodes)).configure()
    return graph


def _pull(graph: Any) -> Iterator[av.VideoFrame]:
    """Take the frames that a graph has ready."""
    with contextlib.suppress(av.BlockingIOError, av.EOFError):
        while True:
            yield graph.vpull()


def _field_order(frame: av.VideoFrame) -> Literal["tff", "bff"]:
    # The frame knows, but only filters can ask it.
    only_top_first = ("select", "eq(interlace_type,1)")
    graph = _graph(frame.width, frame.height, frame.format.name, only_top_first)
    graph.vpush(frame)
    graph.vpush(None)
    return "tff" if any(True for _ in _pull(graph)) else "bff"


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
            film.width,
            film.height,
            "rgb24",
            src_colorspace=None if frame.format.is_rgb else matrix,
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
    graph = None
    for count, frame in enumerate(frames):
        if graph is None:
            pixels = frame.format.name
            graph = _graph(frame.width, frame.height, pixels, ("bwdif", "mode=send_frame"))
        frame = frame.reformat(film.width, film.height, pixels)
        frame.pts, frame.time_base = count, Fraction(1, 1000)
        graph.vpush(frame)
        yield from _pull(graph)
    if graph is not None:
        graph.vpush(None)
        yield from _pull(graph)


class Writer:
    """A film that is being written: pictures in H.264, all other tracks unchanged.

    Attributes:
        notes: lines about what the container can't hold unchanged.
    """

    def __init__(
        self, path: Path, film: Film, source: InputContainer, deinterlace: bool = False
    ) -> None:
        """Choose the tracks and write the header.

        Raises:
            FilmError: if the container can't hold the film's sound, but another one can.
            av.FFmpegError: if the file can't be written.
        """
        self._film = film
        self._fields = None if deinterlace else film.fields
        kind = FORMATS[path.suffix.lower()]
        self.notes = ["left out: transparency, which H.264 lacks"] if film.has_alpha else []
        self._file = av.open(
            f"file:{path.absolute()}", "w", format=kind, metadata_errors="surrogateescape"
        )
        self._file.metadata.update(_kept_tags(source.metadata))
        self._chapters = source.chapters()
        self._file.set_chapters(self._chapters)
        self._video = self._picture_track(source.streams[film.track])
        self.copied: list[Any] = []  # the old tracks
        self._copies: dict[int, Any] = {}  # the new ones, by the old one's index
        self._encoded: dict[int, Any] = {}  # those that are encoded anew
        self._last: dict[int, tuple[int, int]] = {}  # begin and end of each one's last packet
        self.spans: dict[int, list[Fraction]] = {}  # where each sound begins and ends
        for stream in source.streams:
            if stream.index != film.track:
                self._add_track(stream, kind, path.suffix.lower())
        self._to_yuv = self._conversion()
        self._file.start_encoding()

    def _picture_track(self, old: Any) -> Any:
        film = self._film
        video: Any = self._file.add_stream("libx264", rate=film.rate)
        context = video.codec_context
        context.width, context.height = film.width, film.height
        # yuv420p has one colour for 2 x 2 pixels, of one field where there are two.
        even = film.width % 2 == 0 and film.height % (4 if self._fields else 2) == 0
        context.pix_fmt = "yuv420p" if even else "yuv444p"
        video.time_base = context.time_base = film.time_base
        if film.sample_aspect is not None:
            context.sample_aspect_ratio = film.sample_aspect
        context.color_range = FULL_RANGE if film.full_range else 1
        context.colorspace = film.matrix
        context.color_primaries, context.color_trc = film.primaries, film.transfer
        context.flags |= av.codec.context.Flags.frame_duration
        # Frames that are stored out of order make .mp4 end too early where frame times vary.
        options = {"crf": QUALITY, "bf": "0"}
        if self._fields:
            order = {"tff": "tt", "bff": "bb"}[self._fields]
            options |= {"flags": "+ildct+ilme", "field_order": order}
            options["x264-params"] = f"{self._fields}=1"
        context.options = options
        if film.display_matrix is not None:
            video.set_display_matrix(film.display_matrix)
        video.metadata.update(_kept_tags(old.metadata))
        video.disposition = old.disposition
        return video

    def _add_track(self, stream: Any, kind: str, suffix: str) -> None:
        """Copy a track if the container can hold it; else encode its sound anew, or leave it out.

        Raises:
            FilmError: if it is sound that another container can hold unchanged.
        """
        codec = stream.codec_context.name if stream.codec_context else stream.name or "unknown"
        what = f"track {stream.index} ({stream.type}, {codec})"
        if stream.type == "video" and not stream.disposition & NOT_A_FILM:
            self.notes.append(f"left out: {what}; only one picture track is colorized")
            return
        if stream.type == "data" and ("timecode" in stream.metadata or self._chapters):
            return  # FFmpeg makes tracks of time codes and chapters itself
        others = [one for one in (".mkv", ".mov") if one != suffix]
        if _fits(stream, kind):
            if kind == "matroska" and stream.type == "video":
                self._attach(stream)
            else:
                out = self._file.add_stream_from_template(stream, True)
                self._copies[stream.index] = out
        elif better := [one for one in others if _fits(stream, FORMATS[one])]:
            if stream.type == "audio":
                raise FilmError(
                    f"its sound ({codec}) does not fit {suffix}; write --out "
                    f"{self._film.path.stem}-colour{better[0]} instead"
                )
            self.notes.append(f"left out: {what}; {suffix} cannot hold it, {better[0]} can")
            return
        elif stream.type == "audio" and stream.codec_context:
            self._encoded[stream.index] = self._encode_sound(stream)
            self.notes.append(f"{what} is encoded as AAC, as no container takes it as it is")
        else:
            self.notes.append(f"left out: {what}; {suffix} cannot hold it")
            return
        self.copied.append(stream)
        if new := self._copies.get(stream.index) or self._encoded.get(stream.index):
            new.metadata.update(_kept_tags(stream.metadata))
            new.disposition = stream.disposition

    def _encode_sound(self, old: Any) -> Any:
        rate = old.rate if old.rate in AAC_RATES else 48000
        layout = {1: "mono", 2: "stereo"}.get(old.channels, old.layout.name)
        sound: Any = self._file.add_stream("aac", rate=rate, layout=layout)
        sound.bit_rate = 96000 * min(old.channels, 8)
        return sound

    def _attach(self, cover: Any) -> None:
        """Attach cover art as Matroska files have it: as a file."""
        with open_film(self._film.path) as film:
            packets = film.demux(film.streams[cover.index])
            picture = next((bytes(packet) for packet in packets if packet.size), b"")
        kind = "png" if cover.codec_context.name == "png" else "jpeg"
        self._file.add_attachment(f"cover.{kind.replace('e', '')}", f"image/{kind}", picture)

    def _conversion(self) -> Any:
        film, interlaced = self._film, self._fields is not None
        scale = f"out_color_matrix={MATRICES[film.matrix]}:interl={int(interlaced)}"
        scale += f":out_range={'full' if film.full_range else 'limited'}:flags=bicubic+accurate_rnd"
        fields = ("setparams", f"field_mode={self._fields or 'prog'}")
        filters = [("scale", scale), ("format", self._video.codec_context.pix_fmt), fields]
        return _graph(film.width, film.height, "rgb24", *filters)

    def add(self, rgb: RGB, pts: int, duration: int) -> None:
        """Encode a frame: (H, W, 3) uint8, with its time in the film's time base."""
        self._to_yuv.vpush(av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24"))
        frame = self._to_yuv.vpull()
        frame.pts, frame.duration, frame.time_base = pts, duration, self._film.time_base
        self._file.mux(self._video.encode(frame))

    def copy(self, packet: Any) -> None:
        """Copy a packet of another track."""
        index = packet.stream.index
        if packet.size and packet.stream.type == "audio" and packet.pts is not None:
            begin = packet.pts * packet.time_base
            end = begin + (packet.duration or 0) * packet.time_base
            span = self.spans.setdefault(index, [begin, end])
            span[1] = max(span[1], end)
        if index in self._encoded:
            with contextlib.suppress(av.InvalidDataError):  # damaged sound is silence
                for frame in packet.decode():
                    self._file.mux(self._encoded[index].encode(frame))
        if index not in self._copies or not packet.size:
            return
        last, due = self._last.get(index, (None, 0))
        if packet.dts is None or (last is not None and packet.dts <= last):  # no time, or no order
            packet.pts = packet.dts = due
        self._last[index] = packet.dts, packet.dts + (packet.duration or 1)
        packet.stream = self._copies[index]
        self._file.mux(packet)

    def finish(self) -> None:
        """Flush the encoders and complete the file."""
        for track in (self._video, *self._encoded.values()):
            self._file.mux(track.encode(None))
        self._file.close()

    def abandon(self) -> None:
        """Close an incomplete file."""
        with contextlib.suppress(av.FFmpegError, ValueError):
            self._file.close()


def _kept_tags(tags: dict[str, str]) -> dict[str, str]:
    kept = {}
    for key, value in tags.items():
        plain = key.lower().split("-")[0]  # Matroska's may end in a language: BPS-eng
        if plain not in OWN_TAGS and not plain.startswith("_statistics"):
            kept[key] = value
    return kept


def _fits(stream: Any, kind: str) -> bool:
    """Whether a kind of container can hold a track; only writing a header tells."""
    trial: Any = av.open(io.BytesIO(), "w", format=kind, metadata_errors="surrogateescape")
    try:
        trial.add_stream_from_template(stream, True)
        trial.start_encoding()
    except (av.FFmpegError, ValueError):
        return False
    finally:
        with contextlib.suppress(av.FFmpegError, ValueError):
            trial.close()
    return True


def verify(path: Path, film: Film, tally: Tally, writer: Writer) -> list[str]:
    """Open the new film, and compare it with what was read.

    Returns:
        Harmless losses: covers, titles, languages, tags.

    Raises:
        FilmError: if frames or sound tracks are missing, or have another length.
    """
    times: list[Fraction] = []
    ends: dict[int, list[Fraction]] = {}
    with open_film(path) as new:
        video: Any = _picture(new)
        for packet in new.demux():
            if packet.size and packet.pts is not None:
                now = packet.pts * packet.time_base
                if packet.stream_index == video.index:
                    times.append(now)
                span = ends.setdefault(packet.stream_index, [now, now])
                span[1] = max(span[1], now + (packet.duration or 0) * packet.time_base)
        tracks = [one for one in new.streams if one.index != video.index]
        lost = _lost_tracks(writer.copied, tracks)
        new_sound = [one.index for one in tracks if one.type == "audio"]
        tags = {key.lower() for key in new.metadata}
    if len(times) != len(tally.times):
        raise FilmError(f"{len(tally.times)} frames were read, but {len(times)} written")
    first, last = (tally.times[index][0] * film.time_base for index in (0, -1))
    _compare("picture", max(times) - min(times), last - first, 0.01)
    old_sound = [one.index for one in writer.copied if one.type == "audio"]
    if len(new_sound) < len(old_sound):
        raise FilmError(f"{len(old_sound)} sound tracks were read, but {len(new_sound)} written")
    for old, index in zip(old_sound, new_sound, strict=True):
        begin, end = writer.spans.get(old, (Fraction(0), Fraction(0)))
        written = ends.get(index, [Fraction(0), Fraction(0)])
        _compare("sound", written[1] - written[0], end - begin, TOLERANCE)
    with open_film(film.path) as source:
        lost += [f"tag {key}" for key in _kept_tags(source.metadata) if key.lower() not in tags]
    return lost


def _compare(what: str, now: Fraction, before: Fraction, tolerance: float) -> None:
    if abs(now - before) > tolerance:
        raise FilmError(f"its {what} would last {float(now):.2f} s, not {float(before):.2f} s")


def _lost_tracks(old: list[Any], new: list[Any]) -> list[str]:
    """List covers, fonts, languages and titles that a container silently dropped."""
    lost = []
    for kind in {one.type for one in old}:
        mine = [one for one in new if one.type == kind]
        for number, one in enumerate(track for track in old if track.type == kind):
            if number >= len(mine):
                lost.append(f"track {one.index} ({kind})")
                continue
            for key in ("language", "title"):
                value = _tag(one, key)
                if value not in ("", "und", _tag(mine[number], key)):
                    lost.append(f"{key} {value!r} of track {one.index} ({kind})")
    return lost


def _tag(track: Any, key: str) -> str:
    return next((value for name, value in track.metadata.items() if name.lower() == key), "")
