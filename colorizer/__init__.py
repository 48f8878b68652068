"""Colour for black-and-white photographs.

Importing this costs the standard library alone; numpy, Pillow and torch are loaded by the parts
that need them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from colorizer.api import Colorizer

__version__ = "0.1.0"
__all__ = ["Colorizer", "__version__"]


def __getattr__(name: str) -> Any:
    """Import `Colorizer` when it is asked for: it brings torch along."""
    if name == "Colorizer":
        from colorizer.api import Colorizer

        return Colorizer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
