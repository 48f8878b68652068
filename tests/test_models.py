"""Networks by name: where their files are looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from colorizer import models
from colorizer.graph import BadGraph
from colorizer.models import find_model
from tests.support import Patch


@pytest.fixture
def places(tmp_path: Path, monkeypatch: Patch) -> dict[str, Path]:
    """A home, a clone and an environment, all without weights."""
    found = {name: tmp_path / name for name in ("home", "clone", "site")}
    for folder in found.values():
        folder.mkdir()
    monkeypatch.setenv("COLORIZER_HOME", str(found["home"]))
    monkeypatch.setattr(models, "__file__", str(found["clone"] / "colorizer" / "models.py"))
    monkeypatch.setattr(sys, "path", [str(found["site"])])
    return found


def test_home_comes_before_the_clone_and_that_before_what_is_installed(
    places: dict[str, Path],
) -> None:
    expected = [
        places["site"] / "colorizer_weights" / "regression",
        places["clone"] / "model_store" / "colorize.mar",
        places["home"] / "regression.safetensors",
        places["home"] / "regression.mar",
        places["home"] / "regression",
    ]
    for place in expected:  # each comes before those that are there already
        place.parent.mkdir(parents=True, exist_ok=True)
        place.mkdir() if not place.suffix else place.touch()
        assert find_model("regression") == place
    with pytest.raises(BadGraph):
        find_model("classification")


def test_weights_of_two_wheels_in_two_folders_are_both_found(
    places: dict[str, Path], monkeypatch: Patch
) -> None:
    other = places["clone"] / "site"
    monkeypatch.setattr(sys, "path", [str(places["site"]), str(other)])
    folders = {"regression": places["site"], "classification": other}
    for name, site in folders.items():
        (site / "colorizer_weights" / name).mkdir(parents=True)
    for name, site in folders.items():
        assert find_model(name) == site / "colorizer_weights" / name


def test_weights_that_are_not_installed_are_told_with_their_wheel_and_the_places(
    places: dict[str, Path],
) -> None:
    wheel = r"pip install photo_colorizer_regression-[\d.]+-py3"
    with pytest.raises(BadGraph, match=wheel) as told:
        find_model("regression")
    for place in (places["home"] / "regression.mar", Path("colorizer_weights") / "regression"):
        assert str(place) in str(told.value)


def test_anything_else_is_a_path(places: dict[str, Path]) -> None:
    assert find_model("./regression") == Path("regression")
    assert find_model(Path("a.mar")) == Path("a.mar")
    assert find_model("Regression") == Path("Regression")
