"""Plan the command's work: which pictures there are, their results' names, what is done already."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

from colorizer.commands import results
from colorizer.errors import UserError

ENDINGS = {"jpeg": ".jpg", "png": ".png", "webp": ".webp", "tiff": ".tif"}

SAME_FORMAT = {
    ".jpg": {".jpg", ".jpeg", ".jpe", ".jfif"},
    ".png": {".png"},
    ".webp": {".webp"},
    ".tif": {".tif", ".tiff"},
}
# Suffixes of pictures, whether or not they can be read here: names must not depend on what is
# installed.
_PICTURES = {
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".gif", ".bmp", ".dib"),
    *(".tif", ".tiff", ".dng", ".nef", ".heic", ".heif", ".hif", ".avif", ".jxl"),
    *(".jp2", ".j2k", ".j2c", ".jpc", ".jpf", ".jpx"),
}
_NAME_BYTES = 255  # of one name, on nearly every file system
_MARKED = re.compile(r"(.+)(-colour(?:-[1-8])?|-uncertainty)(\.\w+)", re.DOTALL)
_NAMES_TOLD = 5  # of the files left out for one reason


class Refused(UserError):
    """A command that cannot be carried out; the message says why."""


class Job(NamedTuple):
    """One picture, the files that its result goes to (one for each variant), and its name."""

    source: Path
    targets: tuple[Path, ...]
    name: str  # as it is shown


@dataclass(frozen=True)
class Naming:
    """Where results go.

    Attributes:
        ending: one of ENDINGS' values.
        out: folder to write to; None puts each result beside its picture.
        file: the one file to write instead.
        variants: how many results a picture has.
        uncertainty: whether they show how unsure the network is instead of colours.
    """

    ending: str
    out: Path | None = None
    file: Path | None = None
    variants: int = 1
    uncertainty: bool = False

    def targets(self, source: Path, name: PurePath) -> tuple[Path, ...]:
        """Name the results of a picture by its name in the folder that was given."""
        if self.file is not None:
            target, mark = self.file, ""
        else:
            folder = source.parent if self.out is None else self.out
            target = folder / target_name(name, self.ending)
            mark = "-colour" if self.out is None or self.variants > 1 else ""
            mark = "-uncertainty" if self.uncertainty else mark
        numbers = [f"-{n}" for n in range(1, self.variants + 1)] if self.variants > 1 else [""]
        marks = [mark + number for number in numbers]
        return tuple(Path(marked(target, one)) if one else target for one in marks)


@dataclass
class Plan:
    """What a command has to do.

    Attributes:
        jobs: pictures to colorize, in order.
        there: pictures that have their results already.
        failed: pictures and folders that cannot be read or written, each with the reason.
        left_out: a line for each kind of file that is skipped.
    """

    jobs: list[Job] = field(default_factory=list)
    there: list[Job] = field(default_factory=list)
    failed: list[tuple[Path, str]] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    @property
    def done(self) -> int:
        """How many pictures have their results already."""
        return len(self.there)


def target_name(name: PurePath, ending: str) -> PurePath:
    """Name the result of a picture, from the picture's own name alone.

    A name that has the result's format already is kept; any other gets the ending appended, so
    photo.jpg becomes photo.jpg and photo.png becomes photo.png.jpg. No two names of pictures get
    the same result, whatever else is in their folder.

    Args:
        name: of the picture, relative to the folder it is in.
        ending: one of ENDINGS' values, by the format of the result.
    """
    kept = name.suffix.lower() in SAME_FORMAT[ending]
    # a.png.jpg is what a.png becomes; a picture of that name must become something else.
    if kept and PurePath(name.stem).suffix.lower() not in _PICTURES:
        return name
    return name.with_name(_fit(name.name, ending))


def marked(name: PurePath, mark: str) -> PurePath:
    """Insert a mark before the suffix: photo.jpg becomes photo-colour.jpg."""
    return name.with_name(_fit(name.stem, mark + name.suffix))


def _fit(stem: str, end: str) -> str:
    """Join a name, and shorten what file systems refuse as too long; a hash keeps it unique."""
    raw = os.fsencode(stem + end)
    if len(raw) <= _NAME_BYTES:
        return stem + end
    end = f"-{hashlib.sha256(raw).hexdigest()[:12]}{end}"
    kept = raw[: _NAME_BYTES - len(end)]
    for _ in range(3):  # bytes of a character in UTF-8 that may be cut off from its first
        if raw[len(kept)] & 0xC0 == 0x80:
            kept = kept[:-1]
    return os.fsdecode(kept) + end


def suffixes() -> frozenset[str]:
    """Suffixes of the pictures that are looked for in folders, in lower case."""
    from colorizer.image import SUFFIXES  # numpy and Pillow: not for --help

    return SUFFIXES


def plan(pictures: Sequence[Path], naming: Naming, overwrite: bool) -> Plan:
    """Find the pictures of a command, name their results, and set aside what is done.

    Raises:
        Refused: if nothing can be done: no picture is there, a folder has no `out`, or two
            pictures would go to one file.
    """
    found = Plan()
    jobs: dict[str, Job] = {}  # by the first target
    folds: dict[Path, bool] = {}
    for source, name in _sources(pictures, naming, found):
        job = Job(source, naming.targets(source, name), str(source))
        target = job.targets[0]
        key = str(target)
        if target.parent not in folds:
            folds[target.parent] = _ignores_case(target.parent)
        if folds[target.parent]:
            key = unicodedata.normalize("NFC", key).casefold()
        other = jobs.setdefault(key, job)
        if other is not job and not same_file(other.source, source):
            raise Refused(
                f"{other.source} and {source} would both go to {job.targets[0]}; colorize them "
                "into different folders"
            )
    inputs = {_identity(job.source) for job in jobs.values()} - {None}
    for job in jobs.values():
        for target in job.targets:
            if _identity(target) in inputs:
                raise Refused(
                    f"{target} is one of the pictures and would be overwritten; choose another "
                    "folder for --out"
                )
        try:
            left = job.targets if overwrite else missing(job)
        except ValueError as error:
            found.failed.append((job.source, str(error)))
            continue
        if left:
            found.jobs.append(job)
        else:
            found.there.append(job)
    return found


def sidecar(target: Path) -> Path:
    """Name the file beside a result that holds its record."""
    return target.with_name(_fit(target.name, ".colorizer.json"))


def missing(job: Job) -> list[Path]:
    """List the targets of a job that are not there yet.

    Raises:
        ValueError: if something else is in the place of one.
    """
    there = [target for target in job.targets if os.path.lexists(target)]
    for target in there:
        size = results.header_size(target) if target.is_file() else None
        if size is None or not results.fits(size, job.source):
            raise ValueError(
                f"{target} is there already and is not its result (a picture of its size); move "
                "that file, or replace it with --overwrite"
            )
    return [target for target in job.targets if target not in there]


def check_writable(folder: Path) -> None:
    """Try to write into a folder, or where it would be made.

    Raises:
        OSError: if that fails.
    """
    while not os.path.lexists(folder) and folder != folder.parent:
        folder = folder.parent
    tempfile.TemporaryFile(dir=folder).close()


def _sources(
    pictures: Sequence[Path], naming: Naming, found: Plan
) -> Iterator[tuple[Path, PurePath]]:
    """Yield pictures, each with its name in the folder that was given."""
    absent = [path for path in pictures if not (path.is_file() or path.is_dir())]
    if len(absent) == len(pictures):
        raise Refused(f"there is no picture at {', '.join(map(str, absent))}")
    found.failed += [(path, "there is no picture here") for path in absent]
    own: list[str] = []
    listed = 0
    for picture in pictures:
        if not picture.is_dir():
            inside = iter([picture] if picture not in absent else [])
        elif naming.out is None:
            raise Refused(f"{picture} is a folder: say where its results go, with --out DIR")
        elif same_file(picture, naming.out):
            raise Refused(f"--out is {picture}, the folder of the pictures; choose another folder")
        else:
            inside = _walk(picture, naming.out, found)
        for path in inside:
            listed += 1
            if _original(path):
                own.append(str(path))
            else:
                yield path, path.relative_to(picture) if path != picture else PurePath(path.name)
    if not listed and not found.failed:
        folders = ", ".join(map(str, pictures))
        raise Refused(f"{folders} holds no picture ({', '.join(sorted(suffixes()))})")
    _leave_out(found, own, "results of this command, with their originals beside them")


def _walk(folder: Path, out: Path, found: Plan) -> Iterator[Path]:
    """Yield the pictures below a folder, sorted by name; note in `found` what is passed over.

    Hidden files and folders, links to folders and files of other suffixes are passed over; so is
    `out`, where it lies inside the folder.
    """
    passed: dict[str, list[str]] = {}
    known = suffixes()
    stack = _entries(folder, found)
    while stack:
        entry = stack.pop()
        path = Path(entry.path)
        is_picture = path.suffix.lower() in known
        if entry.name.startswith("."):
            passed.setdefault("hidden", []).append(entry.path)
        elif entry.is_dir(follow_symlinks=False):
            if not same_file(path, out):
                stack += _entries(path, found)
        elif entry.is_symlink() and os.path.isdir(path):
            passed.setdefault("links to folders; name them to have them", []).append(entry.path)
        elif is_picture and os.path.isfile(path):
            yield path
        elif is_picture and entry.is_symlink():
            found.failed.append((path, "the link leads nowhere"))
        else:
            kind = f"not a suffix of pictures: {path.suffix!r}" if path.suffix else "no suffix"
            passed.setdefault("not a file" if is_picture else kind, []).append(entry.path)
    for why, names in passed.items():
        _leave_out(found, names, why)


def _entries(folder: Path, found: Plan) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name, reverse=True)
    except OSError as error:
        found.failed.append((folder, f"the folder cannot be read: {error.strerror}"))
        return []


def _leave_out(found: Plan, names: Sequence[str], why: str) -> None:
    if names:
        more = len(names) - _NAMES_TOLD
        told = ", ".join(names[:_NAMES_TOLD]) + (f" and {more} more" if more > 0 else "")
        found.left_out.append(f"left out ({why}): {told}")


def _original(path: Path) -> Path | None:
    """Find the picture that a file, by its name, is the result of; None if it is not there."""
    match = _MARKED.fullmatch(path.name)
    if match is None:
        return None
    stem, mark, suffix = match.groups()
    ending = next((e for e, same in SAME_FORMAT.items() if suffix.lower() in same), None)
    if ending is None:
        return None
    names = [stem + suffix, stem]
    if len(os.fsencode(path.name)) > _NAME_BYTES - 4:  # it may have been shortened
        names += os.listdir(path.parent)
    for name in names:
        result = marked(target_name(PurePath(name), ending), mark).name
        if result == path.name and path.with_name(name).is_file():
            return path.with_name(name)
    return None


def _ignores_case(folder: Path) -> bool:
    """Whether Name and name are one file in a folder, which may not be there yet."""
    place = folder.absolute()
    while not place.exists() or place.name.swapcase() == place.name:
        if place == place.parent:
            return False
        place = place.parent
    return same_file(place, place.with_name(place.name.swapcase()))


def same_file(one: Path, other: Path) -> bool:
    return one == other or _identity(one) == _identity(other) is not None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino
