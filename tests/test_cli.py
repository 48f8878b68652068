"""`colorizer PICTURE ...`, and the same from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

import colorizer
from colorizer.commands import cli
from colorizer.image import NotAPicture
from colorizer.recipe import Head
from export import archive
from tests.support import AnyServer, encoded, opened, picture


@pytest.fixture(scope="module")
def model(weights: Callable[[Head], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of the classification network."""
    out = tmp_path_factory.mktemp("model") / "model.mar"
    return archive.archive(weights("classification"), out, say=lambda line: None)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of three pictures, one of them broken, a note, and what macOS leaves beside one."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    (folder / "one.png").write_bytes(encoded(picture(40, 60)))
    (folder / "deep" / "two.JPG").write_bytes(encoded(picture(33, 20), "JPEG"))
    (folder / "broken.jpg").write_bytes(encoded(picture(50, 50), "JPEG")[:300])
    (folder / "notes.txt").write_text("names of the people")
    (folder / "._one.png").write_bytes(b"Mac OS X")
    return folder


def names(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_folder_comes_back_in_its_shape_and_a_broken_picture_is_told(
    model: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = [str(album), "--out", str(out), "--model", str(model)]
    assert cli.main(arguments) == 1
    assert names(out) == {"one.png.jpg", "deep/two.JPG"}
    colour = opened((out / "deep" / "two.JPG").read_bytes())
    assert (colour.size, colour.mode) == ((20, 33), "RGB")
    assert np.ptp(np.asarray(colour), axis=2).max() > 8
    said = capsys.readouterr().err
    assert "broken.jpg: The picture is broken" in said
    assert "2 colorized, 1 failed, 0 there already" in said


def test_a_run_goes_on_where_it_was_and_overwrites_only_when_told(
    model: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    (album / "broken.jpg").unlink()
    out.mkdir()
    (out / "one.png.jpg").write_text("mine")
    arguments = [str(album), "--out", str(out), "--model", str(model)]
    assert cli.main(arguments) == 0
    assert "1 colorized, 0 failed, 1 there already" in capsys.readouterr().err
    assert (out / "one.png.jpg").read_text() == "mine"
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert opened((out / "one.png.jpg").read_bytes()).size == (60, 40)


def test_a_picture_alone_gets_its_colours_beside_it(model: Path, album: Path) -> None:
    before = (album / "one.png").read_bytes()
    options = ["--format", "png", "--decoding", "mode", "--model", str(model)]
    assert cli.main([str(album / "one.png"), *options]) == 0
    assert (album / "one.png").read_bytes() == before
    made = (album / "one-colour.png").read_bytes()
    one = colorizer.Colorizer(model)
    assert made == one.colorize(album / "one.png", format="png", decoding="mode")
    assert made != one.colorize(before, format="png", decoding="mean")
    with pytest.raises(NotAPicture):
        one.colorize(b"text")


def test_json_has_a_line_for_each_picture(
    model: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(album), "--out", str(tmp_path / "out"), "--model", str(model), "--json"]
    assert cli.main(arguments) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["picture"]).name for line in lines] == ["broken.jpg", "two.JPG", "one.png"]
    assert ["error" in line for line in lines] == [True, False, False]
    assert lines[2]["colour"] == str(tmp_path / "out" / "one.png.jpg")


def test_pictures_of_one_name_and_two_formats_both_get_theirs(
    model: Path, album: Path, tmp_path: Path
) -> None:
    (album / "one.jpg").write_bytes(encoded(picture(10, 12), "JPEG"))
    out = tmp_path / "out"
    assert cli.main([str(album), "--out", str(out), "--model", str(model)]) == 1
    assert names(out) == {"one.jpg", "one.png.jpg", "deep/two.JPG"}
    assert opened((out / "one.png.jpg").read_bytes()).size == (60, 40)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{album}"], "is a folder: say where"),
        (["{album}/none.jpg"], "there is no picture at"),
        (["{album}/deep/two.JPG", "--out", "{album}/deep"], "would be written over"),
        (["{album}/one.png", "--format", "png", "--out", "{album}"], "would be written over"),
        (["{album}/one.png", "{album}/deep/one.png", "--out", "x"], "would both go to"),
        (["{album}/one.png", "--model", "{album}/none.mar"], "no archive at"),
        (["{album}/one.png", "--model", "{album}/notes.txt"], "is not an archive"),
        (["{album}/one.png", "--quality", "0"], "quality is '0'"),
        (["{album}/one.png", "--batch", "0"], "--batch must be"),
        (["{album}/one.png", "--server", "localhost"], "--server: a server's address begins with"),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why_in_one_line(
    arguments: list[str],
    said: str,
    model: Path,
    album: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (album / "deep" / "one.png").write_bytes(encoded(picture(10, 12)))
    before = names(album)
    given = [one.format(album=album) for one in arguments]
    if "--model" not in given:
        given += ["--model", str(model)]
    assert cli.main(given) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert names(album) == before


def test_an_interrupted_run_leaves_whole_files_and_says_how_to_go_on(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(paths: object) -> Iterator[cli.Result]:
        yield b"colours"
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "choose_method", lambda options: interrupted)
    assert cli.main([str(album), "--out", str(tmp_path / "out")]) == 130
    assert names(tmp_path / "out") == {"broken.jpg"}
    assert "goes on where it was" in capsys.readouterr().err


def test_a_folder_that_cannot_be_made_fails_the_picture_alone(
    model: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    out.write_text("a file, where a folder is wanted")
    assert cli.main([str(album / "one.png"), "--out", str(out), "--model", str(model)]) == 1
    assert "0 colorized, 1 failed" in capsys.readouterr().err
    assert out.read_text() == "a file, where a folder is wanted"


# --- by a server


@pytest.fixture
def server() -> Iterator[str]:
    with AnyServer() as address:
        yield f"{address}/predictions/colorize"


def test_a_server_colorizes_and_what_it_refuses_is_told(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, body in (("a.png", b"abc"), ("b.png", b"bad"), ("c.png", b"xyz")):
        (tmp_path / name).write_bytes(body)
    out = tmp_path / "out"
    paths = [str(tmp_path / f"{n}.png") for n in "abc"]
    assert cli.main([*paths, "--out", str(out), "--server", server, "--format", "webp"]) == 1
    assert (out / "a.png.webp").read_bytes() == b"abcwebp"
    assert (out / "c.png.webp").read_bytes() == b"xyzwebp"
    assert "b.png: 415: Not a picture." in capsys.readouterr().err


def test_a_server_that_is_not_there_is_said_to_be_so(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"abc")
    nobody = "http://127.0.0.1:9/predictions/colorize"
    assert cli.main([str(tmp_path / "a.png"), "--server", nobody]) == 1
    assert "does not answer" in capsys.readouterr().err


def test_help_needs_no_torch(tmp_path: Path) -> None:
    script = (
        "import sys; from colorizer.commands import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.endswith("False False\n")
    assert "--server URL" in done.stdout
