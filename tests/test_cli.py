"""`colorizer PICTURE ...`, and the same from Python."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest

import colorizer
from colorizer import files
from colorizer.commands import cli, client, methods
from colorizer.errors import NotAPicture
from tests.support import ROOT, Capture, Handler, Patch, any_server, encoded, opened, picture


@pytest.fixture(scope="module")
def model(archives: Path) -> Path:
    """An archive of the classification network."""
    return archives / "colorize-classes.mar"


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
    model: Path, album: Path, tmp_path: Path, capsys: Capture
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
    model: Path, album: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    (album / "broken.jpg").unlink()
    out.mkdir()
    (out / "one.png.jpg").write_text("mine")
    arguments = [str(album), "--out", str(out), "--model", str(model)]
    for made, done in ((1, 0), (0, 1)):
        assert cli.main(arguments) == 1
        said = capsys.readouterr().err
        assert f"{made} colorized, 1 failed, {done} there already" in said
        assert "one.png.jpg is there already and is not its result" in said
        assert "--overwrite" in said
        assert (out / "one.png.jpg").read_text() == "mine"
    assert cli.main([*arguments, "--overwrite"]) == 0
    assert opened((out / "one.png.jpg").read_bytes()).size == (60, 40)
    assert cli.main(arguments) == 0
    told = "0 colorized, 0 failed, 2 there already (--overwrite makes them again)"
    assert told in capsys.readouterr().err


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
    model: Path, album: Path, tmp_path: Path, capsys: Capture
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
        (["{album}/deep/two.JPG", "--out", "{album}/deep"], "would be overwritten"),
        (["{album}/one.png", "--format", "png", "--out", "{album}"], "would be overwritten"),
        (["{album}/one.png", "{album}/deep/one.png", "--out", "x"], "would both go to"),
        (["{album}/one.png", "--model", "{album}/none.mar"], "no model at"),
        (["{album}/one.png", "--model", "{album}/notes.txt"], "is not an archive"),
        (["{album}/one.png", "--model", "{album}/one.safetensors"], "no model at"),
        (["{album}/one.png", "--quality", "0"], "quality is '0'"),
        (["{album}/one.png", "--batch", "0"], "--batch must be"),
        (["{album}/one.png", "--hint", "0.5,red"], "--hint '0.5,red': write X,Y,COLOUR"),
        (["{album}/one.png", "--hint", "0,0,0,0,0"], "write X,Y,COLOUR"),
        (["{album}/one.png", "--hint", "nan,0,neutral"], "hint 1: x is nan"),
        (["{album}/one.png", "--hint", "0.5,0.5,red"], "hint 1: color is 'red'"),
        (["{album}/one.png", "--hints", "{album}/none.json"], "none.json cannot be read"),
        (["{album}/one.png", "--hints", "{album}/one.png"], "one.png cannot be read"),
        (["{album}/one.png", "--hints", "{album}/notes.txt"], "hints are not JSON"),
        (["{album}", "--out", "x", "--hint", "0,0,neutral"], "places in one picture"),
        (
            ["{album}/one.png", "--server", "ftp://localhost"],
            "--server: a server's address begins with",
        ),
        (["{album}/one.png", "{album}/broken.jpg", "-o", "x.jpg"], "is one file, for more than"),
        (["{album}", "-o", "x.jpg"], "is one file, for more than"),
        (["{album}/one.png", "-o", "x.gif"], "results are .jpg, .png, .webp or .tif"),
        (["{album}/one.png", "-o", "notes.txt"], "if it is to be a folder, make it first"),
        (["{album}/one.png", "-o", "x.jpg", "--format", "png"], "are two formats"),
        (["{album}/one.png", "-o", "{album}/notes.txt"], "is a file; name a folder"),
        (["{album}/one.png", "-o", "{album}/one.png"], "would be overwritten"),
        (["-", "{album}/one.png"], "stands for one picture"),
        (["{album}", "-o", "-"], "stands for one picture"),
        (["{album}/one.png", "-o", "-", "--json"], "leave out --json"),
        (["{album}/one.png", "--max-pixels", "0"], "--max-pixels must be at least 1"),
        (["{album}/one.png", "--server", "http://x", "--max-bytes", "9"], "without --server"),
        (["{album}", "-o", "x", "--ray", "local", "--variants", "2"], "--ray goes without"),
        (["{album}", "-o", "{album}"], "the folder of the pictures; choose another"),
    ],
)
def test_a_command_that_cannot_be_carried_out_says_why_in_one_line(
    arguments: list[str], said: str, model: Path, album: Path, capsys: Capture
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
    album: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    def interrupted(paths: object) -> Iterator[methods.Result]:
        yield methods.Made(b"colours")
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "choose_method", lambda options: interrupted)
    assert cli.main([str(album), "--out", str(tmp_path / "out")]) == 130
    assert names(tmp_path / "out") == {"broken.jpg"}
    assert "the same command resumes" in capsys.readouterr().err


def test_a_file_that_appears_during_the_run_is_not_replaced(
    album: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    (album / "broken.jpg").unlink()
    others = {"one.png.jpg": b"somebody's letter", "deep/two.JPG": encoded(picture(33, 20), "JPEG")}

    def slow(paths: Iterable[Path]) -> Iterator[methods.Result]:
        for _ in paths:
            for name, body in others.items():
                files.write_whole(tmp_path / "out" / name, body)
            yield methods.Made(b"colours")

    monkeypatch.setattr(cli, "choose_method", lambda options: slow)
    assert cli.main([str(album), "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert "0 colorized, 1 failed, 1 there already" in said
    assert "one.png.jpg is there already and is not its result" in said
    assert {name: (tmp_path / "out" / name).read_bytes() for name in others} == others


@pytest.mark.parametrize("out", ["a file", "a file/below", "/proc/nothing", "/dev/null/x"])
def test_a_place_that_cannot_be_written_to_is_told_before_work(
    album: Path, out: str, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "a file").write_text("a file, where a folder is wanted")
    command = [str(album), "--out", str(tmp_path / out), "--model", "never loaded"]
    assert cli.main(command) == 2
    said = capsys.readouterr().err
    assert "cannot be written to" in said or "is a file; name a folder" in said
    assert "Traceback" not in said
    assert (tmp_path / "a file").read_text() == "a file, where a folder is wanted"


def test_a_missing_picture_fails_alone(model: Path, album: Path, capsys: Capture) -> None:
    pictures = [str(album / name) for name in ("one.png", "gone.jpg", "deep/two.JPG")]
    assert cli.main([*pictures, "--model", str(model)]) == 1
    said = capsys.readouterr()
    assert f"{album}/gone.jpg: there is no picture here" in said.err
    assert "2 colorized, 1 failed, 0 there already" in said.err
    assert len(said.out.splitlines()) == 2


def test_results_are_left_alone_when_the_command_is_run_again(
    model: Path, album: Path, capsys: Capture
) -> None:
    (album / "broken.jpg").unlink()
    for made, done in ((1, 0), (0, 1)):
        pictures = sorted(str(path) for path in album.glob("[a-z]*.[jp]*g"))
        assert cli.main([*pictures, "--model", str(model)]) == 0
        assert f"{made} colorized, 0 failed, {done} there already" in capsys.readouterr().err
    assert names(album) >= {"one.png", "one.png-colour.jpg"}
    assert not [name for name in names(album) if "colour-colour" in name]


@pytest.mark.parametrize(
    ("out", "arguments", "kind"),
    [
        ("result.jpg", [], "JPEG"),
        ("new/RESULT.PNG", [], "PNG"),
        ("a.webp", ["--format", "webp"], "WEBP"),
        ("a.jpeg", ["--format", "jpeg"], "JPEG"),
    ],
)
def test_out_may_be_a_file_for_one_picture(
    model: Path, album: Path, tmp_path: Path, out: str, arguments: list[str], kind: str
) -> None:
    command = [str(album / "one.png"), "-o", str(tmp_path / out), *arguments]
    assert cli.main([*command, "--model", str(model)]) == 0
    colour = opened((tmp_path / out).read_bytes())
    assert (colour.size, colour.format) == ((60, 40), kind)


def test_hints_come_from_a_file_and_from_the_command_line(
    model: Path, album: Path, tmp_path: Path
) -> None:
    said = [{"x": 0.2, "y": 0.5, "color": "#c04040"}, {"x": 0.8, "y": 0.5, "neutral": True}]
    (tmp_path / "hints.json").write_text(json.dumps(said))
    shared = [str(album / "one.png"), "--model", str(model), "--spread", "0.3"]
    given = {
        "file": ["--hints", str(tmp_path / "hints.json")],
        "line": ["--hint", "0.2,0.5,#c04040", "--hint", "0.8,0.5,neutral,0.02"],
        "both": ["--hints", str(tmp_path / "hints.json"), "--hint", "0.2,0.5,#4040c0"],
    }
    for name, arguments in given.items():
        out = ["--out", str(tmp_path / f"{name}.png")]
        assert cli.main([*shared, *arguments, *out]) == 0
    first, second, both = ((tmp_path / f"{name}.png").read_bytes() for name in given)
    assert first == second
    red, _, blue = np.asarray(opened(both))[20, 12].astype(int)
    assert blue > red + 40


def test_variants_and_uncertainty_have_names_of_their_own(
    model: Path, album: Path, capsys: Capture
) -> None:
    command = [str(album / "one.png"), "--model", str(model)]
    assert cli.main([*command, "--variants", "3", "--json"]) == 0
    line = json.loads(capsys.readouterr().out)
    made = [album / f"one.png-colour-{n}.jpg" for n in (1, 2, 3)]
    assert line == {"picture": str(album / "one.png"), "colour": [str(path) for path in made]}
    assert len({path.read_bytes() for path in made}) == 3
    assert {opened(path.read_bytes()).size for path in made} == {(60, 40)}
    before = made[0].stat().st_mtime_ns
    made[1].unlink()
    assert cli.main([*command, "--variants", "3"]) == 0
    assert made[1].exists()
    assert made[0].stat().st_mtime_ns == before
    assert cli.main([*command, "--show", "uncertainty", "-o", str(album)]) == 0
    assert opened((album / "one.png-uncertainty.jpg").read_bytes()).size == (60, 40)


@pytest.mark.parametrize("limit", ["--max-bytes", "--max-pixels"])
def test_limits_can_be_lowered_and_raised(
    model: Path, tmp_path: Path, limit: str, capsys: Capture
) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture(50, 60)))
    size = (tmp_path / "a.png").stat().st_size if limit == "--max-bytes" else 3000
    command = [str(tmp_path / "a.png"), "--model", str(model), limit]
    assert cli.main([*command, str(size - 1)]) == 1
    said = capsys.readouterr().err
    assert f"at most {size - 1:,}" in said
    assert "Or raise --max-bytes or --max-pixels." in said
    assert cli.main([*command, str(size)]) == 0
    assert cli.main([*command, "1", "--overwrite"]) == 1  # less than the sample has


def test_what_is_wrong_for_all_pictures_is_told_once(
    archives: Path, album: Path, tmp_path: Path, capsys: Capture
) -> None:
    command = [str(album), "--out", str(tmp_path / "out"), "--model"]
    for arguments, said in [
        (["{}/colorize.mar", "--decoding", "mode"], "classification"),
        (["{}/colorize.mar", "--variants", "2"], "classification"),
        (["{}/colorize.mar", "--device", "foo"], "foo"),
        (["{}/colorize-classes.mar", "--show", "uncertainty", "--seed", "-1"], "seed is '-1'"),
    ]:
        given = [one.format(archives) for one in arguments]
        assert cli.main([*command, *given]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 3  # two of them name what is left out
    assert not (tmp_path / "out").exists()


# --- by a server


@pytest.fixture
def server() -> Iterator[str]:
    with any_server() as address:
        yield f"{address}/predictions/colorize"


def test_a_server_colorizes_and_what_it_refuses_is_told(
    server: str, tmp_path: Path, capsys: Capture
) -> None:
    body = encoded(picture(40, 60))
    for name, content in (("a.png", body), ("b.png", b"bad"), ("c.png", body)):
        (tmp_path / name).write_bytes(content)
    out = tmp_path / "out"
    paths = [str(tmp_path / f"{n}.png") for n in "abc"]
    assert cli.main([*paths, "--out", str(out), "--server", server, "--format", "webp"]) == 1
    assert names(out) == {"a.png.webp", "c.png.webp"}
    for name in names(out):
        made = opened((out / name).read_bytes())
        assert (made.size, made.format) == ((60, 40), "WEBP")
    assert "b.png: 415: Not a picture." in capsys.readouterr().err


class _Health(Handler):
    """Answers each request with 200 and its health."""

    def do_POST(self) -> None:
        self.body()
        self.answer(200, b'{"status": "Healthy"}')


def test_a_server_that_does_not_colorize_is_told_once_before_work(
    album: Path, tmp_path: Path, capsys: Capture
) -> None:
    with any_server(_Health) as address:
        for url, said in [
            ("http://127.0.0.1:9/predictions/colorize", "does not answer"),
            (f"{address}/ping", "does not colorize: the reply is not a jpeg picture"),
            ("http://127.0.0.1:99999/", "is no server's address"),
            ("http://[::1/", "Invalid IPv6"),
        ]:
            command = [str(album), "--out", str(tmp_path / "out"), "--server", url]
            assert cli.main(command) == 2
            lines = capsys.readouterr().err.splitlines()
            assert said in lines[-1]
            assert [line for line in lines if not line.startswith("left out")] == lines[-1:]
    assert not (tmp_path / "out").exists()


def test_a_server_that_goes_away_ends_the_run(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    left = [3]  # requests that are answered

    class Leaving(Handler):
        def do_POST(self) -> None:
            body = self.body()
            left[0] -= 1
            if left[0] < 0:
                threading.Thread(target=self.server.shutdown).start()
                self.server.socket.close()
            else:
                self.answer(200, body)

    monkeypatch.setattr(client.time, "sleep", lambda seconds: None)
    monkeypatch.setattr(methods, "CLIENTS", 1)
    for number in range(9):
        (tmp_path / f"{number}.jpg").write_bytes(encoded(picture(40, 60), "JPEG"))
    pictures = [str(path) for path in sorted(tmp_path.iterdir())]
    with any_server(Leaving) as address:
        assert cli.main([*pictures, "--server", f"{address}/predictions/colorize"]) == 1
    said = capsys.readouterr().err
    assert "not colorized: the same command resumes" in said
    assert "2 colorized, 7 failed, 0 there already" in said
    assert said.count("does not answer") == 1


# --- as a shell runs it


def shell(
    *arguments: object, stdin: bytes = b"", encoding: str = "utf-8"
) -> tuple[int, bytes, str]:
    """Run the command on streams as a shell's: its exit code, and what it printed."""
    encoding, _, errors = encoding.partition(":")
    streams = [io.TextIOWrapper(io.BytesIO(body), encoding) for body in (stdin, b"", b"")]
    streams[1].reconfigure(errors=errors or "strict")
    with pytest.MonkeyPatch.context() as patch:
        for name, stream in zip(("stdin", "stdout", "stderr"), streams, strict=True):
            patch.setattr(sys, name, stream)
        code = cli.main([str(one) for one in arguments])
    out, err = (stream.flush() or stream.buffer.getvalue() for stream in streams[1:])  # type: ignore
    return code, out, err.decode("utf-8", "replace")


def test_standard_input_and_output_carry_a_picture(server: str, tmp_path: Path) -> None:
    body = encoded(picture(40, 60))
    code, out, err = shell("-", "--server", server, "--format", "png", stdin=body)
    assert code == 0, err
    assert (opened(out).size, opened(out).format) == ((60, 40), "PNG")
    _, out, _ = shell("-", "--server", server, "-o", tmp_path / "a.jpg", stdin=body)
    assert opened((tmp_path / "a.jpg").read_bytes()).format == "JPEG"
    assert out.decode() == f"{tmp_path}/a.jpg\n"
    _, out, _ = shell(tmp_path / "a.jpg", "--server", server, "-o", "-")
    assert opened(out).size == (60, 40)
    code, out, err = shell("-", "--server", server, stdin=b"bad")
    assert (code, out) == (1, b"")
    assert "standard input: 415: Not a picture." in err
    assert names(tmp_path) == {"a.jpg"}


NAMES = [os.fsdecode(name) for name in (b"caf\xe9.jpg", "Краков.jpg".encode(), "😀é.jpg".encode())]
NAMES += ["x" * 250 + ".jpg", "new\nline.jpg", "-dash.jpg", 'it\'s "quoted".jpg', " .jpg"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8:strict", "latin-1", "utf-8:surrogateescape"])
def test_pictures_of_any_name_are_colorized_and_told(
    server: str, tmp_path: Path, encoding: str
) -> None:
    for name in NAMES:
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).write_bytes(encoded(picture(40, 60), "JPEG"))
    (tmp_path / "in" / "Прага.jpg").write_bytes(b"bad")
    command = [tmp_path / "in", "--out", tmp_path / "out", "--server", server]
    _, _, err = shell(*command, encoding=encoding)
    assert f"{len(NAMES)} colorized, 1 failed" in err
    assert names(tmp_path / "out") == set(NAMES)
    _, out, _ = shell(*command, "--json", "--overwrite", encoding=encoding)
    lines = [json.loads(line) for line in out.decode(encoding.split(":")[0]).splitlines()]
    told = {Path(line["picture"]).name for line in lines}
    assert told == {*NAMES, "Прага.jpg"}


def test_the_module_tells_its_version_and_help_needs_neither_torch_nor_numpy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "colorizer", "--help"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for line in ("0    all", "1    some", "2    nothing", "130  interrupted", "--server ADDRESS"):
        assert line in done.stdout
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "colorizer.commands.cli" in imported
    assert not {"torch", "numpy"} & imported
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
