"""Films: colour without flicker, and the sound kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from colorizer import lab
from colorizer.commands import film
from colorizer.unet import Head
from evaluation.evaluate import eager_pipeline
from export import archive
from tests.support import picture

FRAMES = 12


def grainy(count: int = FRAMES, height: int = 50, width: int = 64) -> list[np.ndarray]:
    """(H, W, 3) uint8 each: one picture that stands still, with an old film's grain."""
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


def test_colour_flickers_less_than_frame_by_frame(weights: Callable[[Head], Path]) -> None:
    pipeline, frames = eager_pipeline(weights("regression")), grainy(6, 200, 256)
    alone, held = (list(film.colorize_frames(pipeline, frames, hold)) for hold in (0.0, film.HOLD))
    # Not by much here: a random network's colours follow each grain of L through the guided filter.
    assert film.flicker(held, frames) < film.flicker(alone, frames)
    # and what is held is the colour itself: no drift to grey
    spread = [float(np.ptp(one[-1].astype(int), axis=2).mean()) for one in (alone, held)]
    assert spread[1] == pytest.approx(spread[0], rel=0.25)


def test_a_network_that_wavers_is_steadied_to_a_fifth() -> None:
    rng = np.random.default_rng(0)
    light = [np.full((32, 32), 50, np.float32) + rng.normal(0, 0.5, (32, 32)) for _ in range(60)]
    wavering = [rng.normal(20, 5, (2, 32, 32)).astype(np.float32) for _ in light]
    steady = film.Steady()
    held = [steady(one.astype(np.float32), ab) for one, ab in zip(light, wavering, strict=True)]
    change = [
        np.abs(np.diff(ab[30:], axis=0)).mean() for ab in (np.array(wavering), np.array(held))
    ]
    assert change[1] < 0.2 * change[0]
    assert np.mean(held[30:]) == pytest.approx(20, abs=0.2)


def test_colours_are_held_where_nothing_moves_and_begin_anew_where_it_does() -> None:
    light = np.full((4, 4), 50, np.float32)
    red, blue = (np.full((2, 4, 4), value, np.float32) for value in (40, -40))
    steady = film.Steady(hold=0.75)
    assert np.array_equal(steady(light, red), red)
    assert np.allclose(steady(light, blue), 0.75 * 40 + 0.25 * -40)
    moved = light.copy()
    moved[0, 0] = 80
    third = steady(moved, blue)
    assert third[0, 0, 0] == pytest.approx(-40, abs=0.01)
    assert third[0, 1, 1] > -20
    cut = np.full((4, 4), 90, np.float32)
    assert np.array_equal(steady(cut, red), red)


def test_a_film_without_sound_is_a_film(model: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "old.mkv", grainy(3), sound=False)
    arguments = [str(tmp_path / "old.mkv"), "--out", str(tmp_path / "new.mp4")]
    assert film.main([*arguments, "--model", str(model), "--hold", "0"]) == 0
    frames, _, sound = read_film(tmp_path / "new.mp4")
    assert (len(frames), sound) == (3, b"")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.mp4", "--out", "new.mp4"], "there is no film at"),
        (["text.mp4", "--out", "new.mp4"], "cannot become new.mp4"),
        (["old.mp4", "--out", "old.mp4"], "is there already"),
        (["old.mp4", "--out", "old.mp4", "--overwrite"], "would be written over"),
        (["old.mp4", "--out", "new.mp4", "--hold", "1"], "--hold must be"),
        (["old.mp4", "--out", "new.mp4", "--model", "none.mar"], "no archive at"),
        (["old.mp4", "--out", "new.nothing"], "cannot become new.nothing"),
    ],
)
def test_a_film_that_cannot_be_made_says_why_and_leaves_nothing(
    arguments: list[str],
    said: str,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_film(Path("old.mp4"), grainy(2), sound=False)
    Path("text.mp4").write_text("no film")
    before = sorted(p.name for p in tmp_path.iterdir())
    given = arguments if "--model" in arguments else [*arguments, "--model", str(model)]
    assert film.main(given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_an_interrupted_film_leaves_nothing(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    write_film(tmp_path / "old.mp4", grainy(2))
    monkeypatch.setattr(film.Steady, "__call__", interrupted)
    arguments = [str(tmp_path / "old.mp4"), "--out", str(tmp_path / "new.mp4")]
    assert film.main([*arguments, "--model", str(model)]) == 130
    assert [p.name for p in tmp_path.iterdir()] == ["old.mp4"]
