"""Atomic writes of files and folders."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_MAX_SUFFIX = 32  # bytes; a file system's longest name has 255


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a temporary name beside a target, to write a file or a folder under.

    On success it replaces the target, of which nothing is kept; after an exception it is removed,
    and the target is as it was. The temporary name is short whatever the target's, and has its
    suffix, by which some writers choose a format.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    suffix = target.suffix if len(os.fsencode(target.suffix)) <= _MAX_SUFFIX else ""
    beside = target.with_name(f".{secrets.token_hex(8)}{suffix}")
    try:
        yield beside
        if beside.is_dir() and target.is_dir():
            shutil.rmtree(target)  # a rename doesn't replace a folder that holds files
        os.replace(beside, target)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def write_whole(target: Path, body: bytes) -> None:
    """Write a file atomically."""
    with written_whole(target) as beside:
        beside.write_bytes(body)


def home() -> Path:
    """Find the folder for models and caches: COLORIZER_HOME, or the user's cache folder.

    Raises:
        RuntimeError: if there is no COLORIZER_HOME, and the user has no home.
    """
    if named := os.environ.get("COLORIZER_HOME"):
        return Path(named)
    cache = os.environ.get("LOCALAPPDATA") if os.name == "nt" else os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "colorizer"
