"""`colorizer FOLDER --out DIR --ray ADDRESS`: a folder by the workers of a Ray cluster."""

from __future__ import annotations

import contextlib
import functools
import importlib.util
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

from colorizer.commands import cli
from colorizer.options import Options
from colorizer.pipeline import Pipeline
from tests.support import ROOT, SECONDS, Capture, Patch, encoded, opened, picture

if TYPE_CHECKING:
    from colorizer.commands.cluster import Work

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None or importlib.util.find_spec("pyarrow") is None,
    reason="the extra 'ray' is not installed",
)
PICTURES = 24


@pytest.fixture(scope="module")
def model(folders: dict[str, Path]) -> Path:
    """A folder with a graph."""
    return folders["regression"] / "onnx"


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder of pictures, some deeper, two of one name, and one that is broken."""
    folder = tmp_path / "album"
    (folder / "deep").mkdir(parents=True)
    bodies = [encoded(picture(500, 600, seed=seed)) for seed in range(4)]
    for number in range(PICTURES):
        where = folder / "deep" if number % 2 else folder
        (where / f"{number:03}.png").write_bytes(bodies[number % 4])
    (folder / "000.jpg").write_bytes(encoded(picture(40, 60), "JPEG"))
    (folder / "broken.jpg").write_bytes(b"not a picture")
    return folder


@contextlib.contextmanager
def running(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run the command as a shell does, in a process group of its own; end it if it still runs."""
    command = [sys.executable, "-m", "colorizer.commands.cli", *map(str, arguments)]
    process = subprocess.Popen(
        command, cwd=ROOT, text=True, stdout=-1, stderr=-1, start_new_session=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def family(parent: int) -> list[psutil.Process]:
    return psutil.Process(parent).children(recursive=True)


def listens_on(process: psutil.Process) -> set[str]:
    with contextlib.suppress(psutil.NoSuchProcess):
        connections = process.net_connections()
        return {one.laddr.ip for one in connections if one.status == psutil.CONN_LISTEN}
    return set()


def workers_at_work(process: subprocess.Popen[str], above: int, out: Path) -> list[psutil.Process]:
    """Wait for the first result; returns the cluster's workers, which descend from `above`."""
    until = time.monotonic() + SECONDS
    while not list(out.rglob("*.jpg")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)
    found = []
    for one in family(above):
        with contextlib.suppress(psutil.NoSuchProcess):
            if "ray::Worker" in "".join(one.cmdline()[:1]):  # Ray shows the actor's class
                found.append(one)
    return found


def test_a_cluster_of_one_machine_listens_on_localhost_only_and_ctrl_c_ends_it(
    model: Path, album: Path, tmp_path: Path
) -> None:
    arguments = ["--model", model, "--worker-cores", "1", "--ray", "local"]
    for number in range(1000):
        (album / f"{number}.png").hardlink_to(album / "000.png")
    with running(album, "--out", tmp_path / "out", *arguments) as process:
        assert workers_at_work(process, process.pid, tmp_path / "out")
        others = family(process.pid)
        listening = list(map(listens_on, others))
        os.killpg(process.pid, signal.SIGINT)  # as a terminal sends it
        _, said = process.communicate(timeout=SECONDS)
        left = psutil.wait_procs(others, timeout=SECONDS)[1]
    assert any(listening)
    assert set().union(*listening) <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert process.returncode == 130, said
    assert said.endswith("interrupted; the same command resumes\n")
    assert not left
    for body in files(tmp_path / "out").values():
        opened(body)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The address of a cluster of this process, of two cores as far as Ray knows."""
    from colorizer.commands import cluster  # sets what Ray reads when it is imported

    assert cluster.STORE_BYTES
    import ray

    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        object_store_memory=256 * 1024**2,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def joined(address: str, monkeypatch: Patch) -> None:
    """Let the command use that cluster in this process, which is connected to it."""
    from colorizer.commands import cluster

    monkeypatch.setattr(cluster, "connected", lambda address: contextlib.nullcontext())


def test_all_is_colorized_as_without_ray_though_a_worker_is_killed(
    address: str, model: Path, album: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    # One worker, so it is at work.
    arguments = ["--model", model, "--worker-cores", "2", "--batch", "2"]
    with running(album, "--out", out, "--ray", address, *arguments, "--json") as process:
        workers_at_work(process, os.getpid(), out)[0].kill()
        told, said = process.communicate(timeout=SECONDS)
    assert process.returncode == 1, said
    assert "a worker died: " in said
    assert f"{PICTURES + 1} colorized, 1 failed, 0 there already" in said
    assert "Traceback" not in said
    lines = {line["picture"]: line for line in map(json.loads, told.splitlines())}
    assert len(told.splitlines()) == len(lines)
    assert set(lines) == set(files(album))
    assert set(lines.pop("broken.jpg")) == {"picture", "error"}
    plain = functools.cache(Pipeline.load(model, "cpu", threads=2).colorize)
    assert files(out) == {
        line["colour"]: plain((album / name).read_bytes()).body for name, line in lines.items()
    }


def test_a_later_run_makes_what_is_missing(
    joined: None, model: Path, album: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "out"
    arguments = ["--model", str(model), "--worker-cores", "2", "--ray", "local"]
    for path in [*album.glob("0*.png"), *album.glob("deep/*"), album / "broken.jpg"]:
        if path.stem not in ("002", "003"):
            path.unlink()
    (out / "deep").mkdir(parents=True)
    (out / "002.png.jpg").write_bytes(b"kept")
    assert cli.main([str(album), "--out", str(out), *arguments]) == 0
    told = capsys.readouterr()
    assert "2 colorized, 0 failed, 1 there already" in told.err
    assert sorted(told.out.splitlines()) == ["000.jpg", "deep/003.png.jpg"]
    assert files(out).keys() == {"000.jpg", "002.png.jpg", "deep/003.png.jpg"}
    assert (out / "002.png.jpg").read_bytes() == b"kept"


class Copier:
    """A worker that copies; files in the folder above the target say how it fails."""

    def load(self, model: bytes, work: Work) -> list[str | None]:
        self.source, self.target = Path(work.source), Path(work.target)
        marks = self.target.parent
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
def copied(joined: None, tmp_path: Path, monkeypatch: Patch) -> Callable[[], tuple[int, set[str]]]:
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
        work = cluster.Work(str(here), str(tmp_path / "out"), Options(), False, "cpu", 1)
        failed = cluster.colorize_folder(work, Path("none"), "local", 2, False)
        return failed, set(files(tmp_path / "out"))

    return run


def test_a_worker_that_cannot_load_is_given_no_picture_and_told_once(
    copied: Callable[[], tuple[int, set[str]]], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "one able" / "this").mkdir(parents=True)
    assert copied() == (0, set(files(tmp_path / "here")))
    said = capsys.readouterr().err
    assert said.count("a worker cannot start, the others go on: no room on this machine") == 1
    assert (tmp_path / "loaded").read_text() == "x"


def test_a_picture_that_kills_its_workers_fails_alone(
    copied: Callable[[], tuple[int, set[str]]], tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "here" / "3.jpg").write_bytes(b"deadly")
    failed, done = copied()
    assert failed == 1
    assert done == set(files(tmp_path / "here")) - {"3.jpg"}
    assert "3.jpg: 3 workers died while they had it in hand" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("machines", "device", "threads", "fitted"),
    [
        ([(4, 1)], None, 1, (None, 1, 1, 1)),  # four workers by the cores, but one by the GPU
        ([(4, 1)], None, None, (None, 4, 1, 1)),
        ([(8, 0), (16, 4), (9, 2)], "cuda:1", None, ("cuda:0", 4, 1, 6)),
        ([(8, 0), (16, 4), (9, 2)], "cpu", 4, ("cpu", 4, 0, 8)),
        ([(4, 0)], None, 3, (None, 3, 0, 1)),
        ([(4, 0)], "cuda", None, "no machine of the cluster has a GPU, for --device cuda"),
        ([(8, 0), (4, 1)], "cuda", 5, "has 5 cores; choose --worker-cores 4"),
        ([(4, 0), (8, 0)], "cpu", 9, "has 9 cores; choose --worker-cores 8"),
    ],
)
def test_workers_are_counted_by_gpus_where_they_use_them(
    machines: list[tuple[int, int]],
    device: str | None,
    threads: int | None,
    fitted: tuple[str | None, int, int, int] | str,
    monkeypatch: Patch,
) -> None:
    from colorizer.commands import cluster

    nodes = [{"Alive": True, "Resources": {"CPU": cpu, "GPU": gpu}} for cpu, gpu in machines]
    monkeypatch.setattr("ray.nodes", lambda: [*nodes, {"Alive": False, "Resources": {}}])
    work = cluster.Work("", "", Options(), False, device, threads)
    if isinstance(fitted, str):
        with pytest.raises(cluster.CannotStart, match=fitted):
            cluster.fit(work)
    else:
        work, workers = cluster.fit(work)
        assert (work.device, work.threads, work.gpus, workers) == fitted


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--decoding", "mode"], "no worker can start: decoding"),
        (["--out", "{album}/000.jpg/out"], "Not a directory"),
        (["--out", "/proc/none"], "no worker can start: [Errno 2]"),
        (["--model", "{album}/000.jpg"], "000.jpg is not an archive"),
        (["--model", "{album}/none.mar"], "no model at"),
        (["--worker-cores", "0"], "--worker-cores must be"),
        (["--server", "http://127.0.0.1:9"], "--ray takes one folder"),
        (["--quality", "0"], "quality is '0'"),
    ],
)
def test_what_would_fail_for_every_picture_is_told_once(
    arguments: list[str],
    said: str,
    joined: None,
    model: Path,
    album: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    given = [one.format(album=album) for one in arguments]
    plain = ["--out", str(tmp_path / "out"), "--model", str(model), "--ray", "local"]
    assert cli.main([str(album), *plain, "--worker-cores", "1", *given]) == 2  # two workers
    told = capsys.readouterr()
    assert told.err.splitlines()[-1].startswith("colorizer: ")
    assert said in told.err.splitlines()[-1]
    assert told.err.count(said) == 1
    assert told.out == ""


def test_an_address_needs_a_cluster_and_ray_says_how_to_get_it(
    model: Path, album: Path, capsys: Capture, monkeypatch: Patch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        nobody = f"127.0.0.1:{server.getsockname()[1]}"
    folder = [str(album), "--out", "x", "--model", str(model)]
    for address, said in ((nobody, "no Ray cluster answers at"), ("here", "HOST:PORT of a head")):
        assert cli.main([*folder, "--ray", address]) == 2
        assert said in capsys.readouterr().err
    assert cli.main(["s3://bucket/photos", "--out", "x"]) == 2
    assert "addresses need --ray" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    assert cli.main([*folder, "--ray", "local"]) == 2
    assert "pip install 'photo-colorizer[ray]'" in capsys.readouterr().err
