"""NVIDIA's parser and compiler take the float16 graphs, on the CPU: TensorRT for RTX needs no GPU.

No plan is run: that takes a GPU. What comes before is tested whole, and what comes after with a
stand-in for the driver that runs the plan's graph by ONNX Runtime.
"""

from __future__ import annotations

import ctypes
import dataclasses
import errno
import logging
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from colorizer import checkpoint, engines, files, plan, rtx
from colorizer.graph import INPUT, OUTPUT, BadGraph, Graph, Plan, read_file, read_graph
from colorizer.plan import NotBuilt, Parsed
from colorizer.recipe import HEADS, Head
from colorizer.rtx import Kept
from export import __main__ as command
from export import graphs, network, parity, tensorrt
from export import onnx as onnx_graph
from export.graphs import Source
from export.tensorrt import Build
from tests.support import ALIKE, ROOT, SIDE, Capture, Patch, Weights, picture

trt = pytest.importorskip(
    "tensorrt_rtx_bindings", reason="TensorRT for RTX is installed on x86-64 Linux only"
)

PICTURES = [picture(90, 120, seed) for seed in range(2)]
ADA = ["SM86", "SM89", "SM120"]
CARD = "NVIDIA GeForce RTX 4090, compute 8.9"


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def source(sources: dict[str, Source]) -> Source:
    return sources["regression"]


@pytest.fixture(scope="module")
def exported(
    source: Source,
    folders: dict[str, Path],
    weights: Weights,
    tmp_path_factory: pytest.TempPathFactory,
) -> dict[str, Path]:
    """For each head a folder with the graph of this engine, and regression's float32 one."""
    made = {head: tmp_path_factory.mktemp(head) for head in HEADS}
    graphs.export(source, "tensorrt-rtx", made["regression"] / "tensorrt-rtx", [], say=quiet)
    shutil.copytree(folders["regression"] / "onnx", made["regression"] / "onnx")
    net, _ = checkpoint.load(weights("classification"))
    folder = made["classification"] / "tensorrt-rtx"
    folder.mkdir()
    onnx_graph.write(network.half(network.fold(net)), SIDE, folder / onnx_graph.FILE)
    return made


@pytest.fixture(scope="module")
def half(exported: dict[str, Path]) -> bytes:
    return (exported["regression"] / "tensorrt-rtx" / onnx_graph.FILE).read_bytes()


@pytest.fixture(scope="module")
def graph(exported: dict[str, Path]) -> Graph:
    return read_graph(exported["regression"] / "tensorrt-rtx")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: Patch) -> Path:
    monkeypatch.setenv("COLORIZER_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def convolutions_of(body: bytes) -> list[str]:
    nodes = onnx.load_from_string(body).graph.node
    return [node.name for node in nodes if node.op_type.startswith("Conv")]


def read_parsed(parsed: Parsed) -> Counter[tuple[str, ...]]:
    """Count convolutions by the types of their input and output, as parsed."""
    kinds = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION)
    layers = [parsed.network.get_layer(i) for i in range(parsed.network.num_layers)]
    found = [layer for layer in layers if layer.type in kinds]
    return Counter((one.get_input(0).dtype.name, one.get_output(0).dtype.name) for one in found)


def read_compiled(messages: list[str], convolutions: list[str]) -> Counter[tuple[str, ...]]:
    """Count a graph's convolutions by the types that their compiled layers read and write.

    The compiler logs its layers in detail, with the nodes of the graph that each was made from.
    """
    (layers,) = [one for one in messages if one.startswith("Layers:")]
    kinds = re.compile(r"Name: \S+, LayerType: (correlation|deconv|gemm|runtime_fusion), ")
    found: Counter[tuple[str, ...]] = Counter()
    for name in convolutions:
        lines = [one for one in layers.splitlines() if f"[ONNX Layer: {name}]" in one]
        (line,) = [one for one in lines if kinds.match(one)]
        tensors = re.sub("Constants: .*, Outputs:", "", line)
        found[tuple(sorted(set(re.findall(r"Datatype: (\w+)", tensors))))] += 1
    return found


@pytest.mark.parametrize("gpus", [["SM75"], ADA], ids="-".join)
@pytest.mark.parametrize(
    ("head", "name", "kind"),
    [
        ("regression", "tensorrt-rtx", "Half"),
        ("classification", "tensorrt-rtx", "Half"),
        ("regression", "onnx", "Float"),
    ],
)
def test_every_convolution_has_the_graphs_type_as_parsed_and_as_compiled(
    head: Head,
    name: str,
    kind: str,
    gpus: list[str],
    exported: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
    record_property: Callable[[str, object], None],
) -> None:
    body = (exported[head] / name / onnx_graph.FILE).read_bytes()
    parsed = Parsed("tensorrt_rtx_bindings", body)
    convolutions = convolutions_of(body)
    count = len(convolutions)
    assert count > 60
    assert read_parsed(parsed) == {(kind.upper(), kind.upper()): count}

    def configure(config: Any) -> None:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
        config.num_compute_capabilities = len(gpus)
        for i, gpu in enumerate(gpus):
            config.set_compute_capability(getattr(trt.ComputeCapability, gpu), i)

    shapes = tuple((batch, 1, SIDE, SIDE) for batch in rtx.BATCHES)
    with caplog.at_level(logging.DEBUG):
        compiled = parsed.compile(shapes, configure)
    found = read_compiled(caplog.messages, convolutions)
    # The last one of `UNet.alike` may write the float32 that its result is cast to.
    assert found.pop(("Float", "Half"), 0) <= 1
    assert set(found) == {(kind,)}
    assert found[kind,] >= count - 1
    weights = len(body) if kind == "Half" else 2 * len(body)  # an ONNX graph's are float16
    assert weights < len(compiled) < 1.1 * weights
    record_property(
        "plan",
        f"{head}, {'float16' if kind == 'Half' else 'float32'}, for {' '.join(gpus)}: "
        f"{count} of {count} convolutions {kind}, {len(compiled) / 1e6:.1f} MB, "
        f"{parsed.title}",
    )


def test_a_build_reports_its_progress(half: bytes) -> None:
    said: list[str] = []
    assert len(rtx.build(half, SIDE, ["SM89"], say=said.append)) > len(half)
    assert said[0].startswith("Building engine, ")
    assert [line for line in said if re.search(r": \d+ of \d+$", line)]


def test_ctrl_c_ends_a_build_and_the_handler_of_before_is_back(half: bytes) -> None:
    def interrupt(line: str) -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        rtx.build(half, SIDE, ["SM89"], say=interrupt)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_the_progress_report_raises_ends_the_build_in_any_thread(half: bytes) -> None:
    raised: list[BaseException] = []

    def report(line: str) -> None:
        raise BrokenPipeError("nobody reads")

    def build() -> None:
        try:
            rtx.build(half, SIDE, ["SM89"], say=report)
        except BrokenPipeError as error:
            raised.append(error)

    thread = threading.Thread(target=build)
    thread.start()
    thread.join()
    assert len(raised) == 1


def test_another_side_is_refused_with_the_librarys_reason(half: bytes) -> None:
    with pytest.raises(NotBuilt, match=f"min={SIDE + 32}.*but tensor has {SIDE}"):
        rtx.build(half, SIDE + 32, ["SM89"])


def widen_a_kernel(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    """Make a float16 convolution's kernel float32."""
    (kernel,) = [one for one in model.graph.initializer if one.name == node.input[1]]
    values = onnx.numpy_helper.to_array(kernel).astype(np.float32)
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    return node.name


def drop_a_channel(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    (kernel,) = [one for one in model.graph.initializer if one.name == node.input[1]]
    values = onnx.numpy_helper.to_array(kernel)[:, :-1].copy()
    kernel.CopyFrom(onnx.numpy_helper.from_array(values, kernel.name))
    return node.name


def rename_the_operator(model: onnx.ModelProto, node: onnx.NodeProto) -> str:
    node.op_type = "Bleach"
    return f"does not support operator Bleach (node {node.name})"


@pytest.mark.parametrize("change", [widen_a_kernel, drop_a_channel, rename_the_operator])
def test_a_graph_that_it_does_not_take_is_refused_by_the_name_of_its_node(
    change: Callable[[onnx.ModelProto, onnx.NodeProto], str], half: bytes
) -> None:
    model = onnx.load_from_string(half)
    said = change(model, [one for one in model.graph.node if one.op_type == "Conv"][4])
    with pytest.raises(NotBuilt, match=re.escape(said)) as refused:
        rtx.build(model.SerializeToString(), SIDE, ["SM89"])
    assert "driver" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("keep", [0, 1000])
def test_a_cut_file_is_refused(keep: int, half: bytes) -> None:
    with pytest.raises(NotBuilt, match=r"refuses the graph: (it is empty|.*ailed to parse)"):
        rtx.build(half[:keep], SIDE, ["SM89"])
    with pytest.raises(NotBuilt, match="refuses the graph"):
        tensorrt.check_graph(half[:keep], quiet)


@pytest.fixture
def stand_in(monkeypatch: Patch) -> None:
    """TensorRT for RTX in the place of TensorRT, whose calls are the same.

    TensorRT builds for the GPU at hand; the stand-in is told one.
    """
    right = Parsed.compile

    def compile_for_ada(self: Parsed, shapes: Any, configure: Any, say: Any) -> bytes:
        def both(config: Any) -> None:
            configure(config)
            config.num_compute_capabilities = 1
            config.set_compute_capability(trt.ComputeCapability.SM89, 0)

        return right(self, shapes, both, say)

    monkeypatch.setitem(sys.modules, "tensorrt", trt)
    monkeypatch.setattr(Parsed, "compile", compile_for_ada)
    logger = plan.shared_logger("tensorrt_rtx_bindings")  # a process has one for each library
    monkeypatch.setattr(plan, "shared_logger", lambda library: logger)


# Here a timing cache is written and read, and does nothing.
no_timing = pytest.mark.filterwarnings("ignore:.*Timing cache operations:DeprecationWarning")


@no_timing
@pytest.mark.parametrize("before", [None, b"of another library"])
def test_tensorrts_build_goes_the_same_way_and_writes_its_timing_cache(
    before: bytes | None, stand_in: None, half: bytes, tmp_path: Path
) -> None:
    cache, said = tmp_path / "timing.cache", []
    if before is not None:
        cache.write_bytes(before)
    how = Build(timing_cache=cache, hardware="ampere-plus")
    compiled = tensorrt.build(half, SIDE, how, said.append)
    assert len(half) < len(compiled) < 1.1 * len(half)
    assert said[0].startswith("TensorRT: Building engine")
    assert len(cache.read_bytes()) > 100


@no_timing
def test_a_build_that_fails_tells_the_librarys_reason_and_writes_no_timing_cache(
    stand_in: None, half: bytes, tmp_path: Path
) -> None:
    how = Build(timing_cache=tmp_path / "timing.cache", version_compatible=True)
    with pytest.raises(NotBuilt, match="Unable to load library: libnvinfer_lean"):
        tensorrt.build(half, SIDE, how, quiet)
    assert not how.timing_cache.exists()


def test_the_parser_reads_the_graph_before_a_tensorrt_is_asked_for(
    half: bytes, monkeypatch: Patch
) -> None:
    said: list[str] = []
    tensorrt.check_graph(half, said.append)
    assert said == [f"TensorRT for RTX {trt.__version__} reads the graph"]
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    tensorrt.check_graph(half, said.append)
    assert said[1].startswith("not read by NVIDIA's parser: TensorRT for RTX is not installed")


def test_a_plan_is_built_once_and_kept_for_later_starts(graph: Graph, home: Path) -> None:
    made: list[bytes] = []

    def make() -> bytes:
        made.append(b"plan")
        return b"plan"

    for _ in range(2):
        assert Kept(graph, "1.7", CARD).plan(make) == b"plan"
    assert len(made) == 1
    names = sorted(path.name for path in (home / "tensorrt-rtx").iterdir())
    assert names[0] == "lock"
    assert re.fullmatch(r"nvidia-geforce-rtx-4090-compute-8\.9-1\.7-[0-9a-f]{16}\.plan", names[1])
    others = [
        (dataclasses.replace(graph, sha256="0" * 64), "1.7", CARD),
        (dataclasses.replace(graph, batches=(1, 8, 32)), "1.7", CARD),
        (graph, "1.8", CARD),
        (graph, "1.7", "NVIDIA GeForce RTX 4080, compute 8.9"),
    ]
    for number, other in enumerate(others, start=2):
        Kept(*other).plan(make)
        assert len(made) == number


@pytest.mark.parametrize("fault", ["a bit", "cut", "empty", "foreign"])
def test_a_spoilt_or_foreign_plan_is_built_anew(
    fault: str, graph: Graph, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept, folder = Kept(graph, "1.7", CARD), home / "tensorrt-rtx"
    kept.plan(lambda: b"the plan")
    (path,) = folder.glob("*.plan")
    Kept(graph, "1.8", CARD).plan(lambda: b"another release's")
    (other,) = set(folder.glob("*.plan")) - {path}
    body = path.read_bytes()
    spoilt = {"a bit": body[:-1] + b"?", "cut": body[:-1], "foreign": other.read_bytes()}
    path.write_bytes(spoilt.get(fault, b""))
    assert kept.plan(lambda: b"the new plan") == b"the new plan"
    assert "it is made anew" in caplog.text
    assert kept.plan(lambda: b"never made") == b"the new plan"


def homeless() -> Path:
    raise RuntimeError("Could not determine home directory.")


@pytest.mark.parametrize("place", ["file", "/proc/colorizer", "no home"])
def test_a_home_that_cannot_be_written_costs_a_line_and_a_build_a_start(
    place: str, graph: Graph, tmp_path: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("COLORIZER_HOME", str(tmp_path / place))
    if place == "no home":
        monkeypatch.delenv("COLORIZER_HOME")
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        monkeypatch.setattr(Path, "home", homeless)
    kept = Kept(graph, "1.7", CARD)
    for plan_ in (b"plan 1", b"plan 2"):
        assert kept.plan(lambda: plan_) == plan_  # noqa: B023
    assert [one.levelname for one in caplog.records] == ["WARNING"] * 2
    assert "plans can't be kept, so each start builds one" in caplog.text
    kept.keep_kernels(b"kernels")
    assert kept.kernels() == b""


def test_a_full_disk_costs_a_line_and_leaves_nothing(
    graph: Graph, home: Path, monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(self: Path, body: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert Kept(graph, "1.7", CARD).plan(lambda: b"plan") == b"plan"
    assert "No space left on device" in caplog.text
    assert [path.name for path in (home / "tensorrt-rtx").iterdir()] == ["lock"]


def test_the_home_is_the_users_cache_unless_it_is_named(monkeypatch: Patch) -> None:
    monkeypatch.setenv("COLORIZER_HOME", "/named")
    assert files.home() == Path("/named")
    monkeypatch.setenv("COLORIZER_HOME", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert files.home() == Path("/cache/colorizer")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/someone")
    assert files.home() == Path("/someone/.cache/colorizer")


BUILDER = """
import sys, time
from types import SimpleNamespace
from colorizer.rtx import Kept

def make():
    print("building", flush=True)
    time.sleep(float(sys.argv[1]))
    return b"plan"

graph = SimpleNamespace(sha256="0" * 64, batches=())
assert Kept(graph, "1.7", "card").plan(make) == b"plan"
print("done", flush=True)
"""


def start_builder(seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", BUILDER, str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE)


def test_of_several_processes_one_builds_and_a_killed_one_holds_nobody_up() -> None:
    killed = start_builder(600)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "building\n"
    others = [start_builder(0.5) for _ in range(2)]
    killed.kill()
    killed.communicate()
    said = [process.communicate(timeout=60)[0] for process in others]
    assert sorted(said) == ["building\ndone\n", "done\n"]


def on_a_card(monkeypatch: Patch, cc: tuple[int, int] = (8, 9)) -> None:
    """Make this machine one with a card, as far as can be told before a plan is loaded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: cc)
    monkeypatch.setattr(rtx, "gpu_name", lambda device: f"NVIDIA, compute {cc[0]}.{cc[1]}")


PLANS = (
    Plan("sm75.plan", "0" * 64, ("SM75",)),
    Plan("sm86-sm89.plan", "0" * 64, ("SM86", "SM89")),
)


def compiled_by(release: str) -> dict[str, object]:
    return {"plans": PLANS, "versions": {"tensorrt-rtx": release}}


@pytest.mark.parametrize(
    ("changes", "cc", "said"),
    [
        ({}, (7, 5), ""),
        ({}, (12, 0), ""),
        ({}, (9, 0), r"runs on SM75, SM80, .*, and this is .* \(SM90\).*--to tensorrt"),
        ({}, (7, 0), r"this is .* \(SM70\)"),
        (compiled_by(trt.__version__), (8, 9), ""),
        (compiled_by(trt.__version__), (12, 0), "for SM75, SM86, SM89, and this is .*SM120"),
        (compiled_by("1.6.0"), (8, 9), "of TensorRT for RTX 1.6.0, and 1.7"),
        ({"plans": PLANS, "versions": {}}, (8, 9), "of TensorRT for RTX unknown"),
    ],
)
def test_a_graph_or_plan_is_passed_over_where_it_cannot_run(
    changes: dict[str, Any], cc: tuple[int, int], said: str, graph: Graph, monkeypatch: Patch
) -> None:
    on_a_card(monkeypatch, cc)
    reason = engines.incompatibility(dataclasses.replace(graph, **changes), "cuda:0")
    assert re.search(said, reason)
    assert bool(reason) == bool(said)
    assert ("python -m export CHECKPOINT" in reason) == bool(said)


def test_one_log_line_says_why_it_does_not_run_and_the_next_engine_does(
    exported: dict[str, Path], monkeypatch: Patch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engines, "gpus", lambda: 1)
    with caplog.at_level(logging.INFO):
        chosen, _ = engines.load(exported["regression"], "cuda:0")
    (line,) = caplog.messages
    assert chosen.engine == "onnx"
    assert "tensorrt-rtx: TensorRT for RTX needs an NVIDIA GPU and its driver" in line
    with pytest.raises(BadGraph, match="needs an NVIDIA GPU"):
        engines.load(exported["regression"], "cuda:0", "tensorrt-rtx")
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(BadGraph, match="is not installed: pip install tensorrt-rtx-cu13-libs"):
        engines.load(exported["regression"], "cuda:0", "tensorrt-rtx")


def test_libraries_that_cannot_be_loaded_are_a_reason_too(
    graph: Graph, tmp_path: Path, monkeypatch: Patch
) -> None:
    (tmp_path / "tensorrt_rtx_bindings.py").write_text("raise ImportError('GLIBC_2.99 not found')")
    monkeypatch.delitem(sys.modules, "tensorrt_rtx_bindings")
    monkeypatch.syspath_prepend(tmp_path)
    assert "can't be loaded: GLIBC_2.99 not found" in engines.incompatibility(graph, "cuda:0")


def test_without_a_driver_a_plan_is_refused_with_the_reason(half: bytes) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    compiled = rtx.build(half, SIDE, ["SM89"])
    with pytest.raises(BadGraph, match=r"can't load the plan: .*CUDA driver"):
        rtx.deserialize(compiled)


@pytest.mark.parametrize(
    "name",
    [
        *("Runtime.deserialize_cuda_engine", "ICudaEngine.create_runtime_config"),
        *("ICudaEngine.create_execution_context", "ICudaEngine.get_tensor_profile_shape"),
        *("ICudaEngine.get_tensor_shape", "IRuntimeConfig.cuda_graph_strategy"),
        "IRuntimeConfig.dynamic_shapes_kernel_specialization_strategy",
        *("IRuntimeConfig.create_runtime_cache", "IRuntimeConfig.set_runtime_cache"),
        *("IRuntimeCache.serialize", "IRuntimeCache.deserialize"),
        *("IExecutionContext.set_input_shape", "IExecutionContext.set_tensor_address"),
        "IExecutionContext.execute_async_v3",
        *("CudaGraphStrategy.WHOLE_GRAPH_CAPTURE", "CudaGraphStrategy.DISABLED"),
        "DynamicShapesKernelSpecializationStrategy.EAGER",
    ],
)
def test_every_call_that_only_a_gpu_can_answer_is_one_of_the_librarys(name: str) -> None:
    owner, member = name.split(".")
    assert hasattr(getattr(trt, owner), member)
    assert re.search(rf"\b{member}\b", (ROOT / "colorizer" / "rtx.py").read_text())


class Driver:
    """What NVIDIA's runtime, engine, configuration, cache and context do, on the CPU's memory.

    It runs the graph that the plan was compiled from. Plans and kernels are as long as they are.
    """

    def __init__(self, graph: Path) -> None:
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self._addresses: dict[str, int] = {}
        self._shape: tuple[int, ...] = ()
        self._busy = threading.Lock()
        self.sizes: list[int] = []
        self.given = b""

    def create_runtime_config(self) -> Driver:
        return self

    def create_runtime_cache(self) -> Driver:
        return self

    def set_runtime_cache(self, cache: Driver) -> bool:
        return True

    def create_execution_context(self, config: Driver) -> Driver:
        assert config.cuda_graph_strategy == trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE  # type: ignore[attr-defined]
        return self

    def serialize(self) -> bytes:
        return b"kernels for " + repr(sorted(set(self.sizes))).encode()

    def deserialize(self, body: bytes) -> bool:
        self.given = body
        return True

    def get_tensor_profile_shape(self, name: str, index: int) -> list[tuple[int, ...]]:
        return [(batch, 1, SIDE, SIDE) for batch in rtx.BATCHES]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (-1, 2 + ALIKE, SIDE, SIDE)

    def set_tensor_address(self, name: str, address: int) -> bool:
        self._addresses[name] = address
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert 1 <= shape[0] <= 8
        assert self._busy.acquire(blocking=False), "two threads at once"
        self._shape = shape
        return True

    def execute_async_v3(self, stream: int) -> bool:
        lightness = self._view(INPUT, self._shape)
        (found,) = self._session.run([OUTPUT], {INPUT: lightness})
        self._view(OUTPUT, found.shape)[:] = found
        self.sizes.append(self._shape[0])
        self._busy.release()
        return True

    def _view(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        size = int(np.prod(shape))
        values = (ctypes.c_float * size).from_address(self._addresses[name])
        return np.frombuffer(values, np.float32).reshape(shape)


@pytest.fixture
def driver(
    exported: dict[str, Path], monkeypatch: Patch
) -> Callable[[], tuple[rtx.TensorRTRTX, Driver]]:
    """Load the engine on a machine with a card, whose driver is the stand-in."""
    folder = exported["regression"] / "tensorrt-rtx"
    on_a_card(monkeypatch)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext())
    monkeypatch.setattr(torch.cuda, "Stream", lambda: SimpleNamespace(cuda_stream=0))

    def load() -> tuple[rtx.TensorRTRTX, Driver]:
        one = Driver(folder / onnx_graph.FILE)
        monkeypatch.setattr(rtx, "deserialize", lambda body: (one, one))
        body = (folder / onnx_graph.FILE).read_bytes()
        return rtx.TensorRTRTX(read_graph(folder), body, "cpu"), one

    return load


def lightness(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 100, (batch, 1, SIDE, SIDE)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3, 8, 11, 16])
def test_any_batch_is_run_in_parts_that_the_plan_takes(
    batch: int, driver: Callable[[], tuple[rtx.TensorRTRTX, Driver]]
) -> None:
    run, one = driver()
    given = lightness(batch)
    found = run(given)
    assert (found.dtype, found.shape) == (np.float32, (batch, 2 + ALIKE, SIDE, SIDE))
    assert sum(one.sizes) == batch
    singly = np.concatenate([run(given[i : i + 1]) for i in range(batch)])
    assert np.abs(found - singly).max() < 0.5  # in float16 the order of sums shows
    assert np.abs(found).max() > 1


def test_threads_get_their_own_pictures(
    driver: Callable[[], tuple[rtx.TensorRTRTX, Driver]],
) -> None:
    run, _ = driver()
    given = [lightness(1, seed) for seed in range(4)]
    expected = [run(one) for one in given]
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            if not np.array_equal(run(given[number]), expected[number]):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_kernels_are_kept_for_the_next_start_once_a_batch_size_is_compiled(
    driver: Callable[[], tuple[rtx.TensorRTRTX, Driver]], home: Path
) -> None:
    run, one = driver()
    assert one.given == b""
    for batch in (1, 8, 1):
        run(lightness(batch))
    _, following = driver()
    assert following.given == b"kernels for [1, 8]"
    (kernels,) = (home / "tensorrt-rtx").glob("*.kernels")
    kernels.write_bytes(b"spoilt")
    _, last = driver()
    assert last.given == b""


def test_the_command_compiles_plans_for_named_cards_turing_apart(
    weights: Weights, source: Source, half: bytes, tmp_path: Path, monkeypatch: Patch
) -> None:
    # Reading the checkpoint and writing the graph take long, and were done before.
    monkeypatch.setattr(parity, "photographs", lambda folder: PICTURES)
    monkeypatch.setattr(Source, "read", lambda path, pictures: source)
    monkeypatch.setattr(onnx_graph, "write", lambda net, side, path: path.write_bytes(half))
    arguments = [str(weights("regression")), "--to", "tensorrt-rtx", "--out", str(tmp_path / "out")]
    assert command.main([*arguments, "--gpus", "sm89", "SM75", "SM86", "SM89"]) == 0
    folder = tmp_path / "out" / "tensorrt-rtx"
    names = {path.name for path in folder.iterdir()}
    assert names == {"graph.json", "sm75.plan", "sm89-sm86.plan"}
    graph = read_graph(folder)
    assert [one.gpus for one in graph.plans] == [("SM75",), ("SM89", "SM86")]
    assert graph.versions["tensorrt-rtx"] == trt.__version__
    assert (graph.engine, graph.precision, graph.batches) == ("tensorrt-rtx", "float16", (1, 8, 8))
    assert graph.measured is not None  # of the float16 graph, by ONNX Runtime
    row = (tmp_path / "out" / "parity.md").read_text().splitlines()[2]
    assert "| onnx | float16 | 1 |" in row
    assert row.endswith("| equal |")
    chosen = [rtx.choose_plan(graph, gpu).file for gpu in ("SM75", "SM86", "SM89")]
    assert chosen == ["sm75.plan", "sm89-sm86.plan", "sm89-sm86.plan"]
    (folder / "sm89-sm86.plan").write_bytes(b"another")
    with pytest.raises(BadGraph, match=r"sm89-sm86\.plan was altered"):
        read_file(folder, rtx.choose_plan(graph, "SM86"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--to", "tensorrt-rtx", "--gpus", "SM90"], "compiles for SM75, SM80, .*--to tensorrt"),
        (["--to", "tensorrt-rtx", "--gpus", "SM89", "8.9"], "--gpus 8.9"),
        (["--to", "onnx", "--gpus", "SM89"], "--gpus is for --to tensorrt-rtx"),
    ],
)
def test_other_cards_are_refused_before_anything_is_done(
    arguments: list[str], said: str, tmp_path: Path, capsys: Capture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["missing.safetensors", "--out", str(tmp_path / "out"), *arguments])
    assert re.search(said, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_cards_cannot_be_named_where_the_compiler_is_missing(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", None)
    with pytest.raises(SystemExit, match="2"):
        command.main(["x", "--out", str(tmp_path), "--to", "tensorrt-rtx", "--gpus", "SM89"])
    assert "is not installed: pip install tensorrt-rtx-cu13-libs" in capsys.readouterr().err
