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

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import written_whole

ROOT = Path(__file__).resolve().parent.parent
OUT = Path("runs/gpu")  # of parts; git ignores it
THERE = Path(os.environ.get("GPU_FOLDER", "/tmp/gpu"))  # on the other machine
LIMIT = 64 * 2**20  # bytes of a call: the tree and one part
SPARE = 2**20  # for what packing adds
WEIGHTS = "model_store/*.safetensors"
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Piece:
    """Bytes `offset` to `offset + size`, of `of`, of the file at `path`, named `file` there."""

    part: int
    path: Path
    file: str
    offset: int
    size: int
    of: int


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
    """Cut files, and folders of files, into parts that fit beside the tree.

    Args:
        name: of the parts.
        paths: in the order of their arrival; a folder keeps its own name there.
        root: of the checkout.

    Raises:
        UserError: if the tree leaves no room.
        FileNotFoundError: if a path has no file.
    """
    room = LIMIT - SPARE - _size(root)
    if room < 2**20:
        raise UserError("the tree alone exceeds 64 MiB: run `python -m benchmarks.pack lean`")
    for old in (root / OUT).glob(f"{name}-[0-9][0-9]"):
        shutil.rmtree(old)
    pieces = _pieces(paths, room)
    written = []
    for number in sorted({piece.part for piece in pieces}):
        out = root / OUT / f"{name}-{number:02}"
        manifest = []
        with written_whole(out) as beside:
            beside.mkdir()
            for place, piece in enumerate(one for one in pieces if one.part == number):
                with piece.path.open("rb") as file:
                    file.seek(piece.offset)
                    body = file.read(piece.size)
                (beside / f"{place:04}").write_bytes(body)
                sha256 = hashlib.sha256(body).hexdigest()
                about = {"file": piece.file, "offset": piece.offset, "of": piece.of}
                manifest.append({**about, "sha256": sha256})
            (beside / MANIFEST).write_text(json.dumps(manifest))
        written.append(out)
    return written


def _pieces(paths: Sequence[Path], room: int) -> list[Piece]:
    """Fill parts of `room` bytes with files, cutting one where a part ends."""
    found = []
    part, left = 0, room
    for path in paths:
        inside = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
        if not inside:
            raise FileNotFoundError(f"no file at {path}")
        for file in inside:
            of, offset = file.stat().st_size, 0
            while offset < of:
                if not left:
                    part, left = part + 1, room
                size = min(left, of - offset)
                name = file.relative_to(path.parent).as_posix()
                found.append(Piece(part, file, name, offset, size, of))
                offset, left = offset + size, left - size
    return found


def unpack(source: Path, folder: Path) -> list[Path]:
    """Put parts together, and remove them.

    Returns:
        The files that are complete now.

    Raises:
        ValueError: if a part is damaged, or one before it is missing.
    """
    done = []
    for part in sorted(source.glob("*-[0-9][0-9]")):
        for place, piece in enumerate(json.loads((part / MANIFEST).read_text())):
            body = (part / f"{place:04}").read_bytes()
            if hashlib.sha256(body).hexdigest() != piece["sha256"]:
                raise ValueError(f"{part} is damaged in {piece['file']}: bring it again")
            target = folder / piece["file"]
            partial = target.with_name(f"{target.name}.partial")
            have = partial.stat().st_size if partial.exists() else 0
            if target.exists() or have > piece["offset"]:
                continue
            if have < piece["offset"]:
                raise ValueError(f"{piece['file']} lacks what comes before {part.name}")
            target.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("ab") as file:
                file.write(body)
            if have + len(body) == piece["of"]:
                partial.rename(target)
                done.append(target)
        shutil.rmtree(part)
    return done


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
            try:
                for path in unpack(ROOT / OUT, THERE):
                    print(path)
            except ValueError as error:
                raise UserError(str(error)) from None
        else:
            {"lean": lean, "whole": whole}[options.verb](ROOT)
        return 0

    return run_command("pack", work)


if __name__ == "__main__":
    sys.exit(main())
