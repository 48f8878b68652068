"""`colorizer FOLDER --out DIR --ray ADDRESS`: a folder by the workers of a Ray cluster."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from colorizer.commands import cli
from colorizer.recipe import Head
from export import archive
from tests.support import ROOT, SECONDS, encoded, picture

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None,
    reason="the extra 'ray' is not installed",
)
PICTURES = 24


@pytest.fixture(scope="module")
def model(weights: Callable[[Head], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("model") / "model.mar"
    return archive.archive(weights("regression"), out, say=lambda line: None)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of pictures, some deeper, two of one name, and one that is broken."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    for number in range(PICTURES):
        where = folder / "deep" if number % 2 else folder
        (where / f"{number:03}.png").write_bytes(encoded(picture(500, 600, seed=number)))
    (folder / "000.jpg").write_bytes(encoded(picture(40, 60), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


def start(*arguments: object) -> subprocess.Popen[str]:
    """The command as a shell starts it, on one thread as each worker has."""
    command = [sys.executable, "-m", "colorizer.commands.cli", *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=-1)


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".colorizer" not in path.parts
    }


def recorded(out: Path) -> list[dict[str, str]]:
    parts = sorted((out / ".colorizer").glob("*.jsonl"))
    return [json.loads(line) for part in parts for line in part.read_text().splitlines()]


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    found = []
    for one in psutil.Process(process.pid).children(recursive=True):
        try:
            if one.cmdline() and one.cmdline()[0].startswith("ray::Worker"):
                found.append(one)
        except psutil.NoSuchProcess:
            continue
    return found


def test_each_picture_is_coloured_once_though_a_worker_is_killed_and_a_restart_does_what_is_missing(
    model: Path, album: Path, tmp_path: Path
) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    arguments = [album, "--model", model, "--worker-cores", "1"]
    process = start(*arguments, "--out", out, "--ray", "local", "--batch", "2")
    try:
        until = time.monotonic() + SECONDS
        while len(made := list(out.rglob("*.jpg"))) < 3 and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.01)
        victim = workers_of(process)[0]
        victim.send_signal(signal.SIGKILL)
        _, said = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
    assert len(made) < PICTURES
    assert process.returncode == 1, said
    assert "1 failed, " in said
    assert "broken.jpg: The file is not a JPEG" in said
    assert "Traceback" not in said

    lines = recorded(out)
    assert sorted(line["picture"] for line in lines) == sorted(files(album))
    assert [line["picture"] for line in lines if "error" in line] == ["broken.jpg"]
    check = start(*arguments[:3], "--out", plain)
    check.communicate(timeout=SECONDS)
    assert len(files(plain)) == PICTURES + 1
    assert files(out) == files(plain)

    # As if the run had been killed before it could record a picture, and another were missing.
    lost, missing = (line for line in lines if line["picture"] in ("002.png", "004.png"))
    for part in (out / ".colorizer").glob("*.jsonl"):
        kept = [line for line in part.read_text().splitlines() if "00" not in line]
        part.write_text("\n".join(kept))
    (out / missing["colour"]).unlink()
    before = (out / lost["colour"]).stat().st_mtime_ns
    again = start(*arguments, "--out", out, "--ray", "local")
    _, said = again.communicate(timeout=SECONDS)
    assert f"1 colorized, 1 failed, {PICTURES} there already" in said
    assert (out / lost["colour"]).stat().st_mtime_ns == before
    assert files(out) == files(plain)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--ray", "127.0.0.1:{nobody}"], "no Ray cluster answers at"),
        (["--ray", "here"], "--ray takes local, auto or HOST:PORT"),
        (["--ray", "local", "--worker-cores", "0"], "--worker-cores must be"),
        (["--ray", "local", "--server", "http://127.0.0.1:9"], "--ray takes one folder"),
        (["--ray", "local", "--quality", "0"], "quality is '0'"),
    ],
)
def test_what_a_cluster_cannot_do_is_said_in_one_line(
    arguments: list[str],
    said: str,
    model: Path,
    album: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = str(server.getsockname()[1])
    given = [one.format(nobody=nobody) for one in arguments]
    command = [str(album), "--out", str(tmp_path / "out"), "--model", str(model), *given]
    assert cli.main(command) == 2
    assert said in capsys.readouterr().err


def test_an_address_needs_a_cluster_and_ray_says_how_to_get_it(
    album: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["s3://bucket/photos", "--out", "x"]) == 2
    assert "addresses need --ray" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main([str(album), "--out", "x", "--ray", "local"]) == 2
    assert "pip install 'colorizer[ray]'" in capsys.readouterr().err
