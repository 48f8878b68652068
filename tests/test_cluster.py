"""`colorizer FOLDER --out DIR --ray ADDRESS`: a folder by the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest
from PIL import Image

from colorizer.commands import cli
from colorizer.options import Options
from colorizer.recipe import Head
from export import archive
from tests.support import ROOT, SECONDS, encoded, picture

if TYPE_CHECKING:
    from colorizer.commands.cluster import Work

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
        if path.is_file()
    }


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def listens_on(process: psutil.Process) -> set[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        connections = process.net_connections()
        return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return set()


def a_working_worker(process: subprocess.Popen[str], out: Path) -> psutil.Process:
    """Wait for the first result, and find a worker that has pictures in hand, or had just now."""
    until = time.monotonic() + SECONDS
    while not list(out.rglob("*.jpg")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    titles = {}
    for one in family(process):
        with contextlib.suppress(psutil.Error):
            titles["".join(one.cmdline()[:1])] = one
    # Ray shows the call in the process's title.
    return titles.get("ray::Worker.colorize") or titles["ray::Worker"]


def test_all_is_coloured_as_without_ray_though_a_worker_is_killed_and_later_runs_do_what_is_missing(
    model: Path, album: Path, tmp_path: Path
) -> None:
    out, plain = tmp_path / "out", tmp_path / "plain"
    arguments = [album, "--model", model, "--worker-cores", "1", "--json"]
    process = start(*arguments, "--out", out, "--ray", "local", "--batch", "2")
    try:
        victim = a_working_worker(process, out)
        listening = list(map(listens_on, family(process)))
        victim.send_signal(signal.SIGKILL)
        told, said = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
    assert set().union(*listening) <= {"127.0.0.1", "::ffff:127.0.0.1"}
    assert any(listening)
    assert process.returncode == 1, said
    assert "a worker died and is replaced" in said
    assert f"{PICTURES + 1} colorized, 1 failed, 0 there already" in said
    assert "Traceback" not in said
    lines = [json.loads(line) for line in told.splitlines()]
    assert sorted(line["picture"] for line in lines) == sorted(files(album))
    assert [line["picture"] for line in lines if "error" in line] == ["broken.jpg"]

    check = start(*arguments[:3], "--out", plain)
    check.communicate(timeout=SECONDS)
    assert files(out) == files(plain)
    assert sorted(line["colour"] for line in lines if "colour" in line) == sorted(files(out))

    (album / "broken.jpg").unlink()
    (out / "004.png.jpg").unlink()
    before = (out / "002.png.jpg").stat().st_mtime_ns
    again = start(*arguments, "--out", out, "--ray", "local")
    told, said = again.communicate(timeout=SECONDS)
    assert again.returncode == 0, said
    assert f"1 colorized, 0 failed, {PICTURES} there already" in said
    assert [json.loads(line)["picture"] for line in told.splitlines()] == ["004.png"]
    assert (out / "002.png.jpg").stat().st_mtime_ns == before
    assert files(out) == files(plain)


def test_ctrl_c_ends_the_run_and_the_cluster_within_seconds(
    model: Path, album: Path, tmp_path: Path
) -> None:
    arguments = ["--model", model, "--worker-cores", "1", "--ray", "local"]
    process = start(album, "--out", tmp_path / "out", *arguments)
    try:
        a_working_worker(process, tmp_path / "out")
        others = family(process)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130
    assert said.endswith("interrupted; the same command goes on where it was\n")
    assert psutil.wait_procs(others, timeout=SECONDS)[1] == []
    assert all(Image.open(io.BytesIO(body)).load() for body in files(tmp_path / "out").values())


@pytest.fixture(scope="module")
def ray_here() -> Iterator[None]:
    """A cluster of this process, of four cores and a GPU as far as Ray knows."""
    from colorizer.commands import cluster  # sets what Ray reads when it is imported

    assert cluster.STORE_BYTES
    import ray

    ray.init(
        address="local",
        num_cpus=4,
        num_gpus=1,
        include_dashboard=False,
        object_store_memory=256 * 1024**2,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture
def joined(ray_here: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command use that cluster, instead of starting its own."""
    from colorizer.commands import cluster

    monkeypatch.setattr(cluster, "connected", lambda address: contextlib.nullcontext())


class Copier:
    """A worker that copies; files in the folder above the target say how it fails."""

    def load(self, model: bytes, work: Work) -> list[str | None]:
        self.source, self.target = Path(work.source), Path(work.target)
        marks = self.target.parent
        if (marks / "unable").exists():
            raise OSError("no room on this machine")
        if (marks / "one able").exists():
            try:
                (marks / "one able" / "this").rmdir()
            except FileNotFoundError:
                raise OSError("no room on this machine") from None
        (marks / "loaded").open("a").write("x")
        return []

    def colorize(self, names: list[str]) -> list[str | None]:
        for name in names:
            time.sleep(0.05)
            if self.source.joinpath(name).read_bytes() == b"deadly":
                os._exit(1)
            self.target.joinpath(name).write_bytes(b"colours")
        return [None] * len(names)


@pytest.fixture
def copied(
    joined: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], tuple[int, set[str]]]:
    """Run the command with workers that copy 20 pictures: its result, and what is done."""
    from ray import cloudpickle

    from colorizer.commands import cluster

    here = tmp_path / "here"
    for folder in (here, tmp_path / "out"):
        folder.mkdir()
    for number in range(20):
        (here / f"{number}.jpg").write_bytes(b"harmless")
    monkeypatch.setattr(cluster, "Worker", Copier)
    monkeypatch.setattr(cluster, "pack", lambda model: b"")
    # Workers get its code, and need not import this file with all that it imports.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])

    def run() -> tuple[int, set[str]]:
        work = cluster.Work(str(here), str(tmp_path / "out"), Options(), False, "cpu", 2)
        failed = cluster.colorize_folder(work, Path("none"), "local", 2, False)
        return failed, set(files(tmp_path / "out"))

    return run


def test_a_worker_that_cannot_load_is_given_no_picture_and_told_once(
    copied: Callable[[], tuple[int, set[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one able" / "this").mkdir(parents=True)
    assert copied() == (0, set(files(tmp_path / "here")))
    said = capsys.readouterr().err
    assert said.count("a worker cannot start, the others go on: no room on this machine") == 1
    assert (tmp_path / "loaded").read_text() == "x"


def test_what_keeps_every_worker_from_loading_is_told_once_and_no_picture_fails(
    copied: Callable[[], tuple[int, set[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from colorizer.commands import cluster

    (tmp_path / "unable").touch()
    with pytest.raises(cluster.CannotStart, match=r"^no worker can start: no room on this machine"):
        copied()
    told = capsys.readouterr()
    assert told.out == ""
    assert "no room" not in told.err


def test_a_picture_that_kills_its_workers_fails_alone(
    copied: Callable[[], tuple[int, set[str]]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("3.jpg", "4.jpg"):
        (tmp_path / "here" / name).write_bytes(b"deadly")
    failed, done = copied()
    assert failed == 2
    assert done == set(files(tmp_path / "here")) - {"3.jpg", "4.jpg"}
    said = capsys.readouterr().err
    for name in ("3.jpg", "4.jpg"):
        assert f"{name}: 3 workers died while they had it in hand" in said


@pytest.mark.parametrize(
    ("device", "cores", "fitted"),
    [
        (None, 1, (None, 1, 1)),  # four workers by the cores, but one by the GPU
        (None, None, (None, 4, 1)),
        ("cuda:1", 2, ("cuda:0", 2, 1)),
        ("cpu", 1, ("cpu", 1, 4)),
        ("cpu", 3, ("cpu", 3, 1)),
    ],
)
def test_workers_are_counted_by_gpus_where_they_use_them(
    device: str | None, cores: int | None, fitted: tuple[str | None, int, int], ray_here: None
) -> None:
    from colorizer.commands import cluster

    work, workers = cluster.fit(cluster.Work("", "", Options(), False, device, cores))
    assert (work.device, work.threads, workers) == fitted


def test_a_gpu_is_shared_by_no_two_workers_and_all_is_done(
    copied: Callable[[], tuple[int, set[str]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from colorizer.commands import cluster

    monkeypatch.setattr(cluster, "uses_gpus", lambda device: True)
    assert copied() == (0, set(files(tmp_path / "here")))
    assert (tmp_path / "loaded").read_text() == "x"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--device", "cuda"], "no worker can start: "),
        (["--decoding", "mode"], "no worker can start: decoding"),
        (["--out", "{album}/000.jpg/out"], "Not a directory"),
        (["--out", "/proc/none"], "no worker can start: [Errno 2]"),
        (["--model", "{album}/000.jpg"], "000.jpg is not an archive"),
        (["--model", "{album}/none.mar"], "no archive at"),
        (["--worker-cores", "5"], "no machine of the cluster has 5 cores; choose --worker-cores 4"),
    ],
)
def test_what_would_fail_for_every_picture_is_told_once(
    arguments: list[str],
    said: str,
    joined: None,
    model: Path,
    album: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = [one.format(album=album) for one in arguments]
    plain = ["--out", str(tmp_path / "out"), "--model", str(model), "--ray", "local"]
    cores = ["--worker-cores", "2"]
    assert cli.main([str(album), *plain, *cores, *given]) == 2
    told = capsys.readouterr()
    assert told.err.splitlines()[-1].startswith("colorizer: ")
    assert said in told.err.splitlines()[-1]
    assert told.out == ""


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
