"""Write films again with other pictures, with FFmpeg.

Frame times, size, pixel shape, rotation, colour tags, field order, sound, subtitles, chapters and
metadata are kept; what the new container can't hold is listed.
"""

from __future__ import annotations

import contextlib
import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer

from colorizer.commands.video import (
    FULL_RANGE,
    MATRICES,
    NOT_A_FILM,
    RGB,
    Film,
    FilmError,
    Tally,
    graph,
    open_film,
    picture,
)

# Containers that hold H.264 with any frame times, rotation, chapters and several tracks.
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = "18"  # x264's constant rate factor: visually lossless
# Tags that describe the old file, not the film.
OWN_TAGS = {"encoder", "software", "duration", "vendor_id"}
OWN_TAGS |= {"major_brand", "minor_version", "compatible_brands"}
OWN_TAGS |= {"bps", "number_of_frames", "number_of_bytes"}
AAC_RATES = {8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000}
TOLERANCE = 0.25  # seconds that a sound track's length may differ: containers cut it differently


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
        return graph(film.width, film.height, "rgb24", *filters)

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
        video: Any = picture(new)
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
