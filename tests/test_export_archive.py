"""Archives: whole, sufficient by themselves, and the same each time."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from skimage.color import deltaE_ciede2000, rgb2lab

from colorizer import checkpoint
from colorizer.engines import Eager
from colorizer.graph import Name, find
from colorizer.options import Options
from colorizer.pipeline import Pipeline
from export import archive, parity, serving, verify
from export.serving import Settings
from tests.support import Capture, Weights, encoded, opened, picture

ON_CPU: list[Name] = ["torchscript", "onnx"]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def mar(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive.archive(
        weights("classification"),
        tmp_path_factory.mktemp("store") / "colorize-classes.mar",
        quiet,
        ["onnx"],
    )


def test_an_archive_holds_graph_handler_settings_and_library(mar: Path) -> None:
    with zipfile.ZipFile(mar) as file:
        names = set(file.namelist())
        manifest = json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]
    expected = {"onnx/graph.onnx", "onnx/graph.json", "model-config.yaml", "handler.py"}
    assert expected | {"colorizer/pipeline.py", "colorizer/image.py"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("training")]
    assert manifest["modelName"] == "colorize-classes"
    assert manifest["configFile"] == "model-config.yaml"


def test_an_archive_runs_with_no_copy_of_this_project(mar: Path, tmp_path: Path) -> None:
    """Unpack it, and let another process run the handler there, away from the repository."""
    with zipfile.ZipFile(mar) as file:
        file.extractall(tmp_path / "model")
    (tmp_path / "in.png").write_bytes(encoded(picture(70, 90)))
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    # A colorizer elsewhere on the path, as an inherited PYTHONPATH would give, must not win.
    decoy = tmp_path / "decoy" / "colorizer"
    decoy.mkdir(parents=True)
    (decoy / "__init__.py").write_text("raise ImportError('the wrong colorizer was imported')")
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "model"), str(tmp_path / "in.png")],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(decoy.parent)},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert opened((tmp_path / "out").read_bytes()).size == (90, 70)


WORKER = """
import pathlib, sys, types
# what a plain TorchServe lacks must not be asked for
unneeded = "torch torchvision skimage lightning safetensors onnx training export"
for name in unneeded.split():
    sys.modules[name] = None
model, picture = sys.argv[1:]
sys.path.append(model)  # TorchServe puts it behind PYTHONPATH
import handler
context = types.SimpleNamespace(
    system_properties={"model_dir": model, "gpu_id": None},
    model_yaml_config={"handler": {"threads": 1}},
    get_all_request_header=lambda index: {},
    get_request_id=lambda index: "",
    set_response_header=lambda index, name, value: None,
    set_response_content_type=lambda index, value: None,
)
handler = handler.ColorizeHandler()
handler.initialize(context)
body = pathlib.Path(picture).read_bytes()
(reply,) = handler.handle([{"body": bytearray(body)}], context)
pathlib.Path("out").write_bytes(reply)
import colorizer
assert colorizer.__file__.startswith(model), colorizer.__file__
"""


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("batch: 8", "bach: 8", "has no setting 'bach'; did you mean batch?"),
        ("batch: 8", "sauce: 8", "has no setting 'sauce'; there are workers, batch, "),
        ("batch: 8", "batch: '8'", "batch must be a whole number from 1, not '8'"),
        ("batch: 8", "batch: true", "batch must be a whole number from 1, not True"),
        ("batch: 8", "batch: 0", "batch must be a whole number from 1, not 0"),
        ("batch: 8", "batch: 8\nbatch: 9", "gives a setting twice"),
        ("batch: 8", "", "lacks batch"),
        ("batch: 8", "batch: [", "is not YAML"),
    ],
)
def test_settings_that_would_be_ignored_or_make_no_sense_are_refused(
    before: str, after: str, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "serving.yaml"
    text = serving.SETTINGS.read_text()
    assert f"\n{before}\n" in text
    path.write_text(text.replace(f"\n{before}\n", f"\n{after}\n"))
    with pytest.raises(serving.BadSettings, match=re.escape(said)):
        Settings.read(path)
    path.write_text("")
    with pytest.raises(serving.BadSettings, match="has no settings"):
        Settings.read(path)


def test_the_same_checkpoint_gives_the_same_bytes(
    mar: Path, weights: Weights, tmp_path: Path
) -> None:
    again = archive.archive(weights("classification"), tmp_path / mar.name, quiet, ["onnx"])
    assert again.read_bytes() == mar.read_bytes()


def test_verify_takes_what_export_wrote(mar: Path, capsys: Capture) -> None:
    assert verify.main([str(mar)]) == 0
    assert "all as export wrote them" in capsys.readouterr().out


def rewritten(mar: Path, path: Path, change: Callable[[dict[str, bytes]], object]) -> Path:
    """Copy an archive with its files changed."""
    with zipfile.ZipFile(mar) as old:
        files = {name: old.read(name) for name in old.namelist()}
    change(files)
    with zipfile.ZipFile(path, "w") as new:
        for name, body in files.items():
            new.writestr(name, body)
    return path


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda files: files.update({"model-config.yaml": b"minWorkers: 9"}), "was altered"),
        (lambda files: files.update({"more.py": b""}), "did not write"),
        (lambda files: files.pop("colorizer/lab.py"), "lacks colorizer/lab.py"),
        (lambda files: files.pop("MAR-INF/MANIFEST.json"), "no archive of this project"),
    ],
)
def test_verify_refuses_an_archive_that_was_changed(
    change: Callable[[dict[str, bytes]], object],
    said: str,
    mar: Path,
    tmp_path: Path,
    capsys: Capture,
) -> None:
    path = rewritten(mar, tmp_path / "a.mar", change)
    assert verify.main([str(path)]) == 1
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    path.write_text("hello")
    assert verify.main([str(path), str(tmp_path / "none.mar")]) == 1
    assert capsys.readouterr().err.count("\n") == 2


def test_an_archive_can_carry_several_engines_that_give_the_eager_networks_pictures(
    weights: Weights, tmp_path: Path
) -> None:
    path = archive.archive(weights("regression"), tmp_path / "a.mar", quiet, engines=ON_CPU)
    with zipfile.ZipFile(path) as file:
        file.extractall(tmp_path / "a")
    assert set(find(tmp_path / "a")) == set(ON_CPU)
    assert verify.verify(path)
    body, options = encoded(picture(211, 307)), Options.parse({"format": "png"})
    loaded = [Pipeline.load(tmp_path / "a", engine=name) for name in ON_CPU]
    net, _ = checkpoint.load(weights("regression"))
    eager = Pipeline(loaded[0].graph, Eager(net))
    expected, *found = [
        rgb2lab(np.asarray(opened(one.colorize(body, options).body))) for one in (eager, *loaded)
    ]
    assert np.abs(expected[..., 1:]).max() > 5  # there is colour to differ in
    for one in found:
        difference = deltaE_ciede2000(expected, one)
        assert difference.mean() <= parity.TOLERANCE["float32"]["delta_e"]
