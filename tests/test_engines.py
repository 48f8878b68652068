"""Which engine runs a graph, and which graphs are refused."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from colorizer import cores, engines
from colorizer.engines import OnnxRuntime, TensorRT, TorchScript
from colorizer.graph import MANIFEST, BadGraph, Graph, read_graph
from colorizer.recipe import Recipe
from tests.support import ALIKE, SIDE, Patch

GPU = "NVIDIA H100 PCIe, compute 9.0"
PLAN = Graph(
    file="graph.plan",
    sha256=hashlib.sha256(b"plan").hexdigest(),
    recipe=Recipe(side=SIDE),
    versions={"tensorrt": "10.16.1"},
    engine="tensorrt",
    precision="float16",
    batches=(1, 8, 8),
    gpu=GPU,
)


@pytest.fixture(scope="module")
def folder(folders: dict[str, Path]) -> Path:
    """Graphs for both engines of the CPU."""
    return folders["regression"]


def without(package: str, monkeypatch: Patch) -> None:
    """Make a package look as if it were not installed."""
    right = engines.installed
    monkeypatch.setattr(engines, "installed", lambda name: name != package and right(name))


def test_auto_takes_onnx_runtime_on_a_cpu_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        graph, run = engines.load(folder)
    assert graph.engine == "onnx"
    assert isinstance(run, OnnxRuntime)
    assert "engine onnx on cpu (onnx-int8: " in caplog.text  # of which there is no graph


@pytest.mark.parametrize("flags", ["fpu avx2", "fpu avx2 avx512_vnni", "fp asimddp", None])
def test_a_processor_that_multiplies_bytes_prefers_them(
    flags: str | None, tmp_path: Path, monkeypatch: Patch
) -> None:
    if flags:
        (tmp_path / "cpuinfo").write_text(f"flags\t: {flags}\n")
    monkeypatch.setattr(cores, "_CPU", tmp_path / "cpuinfo")
    able = flags is not None and flags.endswith(("vnni", "dp"))
    assert engines.preferred("cpu")[0] == ("onnx-int8" if able else "onnx")
    assert set(engines.preferred("cpu")) == set(engines.PREFERRED["cpu"])


def test_the_environment_can_choose_the_engine(folder: Path, monkeypatch: Patch) -> None:
    monkeypatch.setenv("COLORIZER_ENGINE", "torchscript")
    assert engines.load(folder)[0].engine == "torchscript"
    assert engines.load(folder, name="onnx")[0].engine == "onnx"
    monkeypatch.setenv("COLORIZER_ENGINE", "fast")
    with pytest.raises(BadGraph, match="COLORIZER_ENGINE is 'fast'; use auto, torchscript, onnx"):
        engines.load(folder)


def test_auto_takes_torchscript_where_onnx_runtime_is_missing_and_says_why(
    folder: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    without("onnxruntime", monkeypatch)
    with caplog.at_level(logging.INFO):
        _, run = engines.load(folder)
    assert isinstance(run, TorchScript)
    assert "onnxruntime is not installed: pip install onnxruntime" in caplog.text


def test_a_named_engine_is_taken_or_refused_never_replaced(
    folder: Path, monkeypatch: Patch
) -> None:
    assert isinstance(engines.load(folder, name="torchscript")[1], TorchScript)
    with pytest.raises(BadGraph, match=r"no graph for it.*onnx, torchscript"):
        engines.load(folder, name="tensorrt")
    without("onnxruntime", monkeypatch)
    with pytest.raises(BadGraph, match="pip install onnxruntime"):
        engines.load(folder, name="onnx")


def test_a_folder_that_is_one_graph_is_loaded_too(folder: Path) -> None:
    graph, run = engines.load(folder / "torchscript")
    assert graph.engine == "torchscript"
    assert run(np.zeros((1, 1, SIDE, SIDE), np.float32)).shape == (1, 2 + ALIKE, SIDE, SIDE)


def test_onnx_runtime_uses_the_threads_it_is_given_or_all_cores(
    folder: Path, monkeypatch: Patch
) -> None:
    def threads(run: OnnxRuntime) -> int:
        return int(run._session.get_session_options().intra_op_num_threads)

    body = (folder / "onnx" / "graph.onnx").read_bytes()
    assert threads(OnnxRuntime(body, 3)) == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert threads(OnnxRuntime(body)) == 2


def test_an_empty_folder_is_refused_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(BadGraph, match=r"graph\.json is missing.*python -m export"):
        engines.load(tmp_path)


def test_an_unknown_engine_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "onnx", tmp_path / "onnx")
    text = (tmp_path / "onnx" / MANIFEST).read_text()
    (tmp_path / "onnx" / MANIFEST).write_text(text.replace('"onnx",', '"openvino",'))
    with pytest.raises(BadGraph, match="openvino"):
        engines.load(tmp_path)


def on_a_gpu(monkeypatch: Patch, version: str, gpu: str) -> None:
    """Make this machine one with a GPU and TensorRT, as far as manifests are concerned."""
    monkeypatch.setattr(engines, "installed", lambda name: True)
    monkeypatch.setattr(engines.importlib.metadata, "version", lambda name: version)
    monkeypatch.setattr(engines, "gpu_name", lambda device: gpu)


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
    changes: dict[str, object], version: str, gpu: str, said: str, monkeypatch: Patch
) -> None:
    on_a_gpu(monkeypatch, version, gpu)
    reason = engines.incompatibility(dataclasses.replace(PLAN, **changes), "cuda:0")  # type: ignore[arg-type]
    assert said in reason
    assert ("python -m export CHECKPOINT --to tensorrt" in reason) == bool(said)
    assert bool(reason) == bool(said)


def test_a_plan_is_refused_where_there_is_no_gpu(tmp_path: Path, monkeypatch: Patch) -> None:
    (tmp_path / "graph.plan").write_bytes(b"plan")
    PLAN.write(tmp_path)
    assert read_graph(tmp_path) == PLAN
    with pytest.raises(BadGraph, match=r"tensorrt is not installed: pip install tensorrt$"):
        engines.load(tmp_path, "cpu", "tensorrt")
    on_a_gpu(monkeypatch, "10.16.1", GPU)
    with pytest.raises(BadGraph, match="needs an NVIDIA GPU"):
        engines.load(tmp_path, "cpu", "tensorrt")


def test_tensorrt_runs_one_call_at_a_time_and_large_batches_in_parts() -> None:
    """Its context holds one input and one output: a second thread would take the first's colours.

    Without a GPU: what runs a part is replaced, the lock and the splitting are the engine's.
    """
    engine = TensorRT.__new__(TensorRT)
    engine._lock, engine._largest = threading.Lock(), 2
    running: list[int] = []
    most: list[int] = []
    sizes: list[int] = []

    def run(lightness: np.ndarray) -> np.ndarray:
        running.append(1)
        most.append(len(running))
        sizes.append(len(lightness))
        time.sleep(0.01)
        running.pop()
        return lightness + 1

    engine._run = run  # type: ignore[method-assign]
    batches = [np.full((5, 1, 2, 2), n, np.float32) for n in range(6)]
    with ThreadPoolExecutor(6) as threads:
        for batch, found in zip(batches, threads.map(engine, batches), strict=True):
            assert np.array_equal(found, batch + 1)
    assert max(most) == 1
    assert sizes == [2, 2, 1] * 6
