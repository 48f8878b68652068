"""Folders of pictures on a disk or in an object store, and a record of what is done in them."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from pyarrow import fs

from colorizer.files import write_whole

RECORD = ".colorizer"  # folder, inside the one written to, that tells what is done
PART = 1000  # lines of a part of the record
PART_SECONDS = 10.0  # until what is done is recorded, though a part is not full


class Folder:
    """A folder by its path, or by an address as s3://bucket/photos; files have names inside it."""

    def __init__(self, address: str) -> None:
        """Find the file system of an address.

        Raises:
            OSError: if its store cannot be reached.
            ValueError: if it is of no kind that pyarrow knows.
        """
        self.address = address
        if "://" in address:
            self._files, self.root = fs.FileSystem.from_uri(address)
        else:
            self._files, self.root = fs.LocalFileSystem(), str(Path(address).absolute())
        self.root = self.root.rstrip("/")

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def below(self, name: str) -> Folder:
        """A folder inside this one, whether or not there is one yet."""
        inside = copy.copy(self)
        inside.address, inside.root = f"{self.address}/{name}", self._at(name)
        return inside

    def exists(self) -> bool:
        """Whether there is such a folder."""
        return bool(self._files.get_file_info(self.root).type != fs.FileType.NotFound)

    def list(self, suffixes: Collection[str], without: str = "") -> Iterator[list[str]]:
        """Names of pictures, sorted, folder after folder: never those of all at once.

        Args:
            suffixes: in lower case.
            without: root of a folder that is left out, where it lies inside this one.

        Raises:
            OSError: if there is no such folder.
        """
        folders = [self.root]
        while folders:
            here = folders.pop()
            inside = self._files.get_file_info(fs.FileSelector(here))
            pictures = [
                one.path[len(self.root) + 1 :]
                for one in inside
                if one.type == fs.FileType.File
                and Path(one.path).suffix.lower() in suffixes
                and not Path(one.path).name.startswith(".")
            ]
            yield sorted(pictures)
            folders += sorted(
                (
                    one.path
                    for one in inside
                    if one.type == fs.FileType.Directory and one.path != without
                ),
                reverse=True,
            )

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        return bool(self._files.get_file_info(self._at(name)).type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """Read a file whole."""
        with self._files.open_input_stream(self._at(name)) as file:
            return bytes(file.read())

    def write(self, name: str, body: bytes) -> None:
        """Write a file, whole or not at all."""
        if isinstance(self._files, fs.LocalFileSystem):
            write_whole(Path(self._at(name)), body)
            return
        # A store shows an object when its upload is complete. One that failed is not closed here,
        # since closing completes it.
        file = self._files.open_output_stream(self._at(name))
        file.write(body)
        file.close()


class Record:
    """What is done in a folder: parts of lines of JSON, each part written whole.

    A picture gets its line once its colours are in place, so what has a line is done; what was in
    place without one, when a run was killed, is found in its place by the next.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._lines: list[str] = []
        self._since = time.monotonic()

    def done(self) -> set[str]:
        """Names of the pictures that earlier runs have done.

        Raises:
            ValueError: if a part is damaged.
        """
        names: set[str] = set()
        record = self._folder.below(RECORD)
        if not record.exists():
            return names
        for parts in record.list({".jsonl"}):
            for part in parts:
                for line in record.read(part).decode().splitlines():
                    said = json.loads(line)
                    if "colour" in said:
                        names.add(said["picture"])
        return names

    def add(self, line: dict[str, str]) -> None:
        """Record a picture; the line is written with others."""
        self._lines.append(json.dumps(line, ensure_ascii=False))
        if len(self._lines) >= PART or time.monotonic() - self._since > PART_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what was added, as a part of its own."""
        if self._lines:
            name = f"{RECORD}/{time.time_ns():020}.jsonl"
            self._folder.write(name, ("\n".join(self._lines) + "\n").encode())
        self._lines, self._since = [], time.monotonic()
