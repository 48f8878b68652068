"""TorchServe and Triton, started for a measurement on free ports of this machine, and stopped."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import urllib.request
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "model_store"
ARCHIVE = "colorize.mar"  # in a store, beside the folder triton/
# Where `make test` installs Triton (handlers/triton/install.py).
TRITON = Path(sys.prefix, "triton", "pytriton", "tritonserver")
NAMES = ("torchserve", "triton")
START_SECONDS = 300.0
STOP_SECONDS = 40.0
TICK = 0.2
LAST_LINES = 15  # of a log, when a server doesn't start


class NoServer(Exception):
    """A server that can't be started, or doesn't answer; the message says what to do."""


def missing(name: str, store: Path = STORE) -> str:
    """Why a server can't be started here; empty where it can."""
    if name == "torchserve":
        archive = store / ARCHIVE
        return "" if archive.exists() else f"{archive} is missing: run `make archives`"
    if not (TRITON / "bin" / "tritonserver").exists():
        return "Triton is not installed: run `python -m handlers.triton.install`"
    if not (store / "triton" / "colorize" / "config.pbtxt").exists():
        return f"{store / 'triton'} is missing: run `make triton`"
    return ""


@dataclass(frozen=True)
class Changes:
    """Settings other than those of the archive or repository, which stays as it is.

    Attributes:
        workers: processes that hold the network.
        threads: of each worker's network; 0: as many as cores.
        delay: milliseconds that a photograph waits for company.
    """

    workers: int = 1
    threads: int = 0
    delay: int = 1


@contextlib.contextmanager
def served(name: str, changes: Changes | None = None, store: Path = STORE) -> Iterator[str]:
    """Run a server with the regression network until the block ends.

    Args:
        name: one of NAMES.
        changes: None leaves what the archive or repository says.
        store: folder of the archive, and of Triton's repository.

    Yields:
        The address to post to.

    Raises:
        NoServer: if it can't be started.
    """
    reason = missing(name, store)
    if reason:
        raise NoServer(reason)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        work, port = Path(temporary), free_port()
        make = _torchserve if name == "torchserve" else _triton
        command, environment, ready, url = make(store.resolve(), work, port, changes)
        log = work / "server.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        try:
            _wait(name, process, ready, log)
            yield url
        finally:
            _stop(process)


def free_port() -> int:
    """Find five free ports in a row, and give the first."""
    for first in range(20000 + os.getpid() % 20000, 60000, 5):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + 5):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise NoServer("no five free ports in a row")


_Start = tuple[list[str], dict[str, str], str, str]  # command, environment, ready?, where to post


def _torchserve(store: Path, work: Path, port: int, changes: Changes | None) -> _Start:
    if changes:
        changed = work / "store"
        changed.mkdir()
        _change(store / ARCHIVE, changed / ARCHIVE, changes)
        store = changed
    command = [
        sys.executable,
        "-m",
        "handlers.torchserve.serve",
        "--port",
        str(port),
        "--model-store",
    ]
    command += [str(store), "--models", ARCHIVE, "--logs", str(work / "logs")]
    url = f"http://127.0.0.1:{port}"
    return command, dict(os.environ), f"{url}/ping", f"{url}/predictions/colorize"


def _change(archive: Path, out: Path, changes: Changes) -> None:
    """Copy an archive with other settings."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            body = old.read(name)
            if name == "model-config.yaml":
                settings = yaml.safe_load(body)
                settings.update(minWorkers=changes.workers, maxWorkers=changes.workers)
                settings.update(maxBatchDelay=changes.delay)
                settings["handler"]["threads"] = changes.threads
                body = yaml.safe_dump(settings).encode()
            new.writestr(name, body)


def _triton(store: Path, work: Path, port: int, changes: Changes | None) -> _Start:
    repository = store / "triton"
    if changes:
        repository = work / "models"
        shutil.copytree(store / "triton" / "colorize", repository / "colorize")
        config = repository / "colorize" / "config.pbtxt"
        text = config.read_text()
        for pattern, value in (
            (r"(instance_group \{ count: )\d+", changes.workers),
            (r'(key: "threads" value \{ string_value: ")\d+', changes.threads),
            (r"(max_queue_delay_microseconds: )\d+", 1000 * changes.delay),
        ):
            text, found = re.subn(pattern, rf"\g<1>{value}", text)
            if not found:
                raise NoServer(f"{config} has another form: export it again, by `make triton`")
        config.write_text(text)
    command = [str(TRITON / "bin" / "tritonserver"), f"--model-repository={repository}"]
    command += [f"--backend-directory={TRITON / 'backends'}", "--disable-auto-complete-config"]
    command += ["--model-control-mode=explicit", "--load-model=colorize"]
    for number, service in enumerate(("http", "grpc", "metrics"), start=port):
        command += [f"--{service}-address=127.0.0.1", f"--{service}-port={number}"]
    # Its Python finds this environment by the first python3 on the path, not by PYTHONPATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    environment = {**os.environ, "PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as handlers.torchserve.serve has it
    environment["LD_LIBRARY_PATH"] = str(sysconfig.get_config_var("LIBDIR"))
    url = f"http://127.0.0.1:{port}/v2"
    return command, environment, f"{url}/health/ready", f"{url}/models/colorize/infer"


def _wait(name: str, process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    """Wait until a server has loaded its network."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if name == "torchserve" and b"Ready in " in log.read_bytes():  # its launcher has asked
            return
        if name == "triton":
            with contextlib.suppress(OSError), opener.open(ready, timeout=5):
                return
        time.sleep(TICK)
    said = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    raise NoServer(f"{name} did not start:\n{said}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End a server, as a person would, and kill it where that doesn't help."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
