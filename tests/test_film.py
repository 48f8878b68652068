"""Films: colour without flicker, and everything else kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.stream import Disposition

from colorizer import engines, lab
from colorizer.commands import film, video, writer
from colorizer.hints import Hint
from colorizer.recipe import HEADS, Head
from evaluation.methods import eager_pipeline
from tests.support import Capture, Patch, Terminal, Weights, encoded, picture
from tests.test_client import serving

FRAMES = 12
ORANGE = (200, 110, 50)  # what the stand-in for a network paints


def grainy(count: int = FRAMES, height: int = 50, width: int = 64) -> list[np.ndarray]:
    """Make (H, W, 3) uint8 each: a still picture with an old film's grain."""
    rng = np.random.default_rng(0)
    still = picture(height, width).astype(float)
    frames = [np.clip(still + rng.normal(0, 5, still.shape), 0, 255) for _ in range(count)]
    return [np.repeat(one.astype(np.uint8)[..., None], 3, axis=2) for one in frames]


def make(
    name: str | Path,
    codec: str = "libx264",
    *,
    count: int = FRAMES,
    size: tuple[int, int] = (64, 48),
    rate: int = 25,
    pixels: str = "yuv420p",
    times: list[int] | None = None,
    fields: str | None = None,
    options: dict[str, str] | None = None,
    context: dict[str, Any] | None = None,
    rotation: int = 0,
    sound: str | None = None,
    tracks: int = 1,
    cover: bool = False,
    rich: bool = False,
    title: str = "Großmutter",
) -> None:
    """Write a small film; times are milliseconds, rich ones have tags, titles and chapters."""
    width, height = size
    base = Fraction(1, 1000) if times else Fraction(1, rate)
    with av.open(f"file:{Path(name).absolute()}", "w", metadata_errors="surrogateescape") as out:
        out.metadata.update(title=title, comment="1912")
        if rich:
            out.set_chapters([chapter(0, 200, "Hof"), chapter(200, 480, "Garten")])
        if cover:
            art = out.add_stream("mjpeg", rate=1, width=32, height=32)
            art.pix_fmt, art.disposition = "yuvj420p", Disposition.attached_pic
        stream: Any = out.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = base
        for key, value in (context or {}).items():
            setattr(stream.codec_context, key, value)
        if rotation:
            stream.set_display_rotation(rotation)
        if fields:
            stream.options = {"flags": "+ildct+ilme"}
        sounds: list[Any] = []
        for language in ("ger", "fre")[: tracks if sound else 0]:
            heard: Any = out.add_stream(sound, rate=16000, layout="mono")
            if rich:
                heard.metadata.update(language=language, title=f"Ton {language}")
            sounds.append(heard)
        if cover:
            still = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            still.pts = 0
            out.mux([*art.encode(still), *art.encode(None)])
        mode = ("setparams", f"field_mode={fields or 'prog'}")
        convert = video.graph(width, height, "rgb24", ("format", pixels), mode)
        for number, rgb in enumerate(grainy(count, height, width)):
            convert.vpush(av.VideoFrame.from_ndarray(rgb))
            frame = convert.vpull()
            frame.pts, frame.time_base = times[number] if times else number, base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
        for heard in sounds:
            out.mux([*heard.encode(tone(heard.format.name, count / rate)), *heard.encode(None)])


def chapter(start: int, end: int, title: str) -> Any:
    times = {"start": start, "end": end, "time_base": Fraction(1, 1000)}
    return {"id": start + 1, "metadata": {"title": title}, **times}


def tone(kind: str, seconds: float) -> av.AudioFrame:
    wave = np.sin(np.arange(int(16000 * seconds)) / 5)[None]
    wave = wave.astype(np.float32) if "flt" in kind else (wave * 9000).astype(np.int16)
    frame = av.AudioFrame.from_ndarray(wave, format=kind, layout="mono")
    frame.sample_rate, frame.pts = 16000, 0
    return frame


class Seen:
    """A film as a player sees it."""

    def __init__(self, name: str | Path) -> None:
        path = f"file:{Path(name).absolute()}"
        with av.open(path) as one:
            self.duration = one.duration / 1e6 if one.duration else 0.0
            self.tags = {key.lower(): value for key, value in one.metadata.items()}
            self.chapters = [chapter["metadata"]["title"] for chapter in one.chapters()]
            self.tracks = [
                (s.type, s.metadata.get("language"), s.metadata.get("title")) for s in one.streams
            ]
            self.attached = [s.index for s in one.streams if s.disposition & video.NOT_A_FILM]
            track: Any = next(s for s in one.streams.video if s.index not in self.attached)
            self.shape = track.sample_aspect_ratio
            frames = list(one.decode(track))
        with av.open(path) as one:
            packets = one.demux(audio=0) if one.streams.audio else []
            self.sound = b"".join(bytes(packet) for packet in packets)
        self.times = [round(float(f.pts * f.time_base), 3) for f in frames]
        self.frames = len(frames)
        first = frames[0]
        self.rotation = first.rotation
        self.colour = (
            *(first.colorspace, first.color_primaries),
            *(first.color_trc, first.color_range),
        )
        matrix = {2: None, 6: 5}.get(first.colorspace, first.colorspace)
        self.pictures = [
            np.asarray(f.reformat(format="rgb24", src_colorspace=matrix).to_ndarray())
            for f in frames
        ]
        self.fields = video._field_order(first) if first.interlaced_frame else None


class Desk:
    """The command in an empty folder; frames are painted orange, not by a network."""

    def __init__(self, capfd: Capture) -> None:
        self.painted: list[tuple[int, ...]] = []  # shapes
        self._capfd = capfd

    def paint(
        self, pipeline: Any, frames: Iterable[np.ndarray], **settings: Any
    ) -> Iterator[np.ndarray]:
        for rgb in frames:
            self.painted.append(rgb.shape)
            yield np.full_like(rgb, ORANGE)

    def __call__(self, *arguments: str, code: int = 0) -> str:
        """Run the command, which is to end with an exit code; returns what it tells."""
        assert film.main(arguments) == code
        return self._capfd.readouterr().err


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: Patch) -> Path:
    """An empty folder, where films are named without it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def desk(monkeypatch: Patch, capfd: Capture) -> Desk:
    one = Desk(capfd)
    monkeypatch.setattr(film, "colorize_frames", one.paint)
    monkeypatch.setattr(film, "_load", lambda model, device: None)
    return one


# --- colour


@pytest.mark.parametrize(
    ("size", "sound", "out"),
    [((64, 50), "aac", "new.mp4"), ((63, 51), "aac", "new.mp4"), ((64, 50), None, "new.mkv")],
)
def test_a_film_keeps_its_frames_times_size_and_sound_and_gets_colour(
    archives: Path, folder: Path, size: tuple[int, int], sound: str | None, out: str
) -> None:
    make("old.mp4", size=size, rate=16, pixels="yuv444p", sound=sound)  # as silent films ran
    assert film.main(["old.mp4", "--out", out, "--model", str(archives / "colorize.mar")]) == 0
    old, new = Seen("old.mp4"), Seen(out)
    assert new.frames == FRAMES
    assert new.times == pytest.approx(old.times, abs=0.002)
    assert new.pictures[0].shape == (*size[::-1], 3)
    assert new.sound == old.sound
    assert (len(new.sound) > 1000) == (sound is not None)
    assert np.ptp(new.pictures[0].astype(int), axis=2).max() > 8
    light = [lab.rgb_to_lightness(one.pictures[5]) for one in (old, new)]
    assert np.abs(light[0] - light[1]).mean() < 2
    assert {path.name for path in folder.iterdir()} == {"old.mp4", out}


def flicker(pictures: Sequence[np.ndarray], frames: Sequence[np.ndarray]) -> float:
    """Mean change of ab between frames, over pixels whose L moves by less than film.STILL / 2."""
    changes = []
    for (one, frame), (other, next_frame) in pairwise(zip(pictures, frames, strict=True)):
        moved = np.abs(lab.rgb_to_lightness(next_frame) - lab.rgb_to_lightness(frame))
        ab = (lab.rgb_to_lab(other) - lab.rgb_to_lab(one))[..., 1:]
        changes.append(np.linalg.norm(ab, axis=-1)[moved < film.STILL / 2])
    return float(np.concatenate(changes).mean())


def test_colour_flickers_less_than_frame_by_frame(weights: Weights) -> None:
    pipeline, frames = eager_pipeline(weights("regression")), grainy(6, 200, 256)
    alone, held = (list(film.colorize_frames(pipeline, frames, hold)) for hold in (0.0, film.HOLD))
    # Not by much here: a random network's colours follow each grain of L through the guided filter.
    assert flicker(held, frames) < flicker(alone, frames)
    # and what is held is the colour itself: no drift to grey
    spread = [float(np.ptp(one[-1].astype(int), axis=2).mean()) for one in (alone, held)]
    assert spread[1] == pytest.approx(spread[0], rel=0.25)


def test_a_network_that_wavers_is_steadied_to_a_fifth() -> None:
    rng = np.random.default_rng(0)
    light = [np.full((32, 32), 50, np.float32) + rng.normal(0, 0.5, (32, 32)) for _ in range(60)]
    wavering = [rng.normal(20, 5, (2, 32, 32)).astype(np.float32) for _ in light]
    steady = film.TemporalFilter()
    held = [steady(one.astype(np.float32), ab) for one, ab in zip(light, wavering, strict=True)]
    before, after = (np.abs(np.diff(np.array(ab)[30:], axis=0)).mean() for ab in (wavering, held))
    assert after < 0.2 * before
    assert np.mean(held[30:]) == pytest.approx(20, abs=0.2)


def test_colours_are_held_where_nothing_moves_and_begin_anew_where_it_does() -> None:
    light = np.full((4, 4), 50, np.float32)
    red, blue = (np.full((2, 4, 4), value, np.float32) for value in (40, -40))
    steady = film.TemporalFilter(hold=0.75)
    assert np.array_equal(steady(light, red), red)
    assert np.allclose(steady(light, blue), 0.75 * 40 + 0.25 * -40)
    moved = light.copy()
    moved[0, 0] = 80
    third = steady(moved, blue)
    assert third[0, 0, 0] == pytest.approx(-40, abs=0.01)
    assert third[0, 1, 1] > -20
    cut = np.full((4, 4), 90, np.float32)
    assert np.array_equal(steady(cut, red), red)


def test_a_hint_follows_what_it_lies_on_until_a_cut() -> None:
    """A bright blot on a dark, textured ground goes to the right; then the picture changes."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.normal(30, 20, (64, 64)).astype(np.float32), (0, 0), 2)
    blot = cv2.GaussianBlur(rng.normal(60, 40, (64, 64)).astype(np.float32), (0, 0), 1)
    hint = Hint(((0.25, 0.5),), (200, 60, 60))
    moving = film.MovingHints([(0.0, (hint,)), (2.0, (hint, hint))])
    places = []
    for number in range(12):
        frame = ground.copy()
        left = 8 + 2 * number
        frame[24:40, left : left + 16] = blot[24:40, 8:24] + 20
        ((x, y),) = moving(number / 16, np.clip(frame, 0, 100))[0].points
        places.append((x, y))
    expected = [(0.25 + 2 * number / 64, 0.5) for number in range(12)]
    assert np.abs(np.array(places) - expected).max() < 0.04
    assert moving(0.8, 100 - np.clip(ground, 0, 100)) == ()
    assert len(moving(2.0, 100 - np.clip(ground, 0, 100))) == 2


@pytest.mark.parametrize("head", HEADS)
def test_a_films_hints_are_of_the_first_shot_or_of_several(
    head: Head, weights: Weights, monkeypatch: Patch
) -> None:
    pipeline = eager_pipeline(weights(head))
    monkeypatch.setattr(film, "_load", lambda model, device: pipeline)
    make("old.mkv", count=6, size=(64, 50))
    red = {"x": 0.2, "y": 0.25, "color": "#d02020"}
    Path("all.json").write_text(json.dumps([red]))
    Path("late.json").write_text(json.dumps([{"at": 0.2, "hints": [red]}]))
    colours = []
    for name in ("all", "late"):
        arguments = ["old.mkv", "--out", f"{name}.mp4", "--hints", f"{name}.json"]
        assert film.main(arguments) == 0
        frames = Seen(f"{name}.mp4").pictures
        places = [frame[10:15, 10:15].mean(axis=(0, 1)) for frame in frames]
        colours.append([r - b for r, _, b in places])
    redder = np.subtract(*colours)
    assert redder[:3].min() > 40
    assert np.abs(redder[-1]) < redder[:3].min() / 3  # colours fade over several frames


def test_chroma_is_the_strength_of_the_colours(weights: Weights) -> None:
    pipeline, frames = eager_pipeline(weights("regression")), grainy(1)
    spreads = [
        float(np.ptp(next(film.colorize_frames(pipeline, frames, 0, chroma)).astype(int), 2).mean())
        for chroma in (0.0, 1.0, 2.0)
    ]
    assert spreads[0] < 1
    assert spreads[0] + 3 < spreads[1] < spreads[2]


# --- the picture's properties


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_pixel_shape_and_rotation_are_kept(desk: Desk, rotation: int, suffix: str) -> None:
    shape = {"sample_aspect_ratio": Fraction(16, 11)}
    make("old.mp4", count=2, rotation=rotation, context=shape)
    desk("old.mp4", "--out", f"new{suffix}")
    seen = Seen(f"new{suffix}")
    assert (seen.shape, abs(seen.rotation)) == (Fraction(16, 11), abs(rotation))
    assert seen.rotation == Seen("old.mp4").rotation
    # the network sees it upright
    assert desk.painted[0] == ((64, 48, 3) if abs(rotation) == 90 else (48, 64, 3))


def test_a_turned_film_is_painted_where_it_should_be(desk: Desk, monkeypatch: Patch) -> None:
    def half(pipeline: Any, frames: Iterable[np.ndarray], **_: Any) -> Iterator[np.ndarray]:
        for rgb in frames:
            rgb = np.zeros_like(rgb)
            rgb[: len(rgb) // 2] = 255  # white above
            yield rgb

    monkeypatch.setattr(film, "colorize_frames", half)
    make("old.mp4", count=1, rotation=-90)  # as phones do it: to be turned clockwise
    desk("old.mp4")
    (stored,) = Seen("old-colour.mp4").pictures
    assert stored[:, :28].mean() > 200  # turned clockwise, the left side is above
    assert stored[:, 36:].mean() < 50


@pytest.mark.parametrize(
    ("tags", "size", "matrix"),
    [
        ((1, 1, 1, 1), (1280, 720), 1),
        ((1, 1, 1, 1), (64, 48), 1),
        ((5, 5, 6, 1), (64, 48), 5),
        ((5, 5, 6, 2), (64, 48), 5),
        ((6, 6, 6, 1), (64, 48), 6),
        ((7, 7, 7, 1), (64, 48), 7),
        ((9, 9, 14, 1), (64, 48), 9),
        ((2, 2, 2, 0), (64, 48), 6),  # untagged: the matrix that players assume, and its tag
        ((2, 2, 2, 0), (1280, 720), 1),
    ],
)
def test_colour_tags_are_kept_and_colours_are_written_by_the_matrix_that_is_tagged(
    desk: Desk, tags: tuple[int, ...], size: tuple[int, int], matrix: int
) -> None:
    names = ("colorspace", "color_primaries", "color_trc", "color_range")
    make("old.mp4", count=1, size=size, context=dict(zip(names, tags, strict=True)))
    desk("old.mp4")
    seen = Seen("old-colour.mp4")
    assert seen.colour == (matrix, *tags[1:3], tags[3] or 1)
    assert np.abs(seen.pictures[0].mean(axis=(0, 1)) - ORANGE).max() < 4


@pytest.mark.parametrize("fields", ["tff", "bff"])
@pytest.mark.parametrize(
    ("name", "codec", "size", "suffix"),
    [
        ("old.mp4", "libx264", (64, 48), ".mp4"),
        ("old.mpg", "mpeg2video", (64, 48), ".mkv"),
        ("old.avi", "dvvideo", (720, 576), ".mp4"),
    ],
)
def test_interlaced_films_keep_their_fields_or_are_deinterlaced(
    desk: Desk, name: str, codec: str, size: tuple[int, int], suffix: str, fields: str
) -> None:
    make(name, codec, count=4, size=size, fields=fields)
    order = {"tff": "top", "bff": "bottom"}[fields]
    assert f"is interlaced, {order} field first" in desk(name, "--out", f"new{suffix}")
    assert "is interlaced" not in desk(name, "--out", f"whole{suffix}", "--deinterlace")
    new, whole = Seen(f"new{suffix}"), Seen(f"whole{suffix}")
    assert (new.fields, whole.frames, whole.fields) == (fields, 4, None)
    assert whole.times == new.times


# --- times


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "rate", "seconds"),
    [("old.h264", "libx264", "yuv420p", 16, 1.25), ("old.mjpeg", "mjpeg", "yuvj420p", 25, 0.8)],
)
def test_frames_without_times_get_them_from_the_rate(
    desk: Desk, name: str, codec: str, pixels: str, rate: int, seconds: float
) -> None:
    make(name, codec, count=20, rate=rate, pixels=pixels)
    desk(name)
    seen = Seen("old-colour.mp4")
    assert (seen.frames, seen.duration) == (20, pytest.approx(seconds))
    assert np.ptp(np.diff(seen.times)) < 0.002


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_variable_frame_rate_keeps_its_times(desk: Desk, suffix: str) -> None:
    times = [500, 540, 550, 630, 633, 900, 980, 1000, 1400, 1500, 2000, 2500]
    make("old.mkv", times=times)
    desk("old.mkv", "--out", f"new{suffix}")
    seen = Seen(f"new{suffix}")
    assert seen.times == [one / 1000 for one in times]
    # up to the end of the last frame; .mov and .mp4 do not count what is before the first
    assert seen.duration == pytest.approx(2.54, abs=0.51)
    assert seen.duration > 2.03


def test_a_broadcast_begins_at_zero_and_its_clock_may_be_set_anew(desk: Desk) -> None:
    hour = 3_600_000
    for name, start in (("a.ts", 10 * hour), ("b.ts", 20 * hour), ("c.ts", 5 * hour)):
        make(name, times=[start + 40 * number for number in range(FRAMES)])
    Path("old.ts").write_bytes(b"".join(Path(f"{one}.ts").read_bytes() for one in "abc"))
    desk("old.ts")
    seen = Seen("old-colour.mp4")
    assert (seen.frames, seen.times[0]) == (3 * FRAMES, 0)
    assert np.diff(seen.times).min() > 0.001
    assert seen.duration == pytest.approx(3 * FRAMES / 25, abs=0.2)


# --- damage


def overwrite(name: str, number: int, value: bytes, kept: float) -> None:
    """Overwrite a packet of the picture in a file, but for its first share."""
    with av.open(name) as one:
        packet = [packet for packet in one.demux(video=0) if packet.size][number]
        assert packet.pos is not None
        begin, end = packet.pos + max(8, int(kept * packet.size)), packet.pos + packet.size
    body = bytearray(Path(name).read_bytes())
    body[begin:end] = value * (end - begin)
    Path(name).write_bytes(body)


@pytest.mark.parametrize(
    ("name", "codec", "pixels", "number"),
    [
        ("old.mp4", "libx264", "yuv420p", 5),
        ("old.mp4", "libx264", "yuv420p", 11),
        ("old.mov", "prores_ks", "yuv422p10le", 5),
        ("old.mov", "mjpeg", "yuvj420p", 0),
    ],
)
def test_a_damaged_packet_is_skipped_and_counted(
    desk: Desk, name: str, codec: str, pixels: str, number: int
) -> None:
    make(name, codec, pixels=pixels, options={"bf": "0"}, sound="aac")
    whole = Seen(name).times
    overwrite(name, number, b"\xff", kept=0)
    assert "1 damaged packet was skipped" in desk(name, code=1)
    assert Seen("old-colour.mp4").times == [*whole[:number], *whole[number + 1 :]]


def test_a_frame_that_the_decoder_patched_up_is_told(desk: Desk) -> None:
    make("old.mp4", options={"g": "1"})
    overwrite("old.mp4", 5, b"\0", kept=0.5)
    assert "1 damaged frame was patched up" in desk("old.mp4", code=1)
    assert Seen("old-colour.mp4").frames == FRAMES


@pytest.mark.parametrize("name", ["old.mkv", "old.avi"])
def test_a_film_that_breaks_off_is_told(desk: Desk, name: str) -> None:
    make(name, "mpeg4", count=40)
    body = Path(name).read_bytes()
    Path(name).write_bytes(body[: len(body) * 3 // 4])
    assert "the film breaks off after" in desk(name, code=1)
    assert 1 <= Seen("old-colour.mp4").frames < 38


# --- other tracks and tags


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_sound_tracks_languages_titles_chapters_and_tags_are_kept_or_listed(
    desk: Desk, suffix: str
) -> None:
    make("old.mkv", sound="aac", tracks=2, rich=True)
    told, seen = desk("old.mkv", "--out", f"new{suffix}"), Seen(f"new{suffix}")
    sounds = [track for track in seen.tracks if track[0] == "audio"]
    assert len(sounds) == 2
    for number, (_, language, name) in enumerate(sounds):
        old = ("ger", "fre")[number]
        assert language == old or f"language '{old}' of track {number + 1}" in told
        assert name == f"Ton {old}" or f"title 'Ton {old}' of track {number + 1}" in told
    if suffix != ".mov":  # its list of languages is Apple's own
        assert [language for _, language, _ in sounds] == ["ger", "fre"]
    assert seen.chapters == ["Hof", "Garten"]
    assert (seen.tags["title"], seen.tags["comment"]) == ("Großmutter", "1912")


@pytest.mark.parametrize(
    ("suffix", "kinds", "lost"),
    [
        (".mkv", ["video", "subtitle"], ""),
        (".mp4", ["video"], "left out: track 1 (subtitle, srt); .mp4 cannot hold it, .mkv can"),
    ],
)
def test_subtitles_are_kept_or_listed(desk: Desk, suffix: str, kinds: list[str], lost: str) -> None:
    Path("old.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nGrüße\n")
    make("plain.mkv")
    with (
        av.open("plain.mkv") as picture_,
        av.open("old.srt") as text,
        av.open("old.mkv", "w") as out,
    ):
        films = (picture_, text)
        tracks = [out.add_stream_from_template(one.streams[0], True) for one in films]
        for source, track in zip(films, tracks, strict=True):
            for packet in source.demux():
                if packet.size:
                    packet.stream = track
                    out.mux(packet)
    told = desk("old.mkv", "--out", f"new{suffix}")
    assert [kind for kind, _, _ in Seen(f"new{suffix}").tracks] == kinds
    assert lost in told
    assert bool(lost) == ("left out" in told)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_cover_art_is_never_the_film(desk: Desk, suffix: str) -> None:
    make("old.mp4", cover=True, sound="aac")
    told, seen = desk("old.mp4", "--out", f"new{suffix}"), Seen(f"new{suffix}")
    assert set(desk.painted) == {(48, 64, 3)}
    assert seen.frames == FRAMES
    assert bool(seen.attached) or "left out, as .mov" in told


def test_a_first_track_of_one_picture_is_not_the_film(desk: Desk) -> None:
    make("old.mkv", cover=True)  # written as a plain track of one frame
    desk("old.mkv")
    assert Seen("old-colour.mp4").frames == FRAMES


def test_tags_in_an_old_encoding_keep_their_bytes(desk: Desk) -> None:
    make("old.avi", "mpeg4", count=2, title="Gro\udcdfmutter")
    desk("old.avi", "--out", "new.mkv")
    with av.open("new.mkv", metadata_errors="surrogateescape") as one:
        assert one.metadata["title"] == "Gro\udcdfmutter"


def test_sound_that_does_not_fit_is_refused_before_work_with_what_holds_it(desk: Desk) -> None:
    make("old.mkv", sound="flac")
    told = desk("old.mkv", "--out", "new.mov", code=2)
    assert "its sound (flac) does not fit .mov; write --out old-colour.mkv" in told
    assert not desk.painted
    assert os.listdir() == ["old.mkv"]


def test_sound_that_fits_nowhere_is_encoded_anew_and_told(desk: Desk) -> None:
    make("old.avi", "mpeg4", count=40, sound="adpcm_ms")
    assert "track 1 (audio, adpcm_ms) is encoded as AAC" in desk("old.avi")
    with av.open("old-colour.mp4") as one:
        heard = np.concatenate([f.to_ndarray()[0] for f in one.decode(audio=0)])
    assert len(heard) == pytest.approx(16000 * 1.6, rel=0.1)
    assert np.abs(heard[4000:20000]).mean() > 0.1


# --- the command


@pytest.mark.parametrize("name", ["new.avi", "new.webm", "new.ts", "new.gif", "new"])
def test_containers_that_cannot_hold_every_film_are_refused_and_those_that_do_are_named(
    desk: Desk, name: str
) -> None:
    make("old.mp4", count=1)
    assert ".mp4, .m4v, .mov or .mkv" in desk("old.mp4", "--out", name, code=2)
    assert not desk.painted


@pytest.mark.parametrize(
    "name",
    ["2021-05-04T12:30:00.mp4", "file:x.mp4", "concat:a|b.mp4", "a%03d.mp4", "caf\udce9.mp4"],
)
def test_a_path_is_always_a_path(desk: Desk, name: str) -> None:
    make("plain.mp4", count=2)
    shutil.copy("plain.mp4", name)
    desk(name)
    stem = name.removesuffix(".mp4")
    assert Seen(f"{stem}-colour.mp4").frames == 2
    desk("plain.mp4", "--out", f"{stem}.mkv")
    assert set(os.listdir()) == {"plain.mp4", name, f"{stem}-colour.mp4", f"{stem}.mkv"}


@pytest.mark.parametrize(
    ("arguments", "written"),
    [
        ([], "old-colour.mp4"),
        (["--out", "there"], "there/old-colour.mp4"),
        (["--out", "made/"], "made/old-colour.mp4"),
        (["--out", "made/new.MKV"], "made/new.MKV"),
        (["--out", "taken.mp4", "--overwrite"], "taken.mp4"),
    ],
)
def test_the_output_goes_beside_the_film_or_where_out_says(
    desk: Desk, arguments: list[str], written: str
) -> None:
    make("old.mp4", count=2)
    Path("there").mkdir()
    Path("taken.mp4").write_text("in the way")
    desk("old.mp4", *arguments)
    assert Seen(written).frames == 2


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a film, and much that is none."""
    folder = tmp_path_factory.mktemp("spoilt")
    make(folder / "old.mp4", count=2)
    os.link(folder / "old.mp4", folder / "same.mp4")
    (folder / "there").mkdir()
    texts = {"text.mp4": "no film", "bad.json": '[{"at": -1, "hints": []}]', "empty.mp4": ""}
    texts |= {"text.txt": "no film, \x1b[31mred\n" * 20, "taken.mp4": "in the way"}
    for name, text in texts.items():
        (folder / name).write_text(text)
    (folder / "photo.jpg").write_bytes(encoded(picture(32, 32), "JPEG"))
    with av.open(str(folder / "sound.m4a"), "w") as out:
        heard: Any = out.add_stream("aac", rate=16000, layout="mono")
        out.mux([*heard.encode(tone("fltp", 1)), *heard.encode(None)])
    return folder


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["none.mp4"], "none.mp4 is not a file that exists"),
        (["there"], "there is a folder"),
        (["text.mp4"], "text.mp4 is not a film that FFmpeg can read"),
        (["text.txt"], "text.txt is not a film that FFmpeg can read"),
        (["empty.mp4"], "empty.mp4 is not a film that FFmpeg can read"),
        (["photo.jpg"], "photo.jpg is a picture, not a film"),
        (["sound.m4a"], "sound.m4a has no moving picture in it"),
        (["old.mp4", "--out", "taken.mp4"], "taken.mp4 already exists; --overwrite replaces it"),
        (["old.mp4", "--out", "old.mp4"], "old.mp4 would be overwritten"),
        (["old.mp4", "--out", "same.mp4", "--overwrite"], "old.mp4 would be overwritten"),
        (["old.mp4", "--out", "text.txt/new.mp4"], "text.txt/new.mp4 cannot be written"),
        (["old.mp4", "--hold", "1"], "--hold must be"),
        (["old.mp4", "--hold", "nan"], "--hold must be"),
        (["old.mp4", "--chroma", "4"], "--chroma must be 0 to 3"),
        (["old.mp4", "--hints", "none.json"], "--hints none.json: "),
        (["old.mp4", "--hints", "text.mp4"], "--hints text.mp4: Expecting value"),
        (["old.mp4", "--hints", "bad.json"], '--hints bad.json: "at" is the second'),
        (["old.mp4", "--model", "none.mar"], "no model at none.mar"),
        (["old.mp4", "--server", "127.0.0.1:9"], "http://127.0.0.1:9/ping does not answer"),
        (["old.mp4", "--server", "ftp://here"], "--server: a server's address begins with http"),
        (["old.mp4", "--server", "here:80", "--token", "a b"], "--server: a token has neither"),
        *((["old.mp4", "--device", one], f"--device {one}") for one in ("cuda:0", "foo", "mps")),
    ],
)
def test_a_film_that_cannot_be_made_says_why_in_a_line_and_leaves_nothing(
    arguments: list[str], told: str, spoilt: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setattr(engines, "gpus", lambda: 0)
    monkeypatch.chdir(spoilt)
    before = sorted(os.listdir())
    assert film.main(arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == before


def test_a_film_whose_server_has_no_colours_leaves_nothing(capsys: Capture) -> None:
    make("old.mp4", count=2)
    with serving({}, []) as place:
        assert film.main(["old.mp4", "--server", f"{place}/predictions/none"]) == 2
    assert (
        capsys.readouterr().err == "colorizer-film: --server: 404: Not Found; nothing was written\n"
    )
    assert os.listdir() == ["old.mp4"]


@pytest.mark.parametrize(
    ("lost", "told"),
    [("picture", "40 frames were read, but 39 written"), ("sound", "its sound would last")],
)
def test_what_was_written_is_compared_with_the_film_before_it_takes_its_place(
    desk: Desk, monkeypatch: Patch, lost: str, told: str
) -> None:
    add, copy = writer.Writer.add, writer.Writer.copy

    def add_some(self: writer.Writer, rgb: np.ndarray, pts: int, duration: int) -> None:
        if pts != 0 or lost == "sound":
            add(self, rgb, pts, duration)

    def copy_some(self: writer.Writer, packet: Any) -> None:
        if not packet.size or packet.pts < 8000 or lost == "picture":
            copy(self, packet)
        else:  # read, but not written
            end = (packet.pts + packet.duration) * packet.time_base
            self.spans[packet.stream.index][1] = end

    make("old.mp4", count=40, sound="aac")
    monkeypatch.setattr(writer.Writer, "add", add_some)
    monkeypatch.setattr(writer.Writer, "copy", copy_some)
    assert told in desk("old.mp4", code=2)
    assert os.listdir() == ["old.mp4"]


def test_an_interrupted_film_leaves_nothing(desk: Desk, monkeypatch: Patch) -> None:
    def interrupted(pipeline: Any, frames: Iterable[np.ndarray], **_: Any) -> Iterator[np.ndarray]:
        yield from islice(frames, 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(film, "colorize_frames", interrupted)
    make("old.mp4", sound="aac")
    desk("old.mp4", code=130)
    assert os.listdir() == ["old.mp4"]


def test_progress_is_shown_before_the_network_is_loaded(desk: Desk, monkeypatch: Patch) -> None:
    shown: list[str] = []
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(film, "_load", lambda *_: shown.append(terminal.getvalue()))
    make("old.h264")
    desk("old.h264")
    assert f"0 of {FRAMES} frames" in shown[0]
    assert f"{FRAMES} of {FRAMES} frames" in terminal.getvalue()
