"""Which engine runs a graph, and which graphs are refused."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from colorizer import engine
from colorizer.engine import BadGraph, Graph, Name, OnnxRuntime, TorchScript
from colorizer.unet import Head
from export import graphs
from export.graphs import Source
from tests.support import SIDE, picture

GPU = "NVIDIA H100 PCIe, compute 9.0"
PLAN = Graph(
    file="graph.plan",
    sha256=hashlib.sha256(b"plan").hexdigest(),
    head="regression",
    side=SIDE,
    bins=(),
    decoding="mean",
    temperature=1.0,
    chroma_gain=1.0,
    max_error=0.0,
    versions={"tensorrt": "10.16.1"},
    provenance={},
    engine="tensorrt",
    precision="float16",
    batches=(1, 8, 8),
    gpu=GPU,
)


@pytest.fixture(scope="module")
def folder(weights: Callable[[Head], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Graphs for both engines of the CPU."""
    source = Source.read(weights("regression"), [picture(64, 64)])
    made = tmp_path_factory.mktemp("graphs")
    names: list[Name] = ["torchscript", "onnx"]
    for name in names:
        graphs.export(source, name, made / name, [], say=lambda line: None)
    return made


def without(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a package look as if it were not installed."""
    right = engine.installed
    monkeypatch.setattr(engine, "installed", lambda name: name != package and right(name))


def test_auto_takes_onnx_runtime_on_a_cpu_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        graph, run = engine.load(folder)
    assert graph.engine == "onnx"
    assert isinstance(run, OnnxRuntime)
    assert "engine onnx on cpu (preferred)" in caplog.text


def test_auto_takes_torchscript_where_onnx_runtime_is_missing_and_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    without("onnxruntime", monkeypatch)
    with caplog.at_level(logging.INFO):
        _, run = engine.load(folder)
    assert isinstance(run, TorchScript)
    assert "onnxruntime is not installed: pip install onnxruntime" in caplog.text


def test_a_named_engine_is_taken_or_refused_never_replaced(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(engine.load(folder, name="torchscript")[1], TorchScript)
    with pytest.raises(BadGraph, match=r"no graph for it.*onnx, torchscript"):
        engine.load(folder, name="tensorrt")
    without("onnxruntime", monkeypatch)
    with pytest.raises(BadGraph, match="pip install onnxruntime"):
        engine.load(folder, name="onnx")


def test_a_folder_that_is_one_graph_is_loaded_too(folder: Path) -> None:
    graph, run = engine.load(folder / "torchscript")
    assert graph.engine == "torchscript"
    assert run(torch.zeros(1, 1, SIDE, SIDE)).shape == (1, 2, SIDE, SIDE)


def test_onnx_runtime_uses_as_many_threads_as_torch_was_given(folder: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        run = OnnxRuntime(folder / "onnx" / "graph.onnx")
        assert run._session.get_session_options().intra_op_num_threads == 1
    finally:
        torch.set_num_threads(before)


def test_an_empty_folder_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(BadGraph, match=r"graph\.json is missing.*python -m export"):
        engine.load(tmp_path)


def test_an_unknown_engine_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    text = (tmp_path / "onnx" / engine.MANIFEST).read_text()
    (tmp_path / "onnx" / engine.MANIFEST).write_text(text.replace('"onnx",', '"openvino",'))
    with pytest.raises(BadGraph, match="openvino"):
        engine.load(tmp_path)


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, version: str, gpu: str) -> None:
    """Make this machine one with a GPU and TensorRT, as far as manifests are concerned."""
    monkeypatch.setattr(engine, "installed", lambda name: True)
    monkeypatch.setattr(engine.importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(engine, "gpu_name", lambda device: gpu)


@pytest.mark.parametrize(
    ("changes", "version", "gpu", "said"),
    [
        ({}, "10.16.1", GPU, ""),
        ({}, "10.17.0", GPU, "of TensorRT 10.16.1, and 10.17.0"),
        ({"version_compatible": True}, "10.17.0", GPU, ""),
        ({"version_compatible": True}, "10.9.0", GPU, "of TensorRT 10.16.1, and 10.9.0"),
        ({"version_compatible": True}, "11.4.0.106", GPU, "of TensorRT 10.16.1, and 11.4.0"),
        ({}, "10.16.1", "NVIDIA H200, compute 9.0", "built on NVIDIA H100"),
        ({"hardware": "same-compute-capability"}, "10.16.1", "NVIDIA H200, compute 9.0", ""),
        ({"hardware": "same-compute-capability"}, "10.16.1", "RTX, compute 12.0", "this is RTX"),
        ({"hardware": "ampere-plus"}, "10.16.1", "RTX, compute 12.0", ""),
        ({"hardware": "ampere-plus"}, "10.16.1", "T4, compute 7.5", "this is T4"),
    ],
)
def test_a_plan_is_refused_by_another_tensorrt_or_gpu_unless_it_was_built_for_them(
    changes: dict[str, object],
    version: str,
    gpu: str,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    on_a_gpu(monkeypatch, version, gpu)
    reason = engine.misfit(dataclasses.replace(PLAN, **changes), "cuda:0")  # type: ignore[arg-type]
    assert said in reason
    assert ("python -m export CHECKPOINT --to tensorrt" in reason) == bool(said)
    assert bool(reason) == bool(said)


def test_a_plan_is_refused_where_there_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "graph.plan").write_bytes(b"plan")
    PLAN.write(tmp_path)
    assert engine.read_graph(tmp_path) == PLAN
    with pytest.raises(BadGraph, match=r"tensorrt is not installed: pip install tensorrt$"):
        engine.load(tmp_path, name="tensorrt")
    on_a_gpu(monkeypatch, "10.16.1", GPU)
    with pytest.raises(BadGraph, match="needs an NVIDIA GPU"):
        engine.load(tmp_path, name="tensorrt")
