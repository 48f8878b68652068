"""A disk without room: servers and commands say so in a line, and leave nothing half-written."""

from __future__ import annotations

import os
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from colorizer.commands import cli
from export import archive
from tests.support import (
    SECONDS,
    Capture,
    Weights,
    coloured,
    encoded,
    free_port,
    opened,
    picture,
    put,
    running_torchserve,
    start_launcher,
)
from tests.test_serve import ECHO, write_archive

SIZE = 20 * 2**20  # bytes of the small disk: more than the launcher wants for logs, not much more


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, so small that it is soon full."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = str(getattr(error, "stderr", error)).strip()
        pytest.skip(f"a small disk can't be mounted, which takes root's rights: {said}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, left: int = 0) -> Path:
    """Leave so many bytes, and give the file that takes the others."""
    path = disk / "filler"
    seen = os.statvfs(disk)
    with path.open("wb") as file:
        file.write(bytes(seen.f_bavail * seen.f_frsize - left))
    return path


def test_the_launcher_refuses_a_disk_without_room_for_logs_or_archives(
    disk: Path, tmp_path: Path
) -> None:
    write_archive(tmp_path / "store" / "echo.mar", ECHO)
    with zipfile.ZipFile(tmp_path / "store" / "echo.mar", "a") as file:
        file.writestr("weights", bytes(SIZE))
    for full, variables in [("unpacked archives", {"TMPDIR": str(disk)}), ("logs", {})]:
        if full == "logs":
            fill(disk)
        arguments = ["--logs", str(disk / "logs")] if full == "logs" else []
        port = str(free_port())
        command = tmp_path / "store", tmp_path, "--port", port, *arguments
        process = start_launcher(*command, **variables)
        said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 1
        assert said.startswith("serve: ")
        assert said.count("\n") == 1, said
        assert f"needed ({full}): free some, or choose " in said
        assert not list(disk.glob("serve-*"))


@pytest.mark.server
def test_a_server_whose_logs_find_no_room_any_more_goes_on_answering(
    disk: Path, tmp_path: Path
) -> None:
    write_archive(tmp_path / "store" / "echo.mar", ECHO)
    arguments = ["--logs", str(disk / "logs")]
    with running_torchserve(tmp_path / "store", tmp_path, *arguments) as server:
        fill(disk)
        for number in range(20):
            body = bytes([number]) * 100_000
            assert put(server.url("echo"), body).body == body
        server.process.terminate()
        said, _ = server.process.communicate(timeout=SECONDS)
    assert "Stopped." in said
    assert server.process.returncode == 0


def test_the_command_tells_which_picture_found_no_room_and_goes_on_later(
    disk: Path, archives: Path, tmp_path: Path, capsys: Capture
) -> None:
    for name, size in [("large", (1200, 1600)), ("small", (60, 80))]:
        (tmp_path / f"{name}.png").write_bytes(encoded(picture(*size)))
    filler = fill(disk, left=64 * 2**10)
    pictures = [str(tmp_path / f"{name}.png") for name in ("large", "small")]
    command = [*pictures, "--out", str(disk), "--format", "png"]
    command += ["--model", str(archives / "colorize.mar")]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "large.png: [Errno 28] No space left on device" in said
    assert "1 colorized, 1 failed" in said
    assert {path.name for path in disk.iterdir()} == {"filler", "small.png"}
    filler.unlink()
    assert cli.main(command) == 0
    assert "1 colorized, 0 failed, 1 there already" in capsys.readouterr().err
    assert opened((disk / "large.png").read_bytes()).size == (1600, 1200)


def test_export_says_in_one_line_that_there_is_no_room_and_keeps_what_was_there(
    disk: Path, weights: Weights, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "one.png").write_bytes(encoded(coloured(0)))
    out = disk / "colorize.mar"
    out.write_text("an earlier archive")
    fill(disk, left=2**20)
    command = [str(weights("regression")), "--out", str(out), "--engine", "torchscript"]
    assert archive.main([*command, "--photos", str(tmp_path / "photos")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("export: "), said
    assert "No space left on device" in said
    assert said.count("\n") == 1, said
    assert out.read_text() == "an earlier archive"
    assert {path.name for path in disk.iterdir()} == {"filler", "colorize.mar"}
