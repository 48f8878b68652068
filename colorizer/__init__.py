"""Turn black-and-white photographs into colour.

>>> from colorizer import Colorizer
>>> colour = Colorizer().colorize("photo.jpg")  # the bytes of a JPEG

`Colorizer` loads a network and colorizes; `Options` are the options of one picture, and `Reply`
is a finished one. Errors that a user can fix are `UserError`s; those about one picture or its
options are `RequestError`s.

Importing this package loads the standard library alone; numpy, OpenCV and Pillow are imported
when `Colorizer` or `Reply` is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colorizer.api import Colorizer
    from colorizer.errors import RequestError, UserError
    from colorizer.options import Options
    from colorizer.pipeline import Reply

__version__ = "0.1.0"
__all__ = ["Colorizer", "Options", "Reply", "RequestError", "UserError", "__version__"]

_ROOMS = {
    "Colorizer": "api",
    "Options": "options",
    "Reply": "pipeline",
    "RequestError": "errors",
    "UserError": "errors",
}


def __getattr__(name: str) -> Any:
    """Import a name when it is first used: numpy, OpenCV and Pillow come with it."""
    if name in _ROOMS:
        return getattr(importlib.import_module(f"colorizer.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
