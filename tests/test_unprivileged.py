"""The server as a user without rights, who can write to its logs and its TMPDIR alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support import ROOT, SECONDS, encoded, free_port, opened, picture, put, wait_for_line

NOBODY = 65534
# Who may read everything: Python itself may lie in root's home. It may write nothing by that.
SETPRIV = [
    *("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"),
    *("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"),
]


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """What lies in a folder, and when and how large each file was written; links not followed."""
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name not in (".git", ".venv")]
        for name in [*folders, *names]:
            path = Path(parent, name)
            seen = path.lstat()
            # A folder's own time changes with what is in it, which is listed.
            written = 0 if path.is_dir() else seen.st_mtime_ns
            found[str(path)] = (written, 0 if path.is_dir() else seen.st_size)
    return found


def owned() -> set[Path]:
    """What the user without rights has written into the folder that all may write to."""
    found = Path("/tmp").rglob("*")  # Java's own is there, whatever TMPDIR says
    return {path for path in found if _owner(path) == NOBODY}


def _owner(path: Path) -> int | None:
    try:
        return path.lstat().st_uid
    except OSError:  # another program's, and gone already
        return None


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where nobody can get to, as pytest's own temporary folders are for one user alone."""
    path = Path(tempfile.mkdtemp(prefix="unprivileged-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.mark.server
def test_the_server_needs_no_rights_and_writes_to_its_logs_alone(
    archives: Path, folder: Path
) -> None:
    """Where the tests have no rights themselves, it runs as they do, and only writes are held."""
    root = os.geteuid() == 0 and shutil.which("setpriv") is not None
    for name in ("home", "logs", "temporary", "store"):
        (folder / name).mkdir()
        if root and name in ("logs", "temporary"):
            os.chown(folder / name, NOBODY, NOBODY)
    shutil.copy(archives / "colorize.mar", folder / "store")
    command = [*(SETPRIV if root else []), sys.executable, "-B", "-m", "handlers.torchserve.serve"]
    command += ["--port", str(free_port()), "--model-store", str(folder / "store")]
    command += ["--logs", str(folder / "logs")]
    environment = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temporary")}
    environment |= {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    before, elsewhere = files(ROOT) | files(folder), owned()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT
    )
    try:
        wait_for_line(process, "Ready in ")
        url = wait_for_line(process, "curl ").split()[1]
        reply = put(url, encoded(picture(60, 80)))
        assert reply.status == 200
        assert opened(reply.body).size == (80, 60)
        for one in psutil.Process(process.pid).children(recursive=True):
            assert not root or set(one.uids()) == {NOBODY}, one
        assert all(path.is_relative_to(folder) for path in owned() - elsewhere)
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    after = files(ROOT) | files(folder)
    changed = {path for path in before | after if before.get(path) != after.get(path)}
    assert changed
    assert {str(Path(path).parent) for path in changed} == {str(folder / "logs")}
