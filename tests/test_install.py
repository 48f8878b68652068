"""The wheels, as a new user has them: in an environment of their own, without torch."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

import colorizer
from colorizer.recipe import Head
from export import wheels
from tests.support import ROOT, encoded, opened, picture

pytestmark = pytest.mark.documents  # minutes on a busy machine

# All that the program needs, and what that needs; linked from this environment, so that the test
# needs no network.
NEEDED = ("numpy", "pillow", "opencv-python-headless", "simplejpeg", "onnxruntime")
THEIRS = ("flatbuffers", "packaging", "protobuf")


class Installed(NamedTuple):
    folder: Path
    wheels: list[Path]

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run one of the environment's programs, in a folder outside the repository."""
        return subprocess.run(
            [str(self.folder / "environment" / "bin" / command[0]), *command[1:]],
            cwd=self.folder,
            env={"PATH": "/usr/bin:/bin", "HOME": str(self.folder)},
            capture_output=True,
            text=True,
            timeout=120,
        )


@pytest.fixture(scope="module")
def installed(
    weights: Callable[[Head], Path], tmp_path_factory: pytest.TempPathFactory
) -> Installed:
    """An environment with the program and the weights of a small regression network."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copy(weights("regression"), folder / "small.safetensors")
    for name in wheels.LICENCES:
        shutil.copy(ROOT / "model_store" / name, folder)
    made = [
        wheels.program(folder / "dist"),
        wheels.weights(folder / "small.safetensors", folder / "dist"),
    ]
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder / "environment")]
    subprocess.run(command, check=True)
    python = str(folder / "environment" / "bin" / "python")
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet"]
    subprocess.run([*command, "--no-index", "--no-deps", *map(str, made)], check=True)
    (site,) = (folder / "environment").rglob("site-packages")
    for name in (*NEEDED, *THEIRS):
        tops = {path.parts[0] for path in distribution(name).files or () if ".." not in path.parts}
        for top in tops - {"__pycache__"}:
            (site / top).symlink_to(Path(str(distribution(name).locate_file(top))))
    (folder / "photo.png").write_bytes(encoded(picture(40, 60)))
    return Installed(folder, made)


def test_the_wheels_say_what_they_need_and_hold_their_licences(installed: Installed) -> None:
    program, weights = map(zipfile.ZipFile, installed.wheels)
    (metadata,) = (name for name in program.namelist() if name.endswith(".dist-info/METADATA"))
    lines = program.read(metadata).decode().splitlines()
    needed = [line for line in lines if line.startswith("Requires-Dist") and ";" not in line]
    needs = [line.split()[1] for line in needed]
    assert {one.partition(">")[0].partition("<")[0] for one in needs} == set(NEEDED)
    assert not any("==" in one for one in needs)
    assert {"colorizer/py.typed", "colorizer/page/static/index.html"} <= set(program.namelist())
    assert not [name for name in program.namelist() if name.startswith(("tests", "export"))]
    (licence,) = (name for name in weights.namelist() if name.endswith("LICENSE-WEIGHTS"))
    assert weights.read(licence) == (ROOT / "model_store" / "LICENSE-WEIGHTS").read_bytes()


def test_a_photograph_is_colorized_without_torch(installed: Installed) -> None:
    done = installed.run("colorizer", "photo.png")
    assert done.returncode == 0, done.stderr
    colour = opened((installed.folder / "photo.png-colour.jpg").read_bytes())
    assert colour.size == (60, 40)
    assert np.ptp(np.asarray(colour).astype(int), axis=2).max() > 5
    found = installed.run("python", "-c", "import importlib.util as i; print(i.find_spec('torch'))")
    assert found.stdout == "None\n"
    assert installed.run("colorizer", "--version").stdout == f"{colorizer.__version__}\n"
    for command in (["python", "-m", "colorizer"], ["colorizer-film"], ["colorizer-page"]):
        assert installed.run(*command, "--version").returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--model", "classification"], "photo_colorizer_classification-0.1.0-py3-none-any.whl"),
        (["--model", "small.safetensors"], "torch and safetensors is not installed: pip install"),
        (["--model", "nothing.mar"], "there is no model at nothing.mar; name a network"),
        (["--ray", "local", "--out", "out"], "pip install 'photo-colorizer[ray]'"),
        (["--decoding", "mode"], "--model classification"),
    ],
)
def test_what_is_missing_is_said_with_what_to_do(
    arguments: list[str], said: str, installed: Installed
) -> None:
    done = installed.run("colorizer", "photo.png", "--overwrite", *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_weights_that_were_altered_are_refused(installed: Installed) -> None:
    (graph,) = (installed.folder / "environment").rglob("onnx/graph.onnx")
    body = graph.read_bytes()
    graph.write_bytes(body[:-1] + bytes([body[-1] ^ 1]))
    try:
        done = installed.run("colorizer", "photo.png", "-o", "other.jpg")
    finally:
        graph.write_bytes(body)
    assert done.returncode == 2
    assert "was altered after its export" in done.stderr
