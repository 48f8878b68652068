"""Graphs and archives: equal to their networks, whole, and sufficient by themselves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml

from colorizer import checkpoint
from colorizer.engine import MANIFEST, BadGraph, TorchScript, read_graph
from colorizer.pipeline import Pipeline
from colorizer.unet import Head, UNet
from export import __main__ as command
from export import archive, torchscript
from tests.support import SIDE, encoded, opened, picture

Weights = Callable[[Head], Path]
HEADS: list[Head] = ["regression", "classification"]


@pytest.fixture(scope="module")
def graphs(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A graph of each head."""
    folder = tmp_path_factory.mktemp("graphs")
    for head in HEADS:
        torchscript.export(weights(head), folder / head)
    return {head: folder / head for head in HEADS}


@pytest.fixture(scope="module")
def mar(weights: Weights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return archive.archive(
        weights("classification"), tmp_path_factory.mktemp("store") / "colorize-classes.mar"
    )


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_graph_equals_its_network_at_any_batch(
    head: Head, batch: int, weights: Weights, graphs: dict[str, Path]
) -> None:
    net, _ = checkpoint.load(weights(head))
    lightness = 100 * torch.rand(batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = net(lightness)
    found = TorchScript(graphs[head] / torchscript.FILE)(lightness)
    assert expected.shape == (batch, 2 if head == "regression" else 261, SIDE, SIDE)
    assert float((expected - found).abs().max()) < 0.01


def test_the_manifest_tells_what_the_graph_is(weights: Weights, graphs: dict[str, Path]) -> None:
    graph = read_graph(graphs["classification"])
    assert (graph.head, graph.side, len(graph.bins)) == ("classification", SIDE, 261)
    assert graph.max_error <= torchscript.TOLERANCE
    assert graph.versions["torch"] == str(torch.__version__)


def test_a_graph_over_the_tolerance_is_not_written(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = torchscript.trace

    def wrong(net: UNet) -> torch.jit.ScriptModule:
        other = UNet(net.config).eval()
        other.load_state_dict(net.state_dict())
        other.head[-1].bias.data += 0.001  # x AB_SCALE: 0.11 ab units
        return right(other)

    monkeypatch.setattr(torchscript, "trace", wrong)
    with pytest.raises(torchscript.NotEqual, match=r"0\.11"):
        torchscript.export(weights("regression"), tmp_path / "graph")
    assert list(tmp_path.iterdir()) == []


def test_a_graph_that_answers_nan_is_not_written(
    weights: Weights, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torchscript, "largest_error", lambda *_: float("nan"))
    with pytest.raises(torchscript.NotEqual):
        torchscript.export(weights("regression"), tmp_path / "graph")
    assert list(tmp_path.iterdir()) == []


def test_an_altered_graph_is_refused_with_the_command_that_rebuilds_it(
    graphs: dict[str, Path], tmp_path: Path
) -> None:
    body = bytearray((graphs["regression"] / torchscript.FILE).read_bytes())
    body[len(body) // 2] ^= 1
    (tmp_path / torchscript.FILE).write_bytes(body)
    (tmp_path / MANIFEST).write_bytes((graphs["regression"] / MANIFEST).read_bytes())
    with pytest.raises(BadGraph, match="python -m export"):
        Pipeline.load(tmp_path)


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"file": "graph.pt", "surprise": 1}'])
def test_a_manifest_that_makes_no_sense_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text)
    with pytest.raises(BadGraph, match="python -m export"):
        read_graph(tmp_path)


def test_an_archive_holds_graph_handler_settings_and_library(mar: Path) -> None:
    with zipfile.ZipFile(mar) as file:
        names = set(file.namelist())
        manifest = json.loads(file.read("MAR-INF/MANIFEST.json"))["model"]
    expected = {"graph.pt", "graph.json", "model-config.yaml", "torchserve_handler.py"}
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
for name in ("torchvision", "skimage", "lightning", "safetensors", "training", "export"):
    sys.modules[name] = None
model, picture = sys.argv[1:]
sys.path.append(model)  # TorchServe puts it behind PYTHONPATH
import torchserve_handler
context = types.SimpleNamespace(
    system_properties={"model_dir": model, "gpu_id": None},
    model_yaml_config={"handler": {"threads": 1}},
    get_all_request_header=lambda index: {},
    get_request_id=lambda index: "",
    set_response_header=lambda index, name, value: None,
    set_response_content_type=lambda index, value: None,
)
handler = torchserve_handler.ColorizeHandler()
handler.initialize(context)
body = pathlib.Path(picture).read_bytes()
(reply,) = handler.handle([{"body": bytearray(body)}], context)
pathlib.Path("out").write_bytes(reply)
import colorizer
assert colorizer.__file__.startswith(model), colorizer.__file__
"""


def test_the_shipped_settings_are_ones_that_torchserve_reads() -> None:
    settings = yaml.safe_load(archive.SETTINGS.read_text())
    archive.check_settings(settings)
    assert settings["batchSize"] > 1


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batchsize": 8}, "batchsize"),
        ({"batchSize": "8"}, "batchSize"),
        ({"batchSize": True}, "batchSize"),
        ({"useJobTicket": 1}, "useJobTicket"),
        ({"handler": {"thread": 1}}, "thread"),
    ],
)
def test_a_setting_that_would_be_ignored_is_refused(
    settings: dict[str, object], named: str
) -> None:
    with pytest.raises(archive.BadSettings, match=named):
        archive.check_settings(settings)


def test_the_command_says_in_one_line_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    missing = str(tmp_path / "missing.safetensors")
    assert command.main(["archive", missing, "--out", str(tmp_path / "a.mar")]) == 1
    assert capsys.readouterr().err == f"export: no checkpoint at {missing}\n"
    assert list(tmp_path.iterdir()) == []


def test_the_command_writes_a_graph(weights: Weights, tmp_path: Path) -> None:
    out = tmp_path / "graph"
    assert command.main(["torchscript", str(weights("regression")), "--out", str(out)]) == 0
    assert read_graph(out).head == "regression"
