"""Films: colour without flicker, and everything else kept."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
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
from colorizer.commands import film, video
from colorizer.hints import Hint
from colorizer.recipe import Head
from evaluation.methods import eager_pipeline
from export import archive
from tests.support import encoded, picture

FRAMES = 12
ORANGE = (200, 110, 50)  # what the stand-in for a network paints


def grainy(count: int = FRAMES, height: int = 50, width: int = 64) -> list[np.ndarray]:
    """Make (H, W, 3) uint8 each: a still picture with an old film's grain."""
    rng = np.random.default_rng(0)
    still = picture(height, width).astype(float)
    frames = [np.clip(still + rng.normal(0, 5, still.shape), 0, 255) for _ in range(count)]
    return [np.repeat(one.astype(np.uint8)[..., None], 3, axis=2) for one in frames]


def write_film(path: Path, frames: list[np.ndarray], sound: bool = True) -> None:
    with av.open(str(path), "w") as out:
        video = out.add_stream("libx264", rate=16)  # as silent films ran
        video.height, video.width = frames[0].shape[:2]
        video.pix_fmt = "yuv444p"
        audio = out.add_stream("aac", rate=16000, layout="mono") if sound else None
        for one in frames:
            out.mux(video.encode(av.VideoFrame.from_ndarray(one, format="rgb24")))
        out.mux(video.encode(None))
        if audio is not None:
            wave = np.sin(np.arange(12000) / 5)[None].astype(np.float32)
            frame = av.AudioFrame.from_ndarray(wave, format="fltp", layout="mono")
            frame.sample_rate = 16000
            out.mux(audio.encode(frame))
            out.mux(audio.encode(None))


def read_film(path: Path) -> tuple[list[np.ndarray], list[float], bytes]:
    """Frames, their times in seconds, and the packets of the sound."""
    with av.open(str(path)) as one:
        frames = [(f.to_ndarray(format="rgb24"), f.time) for f in one.decode(video=0)]
    with av.open(str(path)) as one:
        packets = one.demux(audio=0) if one.streams.audio else []
        sound = b"".join(bytes(packet) for packet in packets)
    return [f for f, _ in frames], [t for _, t in frames], sound


def make(
    path: Path,
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
    with av.open(f"file:{path.absolute()}", "w", metadata_errors="surrogateescape") as out:
        out.metadata.update(title=title, comment="1912")
        if rich:
            out.set_chapters([chapter(0, 200, "Hof"), chapter(200, 480, "Garten")])
        if cover:
            art = out.add_stream("mjpeg", rate=1, width=32, height=32)
            art.pix_fmt, art.disposition = "yuvj420p", Disposition.attached_pic
        stream: Any = out.add_stream(codec, rate=rate, options=dict(options or {}))
        stream.width, stream.height, stream.pix_fmt = width, height, pixels
        stream.codec_context.time_base = base
        for name, value in (context or {}).items():
            setattr(stream.codec_context, name, value)
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
        convert = filtered(
            (width, height, "rgb24"),
            ("format", pixels),
            ("setparams", f"field_mode={fields or 'prog'}"),
        )
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


def filtered(source: tuple[int, int, str], *filters: tuple[str, str]) -> Any:
    graph = av.filter.Graph()
    width, height, pixels = source
    buffer = f"video_size={width}x{height}:pix_fmt={pixels}:time_base=1/1000"
    nodes = [graph.add(*one) for one in (("buffer", buffer), *filters, ("buffersink", None))]
    graph.link_nodes(*nodes).configure()
    return graph


class Seen:
    """A film as a player sees it."""

    def __init__(self, path: Path) -> None:
        with av.open(f"file:{path.absolute()}") as one:
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
            self.times = [round(float(f.pts * f.time_base), 3) for f in frames]
            self.frames = len(frames)
            first = frames[0]
            self.rotation = first.rotation
            self.colour = (
                first.colorspace,
                first.color_primaries,
                first.color_trc,
                first.color_range,
            )
            matrix = {5: 5, 6: 5}.get(first.colorspace, first.colorspace)
            rgb = first.reformat(format="rgb24", src_colorspace=matrix).to_ndarray()
            self.rgb = np.asarray(rgb, float).mean(axis=(0, 1))
            self.fields = video._field_order(first) if first.interlaced_frame else None


@pytest.fixture
def painted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Paint frames orange instead of running a network; returns the shapes of those painted."""
    shapes: list[tuple[int, ...]] = []

    def paint(
        pipeline: Any, frames: Iterable[np.ndarray], hold: float, chroma: float
    ) -> Iterator[np.ndarray]:
        for rgb in frames:
            shapes.append(rgb.shape)
            yield np.full_like(rgb, ORANGE)

    monkeypatch.setattr(film, "colorize_frames", paint)
    monkeypatch.setattr(film, "_load", lambda model, device: None)
    return shapes


def run(*arguments: object) -> int:
    return film.main([str(one) for one in arguments])


@pytest.fixture(scope="module")
def model(weights: Callable[[Head], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model.mar"
    return archive.archive(weights("regression"), out, say=lambda line: None)


@pytest.mark.parametrize(("height", "width"), [(50, 64), (51, 63)])
def test_a_film_keeps_its_frames_times_size_and_sound_and_gets_colour(
    model: Path, tmp_path: Path, height: int, width: int
) -> None:
    write_film(tmp_path / "old.mp4", grainy(height=height, width=width))
    arguments = [str(tmp_path / "old.mp4"), "--out", str(tmp_path / "new.mp4")]
    assert film.main([*arguments, "--model", str(model)]) == 0
    (old, old_times, old_sound), (new, new_times, new_sound) = (
        read_film(tmp_path / name) for name in ("old.mp4", "new.mp4")
    )
    assert len(new) == FRAMES
    assert new_times == pytest.approx(old_times)
    assert new[0].shape == (height, width, 3)
    assert new_sound == old_sound
    assert len(new_sound) > 1000
    assert np.ptp(new[0].astype(int), axis=2).max() > 8
    light = [lab.rgb_to_lightness(one) for one in (old[5], new[5])]
    assert np.abs(light[0] - light[1]).mean() < 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.mp4", "old.mp4"]


def flicker(pictures: Sequence[np.ndarray], truth: Sequence[np.ndarray]) -> float:
    """Measure how much colour changes between frames where lightness does not.

    Args:
        pictures: (H, W, 3) each, in colour.
        truth: the same frames before colorization; only their lightness counts.

    Returns:
        Mean change of ab, in Lab's units, over pixels whose L moves by less than film.STILL / 2.
    """
    planes = [
        (lab.rgb_to_lab(one)[..., 1:], lab.rgb_to_lightness(before))
        for one, before in zip(pictures, truth, strict=True)
    ]
    total, count = 0.0, 0
    for (ab, light), (next_ab, next_light) in pairwise(planes):
        still = np.abs(next_light - light) < film.STILL / 2
        total += float(np.linalg.norm(next_ab - ab, axis=-1)[still].sum())
        count += int(still.sum())
    return total / max(1, count)


def test_colour_flickers_less_than_frame_by_frame(weights: Callable[[Head], Path]) -> None:
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
    change = [
        np.abs(np.diff(ab[30:], axis=0)).mean() for ab in (np.array(wavering), np.array(held))
    ]
    assert change[1] < 0.2 * change[0]
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


def test_a_films_hints_are_of_the_first_shot_or_of_several(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(Path("old.mkv"), grainy(6), sound=False)
    red = {"x": 0.5, "y": 0.5, "color": "#d02020"}
    Path("all.json").write_text(json.dumps([red]))
    Path("late.json").write_text(json.dumps([{"at": 0.2, "hints": [red]}]))
    colours = []
    for name in ("all", "late"):
        arguments = ["old.mkv", "--out", f"{name}.mp4", "--hints", f"{name}.json"]
        assert film.main([*arguments, "--model", str(model)]) == 0
        frames, _, _ = read_film(Path(f"{name}.mp4"))
        middles = [frame[23:28, 30:35].astype(int).mean(axis=(0, 1)) for frame in frames]
        colours.append([middle[0] - middle[2] for middle in middles])
    assert min(colours[0]) > 60
    assert max(colours[1][:3]) < 40
    assert min(colours[1][4:]) > 60


def test_a_film_without_sound_is_a_film(model: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "old.mkv", grainy(3), sound=False)
    arguments = [str(tmp_path / "old.mkv"), "--out", str(tmp_path / "new.mp4")]
    assert film.main([*arguments, "--model", str(model), "--hold", "0"]) == 0
    frames, _, sound = read_film(tmp_path / "new.mp4")
    assert (len(frames), sound) == (3, b"")


def test_chroma_is_the_strength_of_the_colours(weights: Callable[[Head], Path]) -> None:
    pipeline, frames = eager_pipeline(weights("regression")), grainy(1)
    spreads = [
        float(np.ptp(next(film.colorize_frames(pipeline, frames, 0, chroma)).astype(int), 2).mean())
        for chroma in (0.0, 1.0, 2.0)
    ]
    assert spreads[0] < 1
    assert spreads[0] + 3 < spreads[1] < spreads[2]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("rotation", [0, 90, -90, 180])
def test_pixel_shape_and_rotation_are_kept(
    painted: list[tuple[int, ...]], tmp_path: Path, rotation: int, suffix: str
) -> None:
    old, new = tmp_path / "old.mp4", tmp_path / f"new{suffix}"
    shape = {"sample_aspect_ratio": Fraction(16, 11)}
    make(old, count=2, rotation=rotation, context=shape)
    assert run(old, "--out", new) == 0
    seen = Seen(new)
    assert (seen.shape, abs(seen.rotation)) == (Fraction(16, 11), abs(rotation))
    assert seen.rotation == Seen(old).rotation
    # the network sees it upright
    assert painted[0] == ((64, 48, 3) if abs(rotation) == 90 else (48, 64, 3))


def test_a_turned_film_is_painted_where_it_should_be(
    painted: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(
        pipeline: Any, frames: Iterable[np.ndarray], hold: float, chroma: float
    ) -> Iterator[np.ndarray]:
        for rgb in frames:
            rgb = np.zeros_like(rgb)
            rgb[: len(rgb) // 2] = 255  # white above
            yield rgb

    monkeypatch.setattr(film, "colorize_frames", half)
    make(tmp_path / "old.mp4", count=1, rotation=-90)  # as phones do it: to be turned clockwise
    assert run(tmp_path / "old.mp4") == 0
    with av.open(str(tmp_path / "old-colour.mp4")) as one:
        stored = next(one.decode(video=0)).to_ndarray(format="gray")
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
    painted: list[tuple[int, ...]],
    tmp_path: Path,
    tags: tuple[int, ...],
    size: tuple[int, int],
    matrix: int,
) -> None:
    names = ("colorspace", "color_primaries", "color_trc", "color_range")
    make(tmp_path / "old.mp4", count=1, size=size, context=dict(zip(names, tags, strict=True)))
    assert run(tmp_path / "old.mp4") == 0
    seen = Seen(tmp_path / "old-colour.mp4")
    assert seen.colour == (matrix, *tags[1:3], tags[3] or 1)
    assert np.abs(seen.rgb - ORANGE).max() < 4


@pytest.mark.parametrize(
    ("name", "codec", "pixels"),
    [("old.h264", "libx264", "yuv420p"), ("old.mjpeg", "mjpeg", "yuvj420p")],
)
def test_frames_without_times_get_them_from_the_rate(
    painted: list[tuple[int, ...]], tmp_path: Path, name: str, codec: str, pixels: str
) -> None:
    make(tmp_path / name, codec, count=20, rate=25 if codec == "mjpeg" else 16, pixels=pixels)
    assert run(tmp_path / name) == 0
    seen = Seen(tmp_path / "old-colour.mp4")
    assert (seen.frames, seen.duration) == (20, pytest.approx(0.8 if codec == "mjpeg" else 1.25))
    assert np.ptp(np.diff(seen.times)) < 0.002


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_a_variable_frame_rate_keeps_its_times(
    painted: list[tuple[int, ...]], tmp_path: Path, suffix: str
) -> None:
    times = [500, 540, 550, 630, 633, 900, 980, 1000, 1400, 1500, 2000, 2500]
    make(tmp_path / "old.mkv", times=times)
    assert run(tmp_path / "old.mkv", "--out", tmp_path / f"new{suffix}") == 0
    seen = Seen(tmp_path / f"new{suffix}")
    assert seen.times == [one / 1000 for one in times]
    # up to the end of the last frame; .mov and .mp4 do not count what is before the first
    assert seen.duration == pytest.approx(2.54, abs=0.51)
    assert seen.duration > 2.03


def overwrite(path: Path, number: int) -> None:
    """Overwrite a packet of the picture in a file."""
    with av.open(str(path)) as one:
        packet = [packet for packet in one.demux(video=0) if packet.size][number]
        assert packet.pos is not None
        begin, end = packet.pos + 8, packet.pos + packet.size
    body = bytearray(path.read_bytes())
    body[begin:end] = b"\xff" * (end - begin)
    path.write_bytes(body)


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
    painted: list[tuple[int, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    codec: str,
    pixels: str,
    number: int,
) -> None:
    old = tmp_path / name
    make(old, codec, pixels=pixels, options={"bf": "0"}, sound="aac")
    whole = Seen(old).times
    overwrite(old, number)
    assert run(old) == 1
    assert "1 damaged packet was skipped" in capsys.readouterr().err
    assert Seen(tmp_path / "old-colour.mp4").times == [*whole[:number], *whole[number + 1 :]]


def test_a_frame_that_the_decoder_patched_up_is_told(
    painted: list[tuple[int, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old.mp4"
    make(old, options={"g": "1"})
    with av.open(str(old)) as one:
        packet = [packet for packet in one.demux(video=0) if packet.size][5]
        assert packet.pos is not None
    body = bytearray(old.read_bytes())
    half = packet.size // 2
    body[packet.pos + half : packet.pos + packet.size] = bytes(packet.size - half)
    old.write_bytes(body)
    assert run(old) == 1
    assert "1 frame is damaged" in capsys.readouterr().err
    assert Seen(tmp_path / "old-colour.mp4").frames == FRAMES


@pytest.mark.parametrize("name", ["old.mkv", "old.avi"])
def test_a_film_that_breaks_off_is_told(
    painted: list[tuple[int, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    old = tmp_path / name
    make(old, "mpeg4", count=40)
    body = old.read_bytes()
    old.write_bytes(body[: len(body) * 3 // 4])
    assert run(old) == 1
    assert "the film breaks off after" in capsys.readouterr().err
    assert 1 <= Seen(tmp_path / "old-colour.mp4").frames < 38


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_sound_tracks_languages_titles_chapters_and_tags_are_kept_or_listed(
    painted: list[tuple[int, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    old, new = tmp_path / "old.mkv", tmp_path / f"new{suffix}"
    make(old, sound="aac", tracks=2, rich=True)
    assert run(old, "--out", new) == 0
    told, seen = capsys.readouterr().err, Seen(new)
    sounds = [track for track in seen.tracks if track[0] == "audio"]
    assert len(sounds) == 2
    for number, language in enumerate(("ger", "fre")):
        for name, now, before in zip(
            ("language", "title"), sounds[number][1:], (language, f"Ton {language}"), strict=True
        ):
            assert now == before or f"{name} {before!r} of track {number + 1}" in told
    if suffix != ".mov":  # its list of languages is Apple's own
        assert [language for _, language, _ in sounds] == ["ger", "fre"]
    assert seen.chapters == ["Hof", "Garten"]
    assert (seen.tags["title"], seen.tags["comment"]) == ("Großmutter", "1912")


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_subtitles_are_kept_or_listed(
    painted: list[tuple[int, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    (tmp_path / "old.srt").write_text("1\n00:00:00,100 --> 00:00:00,300\nGrüße\n")
    make(tmp_path / "plain.mkv")
    with (
        av.open(str(tmp_path / "plain.mkv")) as picture,
        av.open(str(tmp_path / "old.srt")) as text,
        av.open(str(tmp_path / "old.mkv"), "w") as out,
    ):
        films = (picture, text)
        tracks = [out.add_stream_from_template(one.streams[0], True) for one in films]
        for source, track in zip(films, tracks, strict=True):
            for packet in source.demux():
                if packet.size:
                    packet.stream = track
                    out.mux(packet)
    assert run(tmp_path / "old.mkv", "--out", tmp_path / f"new{suffix}") == 0
    kinds = [kind for kind, _, _ in Seen(tmp_path / f"new{suffix}").tracks]
    told = capsys.readouterr().err
    if suffix == ".mkv":
        assert kinds == ["video", "subtitle"]
        assert "left out" not in told
    else:
        assert kinds == ["video"]
        assert "left out: track 1 (subtitle, srt); .mp4 cannot hold it, .mkv can" in told


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
def test_cover_art_is_never_the_film(
    painted: list[tuple[int, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    suffix: str,
) -> None:
    old, new = tmp_path / "old.mp4", tmp_path / f"new{suffix}"
    make(old, cover=True, sound="aac")
    assert run(old, "--out", new) == 0
    assert set(painted) == {(48, 64, 3)}
    seen = Seen(new)
    assert seen.frames == FRAMES
    assert bool(seen.attached) or "left out, as .mov" in capsys.readouterr().err


def test_tags_in_an_old_encoding_keep_their_bytes(
    painted: list[tuple[int, ...]], tmp_path: Path
) -> None:
    make(tmp_path / "old.avi", "mpeg4", count=2, title="Gro\udcdfmutter")
    assert run(tmp_path / "old.avi", "--out", tmp_path / "new.mkv") == 0
    with av.open(str(tmp_path / "new.mkv"), metadata_errors="surrogateescape") as one:
        assert one.metadata["title"] == "Gro\udcdfmutter"


def test_a_first_track_of_one_picture_is_not_the_film(
    painted: list[tuple[int, ...]], tmp_path: Path
) -> None:
    make(tmp_path / "old.mkv", cover=True)  # written as a plain track of one frame
    assert run(tmp_path / "old.mkv") == 0
    assert Seen(tmp_path / "old-colour.mp4").frames == FRAMES


@pytest.mark.parametrize("fields", ["tff", "bff"])
@pytest.mark.parametrize(
    ("name", "codec", "size"),
    [
        ("old.mp4", "libx264", (64, 48)),
        ("old.mpg", "mpeg2video", (64, 48)),
        ("old.avi", "dvvideo", (720, 576)),
    ],
)
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_interlaced_films_keep_their_fields_or_are_deinterlaced(
    painted: list[tuple[int, ...]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    codec: str,
    size: tuple[int, int],
    fields: str,
    suffix: str,
) -> None:
    old, new, whole = tmp_path / name, tmp_path / f"new{suffix}", tmp_path / f"whole{suffix}"
    make(old, codec, count=4, size=size, fields=fields)
    assert run(old, "--out", new) == 0
    order = {"tff": "top", "bff": "bottom"}[fields]
    assert f"is interlaced, {order} field first" in capsys.readouterr().err
    assert Seen(new).fields == fields
    assert run(old, "--out", whole, "--deinterlace") == 0
    assert "is interlaced" not in capsys.readouterr().err
    seen = Seen(whole)
    assert (seen.frames, seen.fields) == (4, None)
    assert seen.times == Seen(new).times


@pytest.mark.parametrize("name", ["new.avi", "new.webm", "new.ts", "new.gif", "new"])
def test_containers_that_cannot_hold_every_film_are_refused_and_those_that_do_are_named(
    painted: list[tuple[int, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    make(tmp_path / "old.mp4", count=1)
    assert run(tmp_path / "old.mp4", "--out", tmp_path / name) == 2
    assert ".mp4, .m4v, .mov or .mkv" in capsys.readouterr().err
    assert not painted


def test_sound_that_does_not_fit_is_refused_before_work_with_what_holds_it(
    painted: list[tuple[int, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "old.mkv", sound="flac")
    assert run(tmp_path / "old.mkv", "--out", tmp_path / "new.mov") == 2
    assert "its sound (flac) does not fit .mov; write --out old-colour.mkv" in (
        capsys.readouterr().err
    )
    assert not painted
    assert [one.name for one in tmp_path.iterdir()] == ["old.mkv"]


def test_sound_that_fits_nowhere_is_encoded_anew_and_told(
    painted: list[tuple[int, ...]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make(tmp_path / "old.avi", "mpeg4", count=40, sound="adpcm_ms")
    assert run(tmp_path / "old.avi") == 0
    assert "track 1 (audio, adpcm_ms) is encoded as AAC" in capsys.readouterr().err
    with av.open(str(tmp_path / "old-colour.mp4")) as one:
        heard = np.concatenate([f.to_ndarray()[0] for f in one.decode(audio=0)])
    assert len(heard) == pytest.approx(16000 * 1.6, rel=0.1)
    assert np.abs(heard[4000:20000]).mean() > 0.1


def test_a_broadcast_begins_at_zero_and_its_clock_may_be_set_anew(
    painted: list[tuple[int, ...]], tmp_path: Path
) -> None:
    hour = 3_600_000
    for name, start in (("a.ts", 10 * hour), ("b.ts", 20 * hour), ("c.ts", 5 * hour)):
        make(tmp_path / name, times=[start + 40 * number for number in range(FRAMES)])
    old = tmp_path / "old.ts"
    old.write_bytes(b"".join((tmp_path / f"{one}.ts").read_bytes() for one in "abc"))
    assert run(old) == 0
    seen = Seen(tmp_path / "old-colour.mp4")
    assert (seen.frames, seen.times[0]) == (3 * FRAMES, 0)
    assert np.diff(seen.times).min() > 0.001
    assert seen.duration == pytest.approx(3 * FRAMES / 25, abs=0.2)


@pytest.mark.parametrize(
    "name",
    ["2021-05-04T12:30:00.mp4", "file:x.mp4", "concat:a|b.mp4", "a%03d.mp4", "caf\udce9.mp4"],
)
def test_a_path_is_always_a_path(
    painted: list[tuple[int, ...]], tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("plain.mp4"), count=2)
    shutil.copy("plain.mp4", name)
    assert run(name) == 0
    stem = name.removesuffix(".mp4")
    assert Seen(Path(f"{stem}-colour.mp4")).frames == 2
    assert run("plain.mp4", "--out", f"{stem}.mkv") == 0
    assert sorted(os.listdir()) == sorted(
        ["plain.mp4", name, f"{stem}-colour.mp4", f"{stem}.mkv"],
    )


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
    painted: list[tuple[int, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    written: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    make(Path("old.mp4"), count=2)
    Path("there").mkdir()
    Path("taken.mp4").write_text("in the way")
    assert run("old.mp4", *arguments) == 0
    assert Seen(Path(written)).frames == 2


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
        (["old.mp4", "--model", "none.mar"], "no archive at none.mar"),
        (["old.mp4", "--device", "cuda:0"], "--device cuda:0"),
        (["old.mp4", "--device", "foo"], "--device foo"),
        (["old.mp4", "--device", "mps"], "--device mps"),
        (["old.mp4", "--device", "meta"], "--device meta"),
    ],
)
def test_a_film_that_cannot_be_made_says_why_in_a_line_and_leaves_nothing(
    arguments: list[str],
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(engines, "gpus", lambda: 0)
    make(Path("old.mp4"), count=2)
    os.link("old.mp4", "same.mp4")
    Path("there").mkdir()
    Path("text.mp4").write_text("no film")
    Path("bad.json").write_text('[{"at": -1, "hints": []}]')
    Path("text.txt").write_text("no film, \x1b[31mred\n" * 20)
    Path("taken.mp4").write_text("in the way")
    Path("empty.mp4").touch()
    Path("photo.jpg").write_bytes(encoded(picture(32, 32), "JPEG"))
    with av.open("sound.m4a", "w") as out:
        heard: Any = out.add_stream("aac", rate=16000, layout="mono")
        out.mux([*heard.encode(tone("fltp", 1)), *heard.encode(None)])
    before = sorted(os.listdir())
    assert run(*arguments) == 2
    error = capsys.readouterr().err
    assert told in error
    assert error.count("\n") == 1
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("lost", ["picture", "sound"])
def test_what_was_written_is_compared_with_the_film_before_it_takes_its_place(
    painted: list[tuple[int, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    lost: str,
) -> None:
    make(tmp_path / "old.mp4", count=40, sound="aac")
    add, copy = video.Writer.add, video.Writer.copy

    def add_some(self: video.Writer, rgb: np.ndarray, pts: int, duration: int) -> None:
        if pts != 0:
            add(self, rgb, pts, duration)

    def copy_some(self: video.Writer, packet: Any) -> None:
        if not packet.size or packet.pts < 8000:
            copy(self, packet)
        else:  # read, but not written
            end = (packet.pts + packet.duration) * packet.time_base
            self.spans[packet.stream.index][1] = end

    if lost == "picture":
        monkeypatch.setattr(video.Writer, "add", add_some)
    else:
        monkeypatch.setattr(video.Writer, "copy", copy_some)
    assert run(tmp_path / "old.mp4") == 2
    why = {"picture": "40 frames were read, but 39 written", "sound": "its sound would last"}[lost]
    assert why in capsys.readouterr().err
    assert [one.name for one in tmp_path.iterdir()] == ["old.mp4"]


def test_an_interrupted_film_leaves_nothing(
    painted: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(
        pipeline: Any, frames: Iterable[np.ndarray], *options: float
    ) -> Iterator[np.ndarray]:
        yield from islice(frames, 3)
        raise KeyboardInterrupt

    monkeypatch.setattr(film, "colorize_frames", interrupted)
    make(tmp_path / "old.mp4", sound="aac")
    assert run(tmp_path / "old.mp4") == 130
    assert [one.name for one in tmp_path.iterdir()] == ["old.mp4"]


def test_progress_is_shown_before_the_network_is_loaded(
    painted: list[tuple[int, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown: list[str] = []
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(film, "_load", lambda *_: shown.append(terminal.getvalue()))
    make(tmp_path / "old.h264")
    assert run(tmp_path / "old.h264") == 0
    assert f"0/{FRAMES}" in shown[0]
    assert f"{FRAMES}/{FRAMES}" in terminal.getvalue()
