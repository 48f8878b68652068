"""Folders of pictures, on a disk or in an object store."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Collection, Iterator
from pathlib import Path

from pyarrow import fs

from colorizer.files import write_whole


class Folder:
    """A folder at a path, or at an address such as s3://bucket/photos.

    Names are relative to the folder, with slashes. Disks are read without pyarrow, which refuses
    names that aren't UTF-8.
    """

    def __init__(self, address: str) -> None:
        """Find the file system of an address.

        Raises:
            OSError: if the store cannot be reached.
            ValueError: if pyarrow doesn't know this kind of address.
        """
        root = address
        self._store: fs.FileSystem | None = None
        if "://" in address:
            self._store, root = fs.FileSystem.from_uri(address)
        if isinstance(self._store, fs.LocalFileSystem):
            self._store = None
        self.root = root.rstrip("/") if self._store else os.path.realpath(root)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Folder):
            return NotImplemented
        return (self._store, self.root) == (other._store, other.root)

    def _at(self, name: str) -> str:
        return f"{self.root}/{name}"

    def names(
        self, suffixes: Collection[str] | None = None, without: Folder | None = None
    ) -> Iterator[str]:
        """List files, folder by folder, sorted within each; hidden files are left out.

        Args:
            suffixes: in lower case; None takes every file.
            without: a folder to leave out, where it lies inside this one.

        Raises:
            OSError: if there is no such folder.
        """
        left_out = without.root if without and without._store == self._store else None
        folders = [self.root]
        while folders:
            here = folders.pop()
            files, inside = self._entries(here)
            for path in files:
                base = path.rpartition("/")[2]
                wanted = suffixes is None or os.path.splitext(base)[1].lower() in suffixes
                if wanted and not base.startswith("."):
                    yield path[len(self.root) + 1 :]
            folders += [one for one in reversed(inside) if one != left_out]

    def _entries(self, folder: str) -> tuple[list[str], list[str]]:
        """Paths of the files and of the folders in a folder, sorted."""
        if self._store is None:
            with os.scandir(folder) as found:
                entries = sorted(found, key=lambda one: one.name)
            return (
                [one.path for one in entries if one.is_file()],
                [one.path for one in entries if one.is_dir(follow_symlinks=False)],
            )
        infos = sorted(
            self._store.get_file_info(fs.FileSelector(folder)), key=lambda one: str(one.path)
        )
        return (
            [one.path for one in infos if one.type == fs.FileType.File],
            [one.path for one in infos if one.type == fs.FileType.Directory],
        )

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""
        if self._store is None:
            return os.path.isfile(self._at(name))
        return bool(self._store.get_file_info(self._at(name)).type == fs.FileType.File)

    def read(self, name: str) -> bytes:
        """Read a file whole."""
        if self._store is None:
            return Path(self._at(name)).read_bytes()
        with self._store.open_input_stream(self._at(name)) as file:
            return bytes(file.read())

    def write(self, name: str, body: bytes) -> None:
        """Write a file, whole or not at all."""
        if self._store is None:
            write_whole(Path(self._at(name)), body)
            return
        # A store shows an object only once its upload is complete.
        with self._store.open_output_stream(self._at(name)) as file:
            file.write(body)

    def check_writable(self) -> None:
        """Write a file and delete it again.

        Raises:
            OSError: if the folder isn't writable.
        """
        name = f".{uuid.uuid4().hex}"
        self.write(name, b"")
        with contextlib.suppress(OSError):  # some have no right to delete
            if self._store is None:
                os.unlink(self._at(name))
            else:
                self._store.delete_file(self._at(name))
