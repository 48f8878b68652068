"""Checkpoint -> .mar that carries all it needs: graph, handler, settings and this library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

import colorizer
from colorizer.engine import MANIFEST, read_graph
from export import torchscript

ROOT = Path(__file__).resolve().parent.parent
HANDLER = ROOT / "handlers" / "torchserve_handler.py"
SETTINGS = ROOT / "handlers" / "model-config.yaml"

# What TorchServe 0.12 reads. Source: org.pytorch.serve.archive.model.ModelConfig in its
# model-server.jar; all but these are ignored silently there.
_COUNTS = {
    *("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout"),
    *("startupTimeout", "parallelLevel", "maxRetryTimeoutInSec", "clientTimeoutInMills"),
    *("jobQueueSize", "sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxSequenceJobQueueSize"),
    "maxNumSequence",
}
_SWITCHES = {
    *("useJobTicket", "continuousBatching", "sequenceBatching", "asyncCommunication", "useVenv"),
}
_OTHERS = {"deviceType", "parallelType", "deviceIds", "torchrun"}
_HANDLER = {"threads"}


class BadSettings(Exception):
    """A model-config.yaml with a key or value that would be ignored."""


class ArchiveFailed(Exception):
    """The archiver ended without an archive."""


def archive(weights: Path, out: Path, say: Callable[[str], None] = print) -> Path:
    """Write a .mar, whole or not at all; its name without the suffix is the model's name.

    Args:
        weights: a checkpoint.
        out: the .mar to write.
        say: takes lines of progress.

    Raises:
        BadSettings: if handlers/model-config.yaml has a key or value that would be ignored.
        NotEqual, BadCheckpoint, FileNotFoundError: as `torchscript.export`.
        ArchiveFailed: if torch-model-archiver fails.
    """
    check_settings(yaml.safe_load(SETTINGS.read_text()))
    with tempfile.TemporaryDirectory(prefix="export-") as temporary:
        work = Path(temporary)
        torchscript.export(weights, work / "graph", say)
        stage = work / "stage"  # the archiver copies what is inside, so the package keeps its name
        shutil.copytree(
            ROOT / "colorizer", stage / "colorizer", ignore=shutil.ignore_patterns("__pycache__")
        )
        shutil.copy(work / "graph" / MANIFEST, stage)
        command = [
            *(sys.executable, "-m", "model_archiver.model_packaging"),
            *("--model-name", out.stem, "--version", colorizer.__version__),
            *("--serialized-file", str(work / "graph" / torchscript.FILE)),
            *("--handler", str(HANDLER), "--config-file", str(SETTINGS)),
            *("--extra-files", str(stage), "--export-path", str(work), "--runtime", "python3"),
            *("--archive-format", "zip-store"),  # weights do not compress
        ]
        # The archiver works in the temporary folder under the model's name, whoever else does.
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "TMPDIR": temporary}
        )
        made = work / f"{out.stem}.mar"
        if done.returncode or not made.exists():
            raise ArchiveFailed(
                f"torch-model-archiver failed: {(done.stderr or done.stdout)[-500:]}"
            )
        check_archive(made)
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = out.with_name(f".{out.name}.{os.getpid()}")
        try:
            shutil.copy(made, beside)  # another disk, perhaps: so copy first, then rename
            os.replace(beside, out)
        finally:
            beside.unlink(missing_ok=True)
    say(f"wrote {out} ({out.stat().st_size / 1e6:.0f} MB)")
    return out


def check_settings(settings: Mapping[str, Any]) -> None:
    """Hold model-config.yaml against what TorchServe and our handler read.

    Raises:
        BadSettings: naming the first key that is unknown or has a value of the wrong type.
    """
    for key, value in settings.items():
        if key == "handler":
            unknown = set(value or {}) - _HANDLER
            if unknown:
                raise BadSettings(f"handler has no setting {sorted(unknown)[0]!r}")
        elif key in _COUNTS:
            if type(value) is not int or value < 0:
                raise BadSettings(f"{key} must be a whole number, not {value!r}")
        elif key in _SWITCHES:
            if type(value) is not bool:
                raise BadSettings(f"{key} must be true or false, not {value!r}")
        elif key not in _OTHERS:
            raise BadSettings(f"TorchServe has no setting {key!r} and would ignore it")


def check_archive(path: Path) -> None:
    """Unpack an archive and hold its graph against its manifest.

    Raises:
        BadGraph: if they do not fit.
    """
    with tempfile.TemporaryDirectory(prefix="export-") as temporary:
        with zipfile.ZipFile(path) as file:
            file.extractall(temporary)
        read_graph(Path(temporary))
