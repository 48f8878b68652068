"""`Colorizer`, as programs use it."""

from __future__ import annotations

import hashlib
import inspect
import io
import multiprocessing
import pickle
import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from colorizer import Colorizer, Options, Reply, engines
from colorizer.engines import BadDevice, Eager
from colorizer.errors import BadOption, BadPicture, NotAPicture, UserError
from colorizer.graph import BadGraph, Graph
from colorizer.options import OPTIONS, PictureOptions
from colorizer.pipeline import Pipeline
from evaluation.methods import eager_pipeline
from tests.support import ROOT, Patch, Weights, coloured, encoded, opened, picture


@pytest.fixture(scope="module")
def folder(folders: dict[str, Path]) -> Path:
    """Graphs of one network for both engines of the CPU."""
    return folders["regression"]


@pytest.fixture(scope="module")
def colorizer(folder: Path) -> Colorizer:
    return Colorizer(folder, "cpu")


GREY = picture(40, 60, seed=2)
FILE = encoded(GREY)


def test_a_file_may_be_given_by_path_text_bytes_or_opened(
    colorizer: Colorizer, tmp_path: Path
) -> None:
    path = tmp_path / "photo.png"
    path.write_bytes(FILE)
    expected = colorizer.colorize(FILE)
    assert opened(expected).size == (60, 40)
    assert colorizer.colorize(path) == colorizer.colorize(str(path)) == expected
    assert colorizer.colorize(io.BytesIO(FILE)) == expected
    with path.open("rb") as file:
        assert colorizer.colorize(file) == expected


@pytest.mark.parametrize("kind", ["L", "RGB", "RGBA", "LA", "P", "1", "CMYK", "I;16", "F"])
def test_a_pillow_image_gives_an_image(kind: str, colorizer: Colorizer) -> None:
    if kind == "I;16":
        image = Image.fromarray(GREY.astype(np.uint16) * 257)
    elif kind == "F":
        image = Image.fromarray(GREY.astype(np.float32) / 255)
    else:
        image = Image.fromarray(GREY).convert(kind)
    found = colorizer.colorize(image)
    assert found.size == image.size
    assert found.mode == ("RGBA" if kind in ("RGBA", "LA") else "RGB")
    in_colour = np.ptp(np.asarray(found)[..., :3].astype(int), axis=2).max() > 5
    assert in_colour or kind == "1"  # black and white have no colour


def test_an_array_gives_an_array_of_the_same_picture(colorizer: Colorizer) -> None:
    png = np.asarray(opened(colorizer.colorize(FILE, format="png")))
    assert np.array_equal(colorizer.colorize(GREY), png)
    assert np.array_equal(colorizer.colorize(GREY[..., None]), png)
    assert np.array_equal(np.asarray(colorizer.colorize(Image.fromarray(GREY))), png)
    in_colour = coloured(1)
    alpha = np.full((*in_colour.shape[:2], 1), 7, np.uint8)
    found = colorizer.colorize(np.concatenate([in_colour, alpha], axis=2))
    assert np.array_equal(found[..., :3], colorizer.colorize(in_colour))
    assert (found[..., 3] == 7).all()
    assert np.array_equal(colorizer.colorize(in_colour[::2, ::3]).shape, (40, 34, 3))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4), np.float32),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8),
        np.zeros(4, np.uint8),
        np.zeros((0, 4), np.uint8),
    ],
)
def test_an_array_that_is_no_picture_is_refused(array: Any, colorizer: Colorizer) -> None:
    with pytest.raises(BadPicture, match="array"):
        colorizer.colorize(array)


def test_options_are_checked_whatever_is_given(colorizer: Colorizer) -> None:
    for one in (FILE, GREY, Image.fromarray(GREY)):
        with pytest.raises(BadOption, match="chroma"):
            colorizer.colorize(one, chroma=9)
        with pytest.raises(BadOption, match="classification"):
            colorizer.colorize(one, decoding="mode")


def test_options_are_keywords_with_the_defaults_and_names_of_the_table() -> None:
    parameters = inspect.signature(Colorizer.colorize).parameters
    keywords = {k: p.default for k, p in parameters.items() if p.kind is p.KEYWORD_ONLY}
    elsewhere = {"variants", "likely"}  # methods of their own
    assert keywords == {one.name: one.default for one in OPTIONS if one.name not in elsewhere}
    assert set(PictureOptions.__annotations__) == set(keywords)
    for name in keywords:
        assert f"            {name}: " in (Colorizer.colorize.__doc__ or "")


def test_variants_are_a_list_of_samples_of_the_kind_that_was_given(archives: Path) -> None:
    one = Colorizer(archives / "colorize-classes.mar", "cpu")
    files = one.variants(io.BytesIO(FILE), 3, format="png", seed=5)
    assert files == [
        one.colorize(FILE, format="png", decoding="sample", seed=seed) for seed in (5, 6, 7)
    ]
    assert len(set(files)) == 3
    arrays = one.variants(GREY, 2, seed=5)
    for array, file in zip(arrays, files, strict=False):
        assert np.array_equal(array, np.asarray(opened(file)))
    assert [im.size for im in one.variants(Image.fromarray(GREY), 2)] == [(60, 40)] * 2
    packed = one.pipeline.colorize(FILE, {"format": "png", "variants": "3", "seed": "5"}).body
    with zipfile.ZipFile(io.BytesIO(packed)) as archive:  # a server's are the same
        assert [archive.read(name) for name in archive.namelist()] == files


def test_variants_need_a_classification_network(colorizer: Colorizer) -> None:
    with pytest.raises(BadOption, match="--model classification"):
        colorizer.variants(FILE)


def test_a_checkpoint_runs_without_export(weights: Weights, archives: Path) -> None:
    path = weights("regression")
    one = Colorizer(path, "cpu")
    exported = np.asarray(opened(Colorizer(archives / "colorize.mar").colorize(FILE, format="png")))
    found = np.asarray(opened(one.colorize(FILE, format="png")))
    assert np.abs(found.astype(int) - exported).max() <= 1
    assert one.pipeline.graph.checkpoint == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_checkpoint_without_torch_says_what_to_do(weights: Weights, monkeypatch: Patch) -> None:
    monkeypatch.setattr(engines, "installed", lambda name: name != "torch")
    with pytest.raises(BadGraph, match="pip install torch; or export it where torch is"):
        Colorizer(weights("regression"))


def test_files_are_colorized_by_text_paths_too(colorizer: Colorizer, tmp_path: Path) -> None:
    (tmp_path / "one.png").write_bytes(FILE)
    (tmp_path / "two.png").write_bytes(b"text")
    names = [str(tmp_path / name) for name in ("one.png", "two.png", "three.png")]
    found = dict(colorizer.colorize_files(names, Options(format="png")))
    assert [str(path) for path in found] == names
    reply, *errors = found.values()
    assert isinstance(reply, Reply)
    assert reply.body == colorizer.colorize(FILE, format="png")
    assert [type(error) for error in errors] == [NotAPicture, FileNotFoundError]


def test_a_missing_file_and_a_missing_model_are_told(colorizer: Colorizer, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        colorizer.colorize(str(tmp_path / "nothing.jpg"))
    with pytest.raises(BadGraph, match=r"no model at .*nothing\.mar; name a network"):
        Colorizer(str(tmp_path / "nothing.mar"))
    (tmp_path / "text.mar").write_text("hello")
    with pytest.raises(BadGraph, match="not an archive"):
        Colorizer(tmp_path / "text.mar")
    with pytest.raises(BadGraph, match="not an archive"):
        Colorizer(b"hello")


@pytest.mark.parametrize("device", ["mps", "foo", "cuda:x", "cuda:-1", "cpu:0", "CUDA", ""])
def test_a_device_that_does_not_exist_is_told_with_those_that_do(device: str, folder: Path) -> None:
    with pytest.raises(BadDevice, match="use cpu, or cuda:0"):
        Colorizer(folder, device)


@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:7"])
def test_a_gpu_that_is_not_here_is_told(device: str, folder: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr(engines, "gpus", lambda: 0)
    with pytest.raises(UserError, match=f"no {device} here.*use the device cpu"):
        Colorizer(folder, device)


def test_a_gpu_is_taken_by_itself_only_where_a_graph_can_use_it(
    folder: Path, monkeypatch: Patch
) -> None:
    asked: list[str] = []

    def start(graph: Graph, body: bytes, device: str, *_: object) -> Eager:
        asked.append(device)
        return Eager(None, device)

    monkeypatch.setattr(engines, "gpus", lambda: 2)
    monkeypatch.setattr(engines, "start", start)
    Colorizer(folder)
    Colorizer(folder / "onnx")
    Colorizer(folder, "cuda")
    Colorizer(folder, "cuda:1")
    assert asked == ["cuda:0", "cpu", "cuda:0", "cuda:1"]


def archived(folder: Path) -> bytes:
    """Both graphs in one archive."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            archive.write(path, path.relative_to(folder).as_posix())
    return packed.getvalue()


def test_an_archive_is_loaded_from_its_file_or_its_bytes_without_unpacking(
    folder: Path, colorizer: Colorizer, tmp_path: Path, monkeypatch: Patch
) -> None:
    body = archived(folder)
    (tmp_path / "a.mar").write_bytes(body)
    monkeypatch.setenv("TMPDIR", "/nowhere")
    for model in (body, tmp_path / "a.mar", str(tmp_path / "a.mar")):
        assert Colorizer(model, "cpu").colorize(FILE) == colorizer.colorize(FILE)
    spoilt = body.replace(b'"side": 64', b'"side": 65', 1)
    with pytest.raises(BadGraph):
        Colorizer(spoilt, "cpu")


def test_threads_get_the_bytes_that_each_picture_has_alone(colorizer: Colorizer) -> None:
    files = [encoded(picture(40 + n, 60, seed=n)) for n in range(6)]
    alone = [colorizer.colorize(file) for file in files]
    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(colorizer.colorize, files)) == alone


@pytest.mark.parametrize("engine", ["onnx", "torchscript"])
def test_a_pickled_colorizer_loads_its_model_again(engine: str, folder: Path) -> None:
    one = Colorizer(folder / engine, "cpu")
    again = pickle.loads(pickle.dumps(one))
    assert again.colorize(FILE) == one.colorize(FILE)
    assert again.pipeline.graph == one.pipeline.graph


def test_a_pipeline_made_by_hand_says_that_it_cannot_be_pickled(weights: Weights) -> None:
    with pytest.raises(TypeError, match=r"only if Pipeline\.load made it"):
        pickle.dumps(eager_pipeline(weights("regression")))


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork here")
@pytest.mark.parametrize("engine", ["onnx", "torchscript"])
def test_a_forked_process_colorizes_too(engine: str, folder: Path, tmp_path: Path) -> None:
    """After use, since that is what starts threads, which the child lacks."""
    (tmp_path / "photo.png").write_bytes(FILE)
    script = (
        "import multiprocessing, sys\n"
        "from colorizer import Colorizer\n"
        "colorizer = Colorizer(sys.argv[1], 'cpu')\n"
        "body = open(sys.argv[2], 'rb').read()\n"
        "alone = colorizer.colorize(body)\n"
        "def work(number): return colorizer.colorize(body)\n"
        "with multiprocessing.get_context('fork').Pool(2) as pool:\n"
        "    found = pool.map(work, range(3))\n"
        "assert colorizer.colorize(body) == alone\n"
        "print(len(found), all(len(one) > 500 for one in found))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / engine), str(tmp_path / "photo.png")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.stdout == "3 True\n", done.stderr[-2000:]


def test_colorizing_by_an_onnx_graph_imports_no_torch(folder: Path) -> None:
    script = (
        "import sys, colorizer.api\n"
        "from colorizer import Colorizer\n"
        "import io; from PIL import Image\n"
        "file = io.BytesIO(); Image.new('L', (30, 20), 99).save(file, 'PNG')\n"
        "one = Colorizer(sys.argv[1])\n"
        "one.colorize(file.getvalue())\n"
        "heavy = {'torch', 'torchvision', 'safetensors', 'skimage', 'scipy', 'lightning'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder / "onnx")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.stdout == "[]\n", done.stderr


def test_the_network_runs_by_itself_for_each_picture_where_a_cpu_runs_it(
    folder: Path, monkeypatch: Patch
) -> None:
    """It is the engine that matters: an ONNX graph runs on the CPU beside a GPU too."""
    monkeypatch.setattr(engines, "gpus", lambda: 1)
    assert Pipeline.load(folder / "onnx", "cuda:0").batch_invariant
    monkeypatch.setattr(engines, "start", lambda *how: Eager(None, "cuda:0"))
    assert not Pipeline.load(folder / "torchscript", "cuda:0").batch_invariant
