"""Two versions of a model side by side, and the switch back, on the real servers.

docs/deploy.md tells how; the second version is the other network, so that its pictures differ.
"""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from colorizer.commands.client import Refused, Server
from colorizer.pipeline import Pipeline
from colorizer.recipe import Head
from export import archive
from tests.support import (
    SECONDS,
    encoded,
    free_port,
    picture,
    start_launcher,
    start_triton,
    wait_for_line,
    wait_until_ready,
)

pytestmark = pytest.mark.server
PHOTO = encoded(picture(60, 80), "JPEG")


def colours(model: Path) -> bytes:
    return Pipeline.load(model).colorize(PHOTO).body


def send(method: str, url: str) -> None:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, method=method), timeout=SECONDS):
        return


def test_torchserve_serves_two_archives_of_one_model_and_switches_at_a_word(
    archives: Path,
    weights: Callable[[Head], Path],
    staged_once: Callable[[], AbstractContextManager[None]],
    tmp_path: Path,
) -> None:
    store, port = tmp_path / "store", free_port()
    store.mkdir()
    os.link(archives / "colorize.mar", store / "colorize.mar")
    given = [str(weights("classification")), "--model-version", "0.2.0", "--engine", "onnx"]
    with staged_once():
        assert archive.main([*given, "--out", str(store / "next.mar")]) == 0
    first, second = colours(store / "colorize.mar"), colours(store / "next.mar")
    assert first != second
    (tmp_path / "work").mkdir()
    models = ["--models", "colorize=colorize.mar", "colorize=next.mar"]
    process = start_launcher(store, tmp_path / "work", "--port", str(port), *models)
    base, api = f"http://127.0.0.1:{port}/predictions/colorize", f"http://127.0.0.1:{port + 1}"
    try:
        wait_for_line(process, "Ready in ")
        lines = [wait_for_line(process, "curl ").split()[1] for _ in range(2)]
        assert sorted(lines) == [f"{base}/0.1.0", f"{base}/0.2.0"]
        assert Server(base).colorize(PHOTO) == first  # the one that was named first
        for version, expected in (("0.2.0", second), ("0.1.0", first)):
            send("PUT", f"{api}/models/colorize/{version}/set-default")
            assert Server(base).colorize(PHOTO) == expected
            assert Server(f"{base}/{version}").colorize(PHOTO) == expected
    finally:
        process.terminate()
        process.communicate(timeout=SECONDS)


def test_triton_serves_each_folder_of_a_model_and_switches_when_one_is_moved_away(
    repository: Path, tmp_path: Path
) -> None:
    models, port = tmp_path / "models", free_port()
    shutil.copytree(repository / "colorize", models / "colorize")
    shutil.copytree(repository / "colorize-classes" / "1", models / "colorize" / "2")
    first, second = (colours(models / "colorize" / version) for version in "12")
    assert first != second
    explicit = ("--model-control-mode=explicit", "--load-model=*")
    process = start_triton(models, tmp_path, port, *explicit)
    base = f"http://127.0.0.1:{port}/v2/models/colorize"
    load = f"http://127.0.0.1:{port}/v2/repository/models/colorize/load"
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, tmp_path / "triton.log")
        for version, expected in (("1", first), ("2", second)):
            assert Server(f"{base}/versions/{version}/infer").colorize(PHOTO) == expected
        assert Server(f"{base}/infer").colorize(PHOTO) == second
        (models / "colorize" / "2").rename(tmp_path / "withdrawn")
        send("POST", load)
        assert Server(f"{base}/infer").colorize(PHOTO) == first
        with pytest.raises(Refused, match="version 2"):
            Server(f"{base}/versions/2/infer").colorize(PHOTO)
        (tmp_path / "withdrawn").rename(models / "colorize" / "2")
        send("POST", load)
        assert Server(f"{base}/infer").colorize(PHOTO) == second
    finally:
        process.terminate()
        process.wait(SECONDS)
