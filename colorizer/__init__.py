"""Colour for black-and-white photographs.

Importing this costs the standard library alone; numpy, OpenCV and Pillow are loaded with the
names that need them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colorizer.api import Colorizer
    from colorizer.options import Options
    from colorizer.pipeline import Reply

__version__ = "0.1.0"
__all__ = ["Colorizer", "Options", "Reply", "__version__"]

_ROOMS = {"Colorizer": "api", "Options": "options", "Reply": "pipeline"}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: numpy, OpenCV and Pillow come with it."""
    if name in _ROOMS:
        return getattr(importlib.import_module(f"colorizer.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
