"""Files and folders that are there whole, or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Give a name beside a target, under which a file or a folder is made.

    At the end that takes the target's place, of which nothing is kept; after an exception it is
    removed, and the target is as it was. The name has the target's suffix, by which some writers
    choose a format.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        yield beside
        if beside.is_dir() and target.is_dir():
            shutil.rmtree(target)  # a folder takes no other's place as long as that holds files
        os.replace(beside, target)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside, ignore_errors=True)
        else:
            beside.unlink(missing_ok=True)


def write_whole(target: Path, body: bytes) -> None:
    """Write a file, whole or not at all."""
    with written_whole(target) as beside:
        beside.write_bytes(body)
