"""Find a network by name: which files hold its weights, and what to do if there are none.

The weights come in wheels of their own, since their licence is not that of the code. Each installs
a folder colorizer_weights/NAME with an ONNX graph.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import colorizer
from colorizer.files import home
from colorizer.recipe import HEADS, Head

DEFAULT: Head = "regression"
DISTRIBUTION = "photo-colorizer"  # on PyPI, "colorizer" is another project
PACKAGE = "colorizer_weights"  # in which the wheels of weights install their folders
# What a network is called on a server; so is its archive, which `make archives` builds in a clone.
SERVED: dict[str, str] = {"regression": "colorize", "classification": "colorize-classes"}


def find_model(model: str | Path) -> Path:
    """Find the files of a model.

    Args:
        model: "regression" or "classification"; anything else is the path of an archive, a
            folder with a graph, or a checkpoint.

    Raises:
        BadGraph: if the weights of a named network are not installed.
    """
    from colorizer.graph import BadGraph  # numpy comes with it: not for --help

    if model not in HEADS:
        return Path(model)
    places = list(_places(str(model)))
    for place in places:
        if place.exists():
            return place
    raise BadGraph(
        f"the weights of the {model} network are not installed: install their wheel (pip install "
        f"{DISTRIBUTION.replace('-', '_')}_{model}-{colorizer.__version__}-py3-none-any.whl; "
        "`make wheels` in a clone builds it), or name a model's file; looked for "
        + ", ".join(map(str, places))
    )


def _places(name: str) -> Iterator[Path]:
    """Yield where a network may be, in the order of precedence."""
    try:
        for form in (name, f"{name}.mar", f"{name}.safetensors"):
            yield home() / form
    except RuntimeError:  # neither COLORIZER_HOME nor a home
        pass
    yield Path(__file__).parents[1] / "model_store" / f"{SERVED[name]}.mar"
    spec = importlib.util.find_spec(PACKAGE)
    for folder in (spec and spec.submodule_search_locations) or [PACKAGE]:
        yield Path(folder) / name
