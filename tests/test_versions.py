"""Two versions of a model side by side, and the switch back, on the real servers.

docs/deploy.md tells how; the second version is the other network, so that its pictures differ.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from colorizer.commands.client import Refused, Server
from colorizer.pipeline import Pipeline
from export import archive
from tests.support import (
    Sharing,
    Weights,
    encoded,
    picture,
    running_torchserve,
    running_triton,
    send,
    wait_for_line,
)

pytestmark = pytest.mark.server
PHOTO = encoded(picture(60, 80), "JPEG")


def colours(model: Path) -> bytes:
    return Pipeline.load(model).colorize(PHOTO).body


def test_torchserve_serves_two_archives_of_one_model_and_switches_at_a_word(
    archives: Path, weights: Weights, staged_once: Sharing, tmp_path: Path
) -> None:
    store, work = tmp_path / "store", tmp_path / "work"
    store.mkdir()
    work.mkdir()
    os.link(archives / "colorize.mar", store / "colorize.mar")
    given = [str(weights("classification")), "--model-version", "0.2.0", "--engine", "onnx"]
    with staged_once():
        assert archive.main([*given, "--out", str(store / "next.mar")]) == 0
    first, second = colours(store / "colorize.mar"), colours(store / "next.mar")
    assert first != second
    models = ["--models", "colorize=colorize.mar", "colorize=next.mar"]
    with running_torchserve(store, work, *models) as server:
        base, api = server.url("colorize"), f"http://127.0.0.1:{server.port + 1}"
        lines = [wait_for_line(server.process, "curl ").split()[1] for _ in range(2)]
        assert sorted(lines) == [f"{base}/0.1.0", f"{base}/0.2.0"]
        assert Server(base).colorize(PHOTO) == first  # the one that was named first
        for version, expected in (("0.2.0", second), ("0.1.0", first)):
            assert send("PUT", f"{api}/models/colorize/{version}/set-default").status == 200
            assert Server(base).colorize(PHOTO) == expected
            assert Server(f"{base}/{version}").colorize(PHOTO) == expected


def test_triton_serves_each_folder_of_a_model_and_switches_when_one_is_moved_away(
    repository: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(repository / "colorize", models / "colorize")
    shutil.copytree(repository / "colorize-classes" / "1", models / "colorize" / "2")
    first, second = (colours(models / "colorize" / version) for version in "12")
    assert first != second
    explicit = ("--model-control-mode=explicit", "--load-model=*")
    with running_triton(models, tmp_path, *explicit) as server:
        base = f"{server.url}/v2/models/colorize"
        load = f"{server.url}/v2/repository/models/colorize/load"
        for version, expected in (("1", first), ("2", second)):
            assert Server(f"{base}/versions/{version}/infer").colorize(PHOTO) == expected
        assert Server(f"{base}/infer").colorize(PHOTO) == second
        (models / "colorize" / "2").rename(tmp_path / "withdrawn")
        assert send("POST", load).status == 200
        assert Server(f"{base}/infer").colorize(PHOTO) == first
        with pytest.raises(Refused, match="version 2"):
            Server(f"{base}/versions/2/infer").colorize(PHOTO)
        (tmp_path / "withdrawn").rename(models / "colorize" / "2")
        assert send("POST", load).status == 200
        assert Server(f"{base}/infer").colorize(PHOTO) == second
