"""What `Colorizer` takes from an archive."""

from __future__ import annotations

import io
import zipfile

import pytest

from colorizer import api, engine


def names(held: list[str], device: str = "cpu") -> set[str]:
    """What is unpacked of an archive with these engines' graphs."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("model-config.yaml", "")
        for one in held:
            archive.writestr(f"{one}/graph.json", "{}")
            archive.writestr(f"{one}/graph.bin", "")
        return {name.split("/")[0] for name in api._needed(archive, device)}


def test_of_several_graphs_only_the_one_that_is_run_is_unpacked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    both = ["onnx", "torchscript"]
    monkeypatch.setattr(engine, "installed", lambda package: True)
    assert names(both) == {"model-config.yaml", "onnx"}
    assert names(both, "cuda:0") == {"model-config.yaml", "torchscript"}
    assert names(["tensorrt", *both], "cuda:0") == {"model-config.yaml", "tensorrt", *both}
    monkeypatch.setattr(engine, "installed", lambda package: package == "torch")
    assert names(both) == {"model-config.yaml", "torchscript"}
    assert names(["onnx"]) == {"model-config.yaml", "onnx"}  # none runs: loading says why
