"""Pictures made by the tests, and servers started by them."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).parent.parent
SECONDS = 120.0  # far more than anything here takes, even on a busy machine

SIDE = 64  # of the tests' small networks


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W) uint8: soft shapes from dark to light, so that JPEG keeps them."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def coloured(seed: int, height: int = 80, width: int = 100, detail: int = 4) -> np.ndarray:
    """(H, W, 3) uint8: soft patches of colour."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (detail, detail, 3), dtype=np.uint8))
    return np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC))


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    """A file of these pixels."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def opened(body: bytes) -> Image.Image:
    """The picture in these bytes, decoded."""
    im = Image.open(io.BytesIO(body))
    im.load()
    return im


def start_launcher(
    store: Path, work: Path, *arguments: str, **variables: str
) -> subprocess.Popen[str]:
    """Start `python -m handlers.serve` in the folder `work`, as a shell would."""
    environment = {key: value for key, value in os.environ.items() if key != "JAVA_HOME"}
    environment |= {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", **variables}
    command = [sys.executable, "-m", "handlers.serve", "--model-store", str(store)]
    command += ["--config", str(ROOT / "config.properties"), *arguments]
    return subprocess.Popen(
        command, cwd=work, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
    )


def wait_for_line(process: subprocess.Popen[str], text: str) -> str:
    """Read until a line has text; fail when the output ends before."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return line
    raise AssertionError(f"{text!r} was never said")


def free_port() -> int:
    """Find five free ports in a row, and give the first."""
    for first in range(20000 + os.getpid() % 20000, 60000, 5):
        if all(is_free(port) for port in range(first, first + 5)):
            return first
    raise AssertionError("no five free ports in a row")


def is_free(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0
