"""Carry files to an offline machine in parts, next to a tree without weights.

At home:
    python -m benchmarks.pack lean                moves the tracked weights out of the tree
    python -m benchmarks.pack parts NAME PATH...  writes runs/gpu/NAME-00, NAME-01, ...
    python -m benchmarks.pack whole               moves the weights back
On the other machine:
    python3 -m benchmarks.pack unpack             joins the parts that have arrived

A call carries the files that git doesn't ignore, and one part: at most 64 MiB. Parts must arrive in
order; one that arrives twice does no harm. Needs only Python's standard library.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import write_whole, written_whole

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("runs/gpu")  # of parts; git ignores it
THERE = Path(os.environ.get("GPU_FOLDER", "/tmp/gpu"))  # on the other machine
LIMIT = 64 * 2**20  # bytes of a call: the tree and one part
SPARE = 2**20  # for what packing adds
WEIGHTS = "model_store/*.safetensors"


def travelling(root: Path) -> list[Path]:
    """List the files of a checkout that a call carries, relative to it."""
    listed = _git(root, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0")
    return sorted({Path(name) for name in listed if name and (root / name).is_file()})


def lean(root: Path) -> None:
    """Move the tracked weights into runs/gpu/weights, and out of git's index.

    Nothing may be committed until `whole`.
    """
    kept = root / OUT / "weights"
    kept.mkdir(parents=True, exist_ok=True)
    for name in _git(root, "ls-files", "-z", WEIGHTS).split("\0"):
        if name:
            os.replace(root / name, kept / Path(name).name)
            _git(root, "rm", "--quiet", "--cached", name)
    print(f"a call carries {_size(root) / 2**20:.1f} MiB; commit nothing until `pack whole`")


def whole(root: Path) -> None:
    """Move the weights back."""
    _git(root, "reset", "--quiet", "--", WEIGHTS)
    for path in sorted((root / OUT / "weights").glob("*.safetensors")):
        os.replace(path, root / "model_store" / path.name)


def parts(name: str, paths: Sequence[Path], root: Path) -> list[Path]:
    """Write files, and folders of files, as one tar stream in parts that fit beside the tree.

    Each part is a folder with one file, whose name has its place in the stream and its hash.

    Args:
        name: of the parts.
        paths: in the order of their arrival; a folder keeps its own name there.
        root: of the checkout.

    Raises:
        UserError: if the tree leaves no room.
        FileNotFoundError: if there is no such path.
    """
    room = LIMIT - SPARE - _size(root)
    if room < 2**20:
        raise UserError("the tree alone exceeds 64 MiB: run `python -m benchmarks.pack lean`")
    for old in (root / OUT).glob(f"{name}-[0-9][0-9]"):
        shutil.rmtree(old)
    written: list[Path] = []
    with tempfile.TemporaryFile() as stream:
        with tarfile.open(fileobj=stream, mode="w", dereference=True) as archive:
            for path in paths:
                archive.add(path, path.name)
        stream.seek(0)
        while body := stream.read(room):
            out = root / OUT / f"{name}-{len(written):02}"
            with written_whole(out) as beside:
                beside.mkdir()
                offset = stream.tell() - len(body)
                (beside / f"{offset}-{hashlib.sha256(body).hexdigest()}").write_bytes(body)
            written.append(out)
    return written


def unpack(source: Path, folder: Path) -> list[Path]:
    """Join the parts that have arrived, and remove them.

    Returns:
        The files that are complete now.

    Raises:
        UserError: if a part is damaged, or one before it is missing.
    """
    done: list[Path] = []
    folder.mkdir(parents=True, exist_ok=True)
    for part in sorted(source.glob("*-[0-9][0-9]")):
        (path,) = part.iterdir()
        offset, digest = path.name.split("-")
        body, stream = path.read_bytes(), folder / f"{part.name[:-3]}.tar"
        if hashlib.sha256(body).hexdigest() != digest:
            raise UserError(f"{part} is damaged: bring it again")
        have = stream.stat().st_size if stream.exists() else 0
        if have < int(offset):
            raise UserError(f"{stream} lacks what comes before {part.name}")
        if have == int(offset):
            with stream.open("ab") as file:
                file.write(body)
            done += _extract(stream, folder)
        shutil.rmtree(part)
    return done


def _extract(stream: Path, folder: Path) -> Iterator[Path]:
    """Write the files that the beginning of a tar stream holds, if they are not there."""
    length = stream.stat().st_size
    with contextlib.suppress(tarfile.ReadError), tarfile.open(stream) as archive:
        for member in archive:  # ends with an error where the stream does
            target, file = folder / member.name, archive.extractfile(member)
            if file and member.offset_data + member.size <= length and not target.exists():
                write_whole(target, file.read())
                yield target


def _size(root: Path) -> int:
    return sum((root / path).stat().st_size for path in travelling(root))


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"git {arguments[0]} failed: {done.stderr.strip()}")
    return done.stdout


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line; returns the exit code."""
    parser = command_parser("python -m benchmarks.pack", __doc__, as_written=True)
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("lean", "whole", "unpack"):
        verbs.add_parser(verb)
    cut = verbs.add_parser("parts")
    cut.add_argument("name")
    cut.add_argument("paths", type=Path, nargs="+")
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.verb == "parts":
            for path in parts(options.name, options.paths, ROOT):
                size = sum(file.stat().st_size for file in path.iterdir())
                print(f"{path.relative_to(ROOT)}: {size / 2**20:.1f} MiB")
        elif options.verb == "unpack":
            for path in unpack(ROOT / OUT, THERE):
                print(path)
        else:
            {"lean": lean, "whole": whole}[options.verb](ROOT)
        return 0

    return run_command("pack", work)


if __name__ == "__main__":
    sys.exit(main())
