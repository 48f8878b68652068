"""Start TorchServe or Triton for a measurement, on free ports of this machine, and stop it."""

from __future__ import annotations

import contextlib
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks.results import Unusable
from handlers.triton import install

ROOT = Path(__file__).resolve().parent.parent
STORE = ROOT / "model_store"
ARCHIVE = "colorize.mar"  # in a store, beside the folder triton/
NAMES = ("torchserve", "triton")
START_SECONDS = 300.0
STOP_SECONDS = 40.0
TICK = 0.2
LAST_LINES = 15  # of the log of a server that doesn't start


def missing(name: str, store: Path = STORE) -> str:
    """Say why a server can't be started here, and what to do; empty if it can."""
    if name == "torchserve":
        archive = store / ARCHIVE
        return "" if archive.exists() else f"{archive} is missing: run `make archives`"
    if not (install.SERVER / "bin" / "tritonserver").exists():
        return "Triton is not installed: run `python -m handlers.triton.install`"
    if not (store / "triton" / "colorize" / "config.pbtxt").exists():
        return f"{store / 'triton'} is missing: run `make triton`"
    return ""


@contextlib.contextmanager
def served(name: str, store: Path = STORE) -> Iterator[str]:
    """Run a server with the regression network until the block ends.

    Args:
        name: one of NAMES.
        store: folder of the archive, and of Triton's repository.

    Yields:
        The address to post to.

    Raises:
        Unusable: if it can't be started.
    """
    reason = missing(name, store)
    if reason:
        raise Unusable(reason)
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as temporary:
        port, log = free_port(), Path(temporary, "server.log")
        environment = dict(os.environ)
        address = f"http://127.0.0.1:{port}"
        if name == "torchserve":
            command = [sys.executable, "-m", "handlers.torchserve.serve", "--port", str(port)]
            command += ["--model-store", str(store.resolve()), "--models", ARCHIVE]
            command += ["--logs", str(Path(temporary, "logs"))]
            url = f"{address}/predictions/colorize"
        else:
            command, environment = triton(store.resolve() / "triton", port)
            command += ["--model-control-mode=explicit", "--load-model=colorize"]
            url = f"{address}/v2/models/colorize/infer"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=out, stderr=out, start_new_session=True
            )
        try:
            _wait(name, process, f"{address}/v2/health/ready", log)
            yield url
        finally:
            _stop(process)


def free_port() -> int:
    """Find five free ports in a row, and give the first.

    At random, so that tests in other processes find others; below the ports that systems choose.
    """
    for first in random.choices(range(20000, 32000, 5), k=1000):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + 5):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise Unusable("there are no five free ports in a row")


def triton(repository: Path, port: int) -> tuple[list[str], dict[str, str]]:
    """Build the command and environment of Triton on three ports: HTTP, gRPC and metrics."""
    command = [str(install.SERVER / "bin" / "tritonserver"), f"--model-repository={repository}"]
    command += [f"--backend-directory={install.SERVER / 'backends'}", "--exit-timeout-secs=60"]
    command += ["--disable-auto-complete-config"]  # otherwise each model is started twice
    for number, service in enumerate(("http", "grpc", "metrics"), start=port):
        command += [f"--{service}-address=127.0.0.1", f"--{service}-port={number}"]
    for service in ("http", "grpc"):
        command += [f"--{service}-header-forward-pattern=(?i)x-colorize-.*|traceparent|tracestate"]
    # Its Python finds this environment by the first python3 on the path, not by PYTHONPATH.
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    environment = {**os.environ, "PATH": os.pathsep.join(folders), "OMP_WAIT_POLICY": "PASSIVE"}
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    environment["LD_LIBRARY_PATH"] = str(install.LIBRARY.parent)
    return command, environment


def _wait(name: str, process: subprocess.Popen[bytes], ready: str, log: Path) -> None:
    """Wait until a server has loaded its network."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if name == "torchserve" and b"Ready in " in log.read_bytes():  # its launcher checks
            return
        if name == "triton":
            with contextlib.suppress(OSError), opener.open(ready, timeout=5):
                return
        time.sleep(TICK)
    last = "\n".join(log.read_text(errors="replace").splitlines()[-LAST_LINES:])
    raise Unusable(f"{name} did not start:\n{last}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to end, and kill it if it doesn't."""
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
