"""Graphs: equal to their networks at every batch, and not written where they are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from colorizer import checkpoint, engines
from colorizer.engines import Eager
from colorizer.graph import MANIFEST, BadGraph, Name, read_graph
from colorizer.pipeline import Pipeline
from colorizer.plan import NotBuilt
from colorizer.recipe import Head
from colorizer.unet import UNet
from export import __main__ as command
from export import graphs, int8, network, parity, torchscript
from export import onnx as onnx_graph
from export.graphs import Source
from export.parity import Row
from tests.support import ALIKE, SIDE, Capture, Patch, Weights, encoded, picture

HEADS: list[Head] = ["regression", "classification"]
ON_CPU: list[Name] = ["torchscript", "onnx"]
PICTURES = [picture(90, 120, seed) for seed in range(3)]


def quiet(line: str) -> None:
    pass


@pytest.fixture(scope="module")
def half(
    sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[Row]]:
    """The float16 ONNX graph, made on the way to a plan that this machine can't build."""
    matrix: list[Row] = []
    folder = tmp_path_factory.mktemp("half")
    with pytest.raises(NotBuilt, match=r"pip install -e '\.\[tensorrt\]'"):
        graphs.export(sources["classification"], "tensorrt", folder / "tensorrt", matrix, say=quiet)
    assert not (folder / "tensorrt").exists()
    return folder / graphs.HALF_ONNX, matrix


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", ON_CPU)
@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_graph_equals_its_network_at_any_batch(
    head: Head, name: Name, batch: int, weights: Weights, folders: dict[str, Path]
) -> None:
    net, _ = checkpoint.load(weights(head), alike=True)
    lightness = 100 * torch.rand(batch, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = net(lightness)
    graph, run = engines.load(folders[head], "cpu", name)
    found = run(lightness.numpy())
    assert graph.engine == name
    assert expected.shape == (batch, (2 if head == "regression" else 261) + ALIKE, SIDE, SIDE)
    assert found.dtype == np.float32
    assert np.abs(expected.numpy() - found).max() < 0.01


@pytest.mark.parametrize("head", HEADS)
def test_folding_leaves_no_batch_norm_and_the_same_function(
    head: Head, weights: Weights, sources: dict[str, Source]
) -> None:
    net, _ = checkpoint.load(weights(head), alike=True)
    folded = sources[head].folded
    assert not [one for one in folded.modules() if isinstance(one, torch.nn.BatchNorm2d)]
    lightness = torch.from_numpy(sources[head].reference.lightness)
    with torch.inference_mode():
        assert float((net(lightness) - folded(lightness)).abs().max()) < 0.01


def test_a_torchscript_graph_computes_in_float16_where_it_is_asked_to(
    folders: dict[str, Path], sources: dict[str, Source]
) -> None:
    path = folders["regression"] / "torchscript" / torchscript.FILE
    lightness = sources["regression"].reference.lightness
    exact, rounded = (
        Eager(one)(lightness) for one in (torch.jit.load(path), torch.jit.load(path).half())
    )
    assert 0 < np.abs(exact - rounded).max() < 1


@pytest.mark.parametrize("name", ON_CPU)
def test_the_manifest_tells_what_the_graph_is(
    name: Name, weights: Weights, folders: dict[str, Path], sources: dict[str, Source]
) -> None:
    graph = read_graph(folders["classification"] / name)
    assert graph.recipe == sources["classification"].header.recipe
    assert (graph.recipe.head, graph.recipe.side) == ("classification", SIDE)
    assert len(graph.recipe.bins) == 261
    assert (graph.engine, graph.precision) == (name, "float32")
    assert graph.measured is not None
    assert graph.tolerance == parity.TOLERANCE["float32"]
    assert all(graph.measured[measure] <= graph.tolerance[measure] for measure in graph.tolerance)
    assert graph.max_error == graph.measured["max_ab"]
    assert graph.checkpoint == sources["classification"].sha256
    assert graph.versions["torch"] == str(torch.__version__)


@pytest.mark.parametrize("fault", ["another function", "no number"])
def test_a_graph_that_is_not_equal_is_measured_and_not_written(
    fault: str, sources: dict[str, Source], tmp_path: Path, monkeypatch: Patch
) -> None:
    right = torchscript.write

    def wrong(folded: UNet, side: int, path: Path) -> None:
        bias = folded.head[-1].bias
        kept = bias.data.clone()
        bias.data += 0.001 if fault == "another function" else float("nan")  # x AB_SCALE: 0.11
        right(folded, side, path)
        bias.data = kept

    monkeypatch.setattr(torchscript, "write", wrong)
    matrix: list[Row] = []
    said = r"max_ab = 0\.11" if fault == "another function" else "no numbers"
    with pytest.raises(graphs.NotEqual, match=said):
        graphs.export(sources["regression"], "torchscript", tmp_path / "graph", matrix, say=quiet)
    assert list(tmp_path.iterdir()) == []
    assert [row.batch for row in matrix] == list(parity.BATCHES)
    assert all(row.over() for row in matrix)


def test_the_measures_are_those_of_a_known_difference(sources: dict[str, Source]) -> None:
    """A network whose a is 2 units off everywhere."""
    reference = sources["regression"].reference
    output = Eager(sources["regression"].folded)(reference.lightness)[:, :2]
    known = dict(zip([float(one.sum()) for one in reference.lightness], output, strict=True))

    shift = np.reshape(np.float32([2, 0]), (1, 2, 1, 1))

    def shifted(lightness: np.ndarray) -> np.ndarray:
        return np.stack([known[float(one.sum())] for one in lightness]) + shift

    row = reference.measure(shifted, "name", "onnx", "float32", 8)
    assert row.max_ab == pytest.approx(2, abs=0.01)
    assert row.mean_ab == pytest.approx(1, abs=0.01)  # half of all ab values are b
    assert 0.3 < row.delta_e < 3.5  # a counts one and a half times near grey
    same = reference.measure(lambda x: shifted(x) - shift, *ROW)
    assert same.delta_e < 0.01
    assert not same.over()


ROW = ("name", "onnx", "float32", 1)


def test_the_samples_are_there_without_a_network_and_a_folder_is_read(tmp_path: Path) -> None:
    samples = parity.photographs(None)
    assert len(samples) == 8
    assert {one.ndim for one in samples} == {2, 3}
    (tmp_path / "a.png").write_bytes(encoded(picture(500, 900)))
    (tmp_path / "b.txt").write_text("no picture")
    (one,) = parity.photographs(tmp_path)
    assert max(one.shape) == parity.SIDE
    (tmp_path / "a.png").unlink()
    with pytest.raises(parity.NoPhotographs, match="no photograph"):
        parity.photographs(tmp_path)


def test_float16_is_in_the_onnx_graph_itself_and_stays_equal(
    half: tuple[Path, list[Row]], folders: dict[str, Path]
) -> None:
    folder, matrix = half
    assert read_graph(folder).precision == "float16"
    assert [(row.precision, row.over()) for row in matrix] == [("float16", "")] * 2
    model = onnx.shape_inference.infer_shapes(onnx.load(folder / onnx_graph.FILE), strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    kinds = {one.name: one.data_type for one in model.graph.initializer}
    convolutions = [one for one in model.graph.node if one.op_type.startswith("Conv")]
    assert len(convolutions) > 60
    assert {kinds[name] for one in convolutions for name in one.input[1:]} == {
        onnx.TensorProto.FLOAT16
    }
    ends = [*model.graph.input, *model.graph.output]
    assert {one.type.tensor_type.elem_type for one in ends} == {onnx.TensorProto.FLOAT}
    exact = read_graph(folders["classification"] / "onnx").max_error
    assert matrix[0].max_ab > exact  # it is rounded


def test_an_int8_graph_has_bytes_but_in_the_finest_layers_and_shares_its_weights(
    sources: dict[str, Source], tmp_path: Path
) -> None:
    matrix: list[Row] = []
    graphs.export(sources["regression"], "onnx-int8", tmp_path / "onnx-int8", matrix, say=quiet)
    assert [(row.precision, row.over()) for row in matrix[2:]] == [("int8", "")] * 2
    assert matrix[2].max_ab > 100 * matrix[0].max_ab  # it is rounded
    small, whole = (tmp_path / name / onnx_graph.FILE for name in ("onnx-int8", "onnx"))
    assert small.stat().st_size < 0.05 * whole.stat().st_size
    model = onnx.load(small, load_external_data=False)
    makers = {one.output[0]: one.op_type for one in model.graph.node}
    kinds = [makers[one.input[1]] for one in model.graph.node if one.op_type == "Conv"]
    assert [kind == "DequantizeLinear" for kind in kinds] == [False] * int8.FLOAT + [True] * (
        len(kinds) - int8.FLOAT
    )
    graph, run = engines.load(tmp_path, "cpu", "onnx-int8")
    assert (graph.engine, graph.precision) == ("onnx-int8", "int8")
    assert run(np.full((3, 1, SIDE, SIDE), 50, np.float32)).shape == (3, 2 + ALIKE, SIDE, SIDE)
    body = whole.read_bytes()
    whole.write_bytes(body[:-1] + b"x")
    with pytest.raises(BadGraph, match=r"onnx.graph\.onnx was altered after its export"):
        engines.load(tmp_path, "cpu", "onnx-int8")
    whole.unlink()
    with pytest.raises(BadGraph, match=r"onnx.graph\.onnx is missing"):
        engines.load(tmp_path / "onnx-int8", "cpu")


@pytest.mark.parametrize("head", HEADS)
def test_a_float32_graph_stores_half_the_bytes_and_computes_the_same_bits(
    head: Head, weights: Weights, folders: dict[str, Path], tmp_path: Path
) -> None:
    net, _ = checkpoint.load(weights(head), alike=True)
    norms = [module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:  # those of a new network are 1 and 0, and would hide a wrong factor
        torch.nn.init.uniform_(norm.weight, 0.5, 2)
        torch.nn.init.uniform_(norm.running_var, 0.5, 2)
    folded = network.fold(net)
    files = {}
    for name, stored in (("large", {}), ("small", network.stored(net))):
        onnx_graph.write(folded, SIDE, tmp_path / name, stored)
        files[name] = (tmp_path / name).read_bytes()
    assert len(files["small"]) < 0.52 * len(files["large"])
    lightness = np.stack([picture(SIDE, SIDE, seed)[None] / 2.55 for seed in range(2)])
    large, small = (
        engines.OnnxRuntime(files[name], 1)(lightness.astype(np.float32)) for name in files
    )
    assert np.array_equal(large, small)
    shipped = (folders[head] / "onnx" / onnx_graph.FILE).stat().st_size
    assert abs(shipped - len(files["small"])) < 1000  # and that is how graphs are exported


def test_every_shape_of_the_float16_graph_is_known_but_for_the_batch(
    half: tuple[Path, list[Row]],
) -> None:
    model = onnx.load(half[0] / onnx_graph.FILE)
    model.graph.ClearField("value_info")
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    values = {one.name: one.type.tensor_type for one in inferred.graph.value_info}
    results = [name for node in inferred.graph.node for name in node.output]
    ends = {one.name for one in inferred.graph.output}
    assert set(results) - ends <= set(values)
    for tensor in values.values():
        batch, *rest = tensor.shape.dim
        assert batch.dim_param
        assert all(one.dim_value > 0 for one in rest)


def test_largest_activation_sees_the_largest(sources: dict[str, Source]) -> None:
    source = sources["regression"]
    first = source.folded.stem[0]
    found = network.largest_activation(source.folded, source.reference.lightness)
    kept = first.bias.data.clone()
    first.bias.data += 1e5
    assert network.largest_activation(source.folded, source.reference.lightness) > 9e4 > found
    first.bias.data = kept


def test_an_altered_graph_is_refused_with_the_command_that_rebuilds_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    for name in ON_CPU:
        shutil.copytree(folders["regression"] / name, tmp_path / name)
        graph = read_graph(tmp_path / name)
        path = tmp_path / name / graph.file
        body = bytearray(path.read_bytes())
        body[len(body) // 2] ^= 1
        path.write_bytes(body)
        with pytest.raises(BadGraph, match=f"altered.*python -m export CHECKPOINT --to {name}"):
            Pipeline.load(tmp_path / name)


@pytest.mark.parametrize("text", ["", "{}", "[]", "\xff", '{"format": 1, "surprise": 1}'])
def test_a_manifest_that_makes_no_sense_is_refused(text: str, tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(text, "latin-1")
    with pytest.raises(BadGraph, match="python -m export"):
        read_graph(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": 2}, "format 2, and this version reads 1"),
        ({"format": None}, "format None"),
        ({"engine": "openvino"}, "openvino"),
        ({"recipe.head": "foo"}, "head is 'foo'"),
        ({"recipe.head": "classification"}, "0 bins"),
        ({"recipe.side": 65}, "multiple of 32"),
        ({"recipe.side": "64"}, "multiple of 32"),
        ({"recipe.decoding": "median"}, "decoding is 'median'"),
        ({"recipe.temperature": 0}, "temperature is 0"),
        ({"recipe.temperature": None}, "graph"),
        ({"recipe.chroma_gain": -1}, "chroma_gain is -1"),
        ({"recipe.bins": [[1, 2]]}, "1 bins"),
        ({"recipe.more": 1}, "more"),
        ({"recipe": None}, "graph"),
        ({"file": 3}, "graph"),
    ],
)
def test_a_manifest_with_a_value_that_is_not_allowed_is_refused(
    change: dict[str, object], said: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    values = json.loads((folders["regression"] / "onnx" / MANIFEST).read_text())
    for name, value in change.items():
        part, _, key = name.rpartition(".")
        (values[part] if part else values)[key] = value
    (tmp_path / MANIFEST).write_text(json.dumps(values))
    with pytest.raises(BadGraph, match=said):
        read_graph(tmp_path)


def test_the_command_writes_graphs_and_the_matrix_and_says_what_tensorrt_needs(
    weights: Weights, tmp_path: Path, capsys: Capture
) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(encoded(PICTURES[0]))
    out = tmp_path / "out"
    arguments = [str(weights("regression")), "--to", "torchscript", "tensorrt", "--out", str(out)]
    assert command.main([*arguments, "--photos", str(tmp_path / "photos")]) == 2
    said = capsys.readouterr()
    assert said.err.count("\n") == 1
    assert "TensorRT is not installed" in said.err
    names = {path.name for path in out.iterdir()}
    assert names == {"torchscript", graphs.HALF_ONNX, "parity.md"}
    assert read_graph(out / "torchscript").recipe.head == "regression"
    table = (out / "parity.md").read_text().strip()
    assert [line.split(" | ")[1:4] for line in table.splitlines()[2:]] == [
        ["torchscript", "float32", "1"],
        ["torchscript", "float32", "8"],
        ["onnx", "float16", "1"],
        ["onnx", "float16", "8"],
    ]
    assert table in said.out


def test_batches_that_fall_are_refused(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit):
        command.main(["x", "--out", str(tmp_path), "--batches", "1", "9", "8"])
    assert "must rise" in capsys.readouterr().err
