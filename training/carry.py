"""Split checkpoints into small parts, and join them again: python -m training.carry --help

For machines that can only transfer small files. Tensors that several checkpoints share (the trunk,
after a joint run) travel once.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import write_whole, written_whole

MIB = 15.0  # of a part, by default
INDEX = "index.json"  # checkpoint -> hashes of its pieces, in order
NAME = re.compile(r"part-(\d+)-of-(\d+)-([0-9a-f]{16})")  # with the beginning of its hash


def split(checkpoints: Sequence[Path], out: Path, mib: float = MIB) -> list[Path]:
    """Write checkpoints in parts of at most `mib` MiB into a folder that must not exist yet.

    Raises:
        FileExistsError: if the folder exists.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    bundle, index = io.BytesIO(), {}
    with zipfile.ZipFile(bundle, "w") as file:
        for path in checkpoints:
            pieces = [(_hash(piece), piece) for piece in _pieces(path.read_bytes())]
            index[path.name] = [digest for digest, _ in pieces]
            for digest, piece in pieces:
                if digest not in file.NameToInfo:
                    file.writestr(digest, piece)
        file.writestr(INDEX, json.dumps(index))
    body, size = bundle.getvalue(), int(mib * 2**20)
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    with written_whole(out) as beside:
        beside.mkdir()
        for number, part in enumerate(parts):
            name = f"part-{number:02}-of-{len(parts):02}-{_hash(part)[:16]}"
            (beside / name).write_bytes(part)
    return sorted(out.iterdir())


def _pieces(checkpoint: bytes) -> Iterator[bytes]:
    """Cut a safetensors file into its header and its tensors, in the file's order."""
    start = 8 + int.from_bytes(checkpoint[:8], "little")
    header = json.loads(checkpoint[8:start])
    yield checkpoint[:start]
    ends = sorted({one["data_offsets"][1] for key, one in header.items() if key != "__metadata__"})
    for begin, end in zip([0, *ends], ends, strict=False):
        yield checkpoint[start + begin : start + end]


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def join(parts: Path, out: Path) -> list[Path]:
    """Write the checkpoints that a folder of parts holds into another folder.

    Raises:
        UserError: if a part is missing or damaged.
    """
    found = {path: match for path in parts.iterdir() if (match := NAME.fullmatch(path.name))}
    bodies = {}
    for path, match in found.items():
        bodies[int(match[1])] = path.read_bytes()
        if not _hash(bodies[int(match[1])]).startswith(match[3]):
            raise UserError(f"{path} is damaged: bring it again")
    of = {int(match[2]) for match in found.values()} or {1}
    if missing := set(range(max(of))) - set(bodies):
        raise UserError(f"{parts} lacks part {min(missing)} of {max(of)}")
    written = []
    with zipfile.ZipFile(io.BytesIO(b"".join(bodies[n] for n in sorted(bodies)))) as file:
        for name, digests in json.loads(file.read(INDEX)).items():
            write_whole(out / name, b"".join(file.read(digest) for digest in digests))
            written.append(out / name)
    return written


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and split or join; returns the exit code."""
    parser = command_parser("python -m training.carry", (__doc__ or "").partition("\n\n")[2])
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("split", help="checkpoints -> parts")
    one.add_argument("checkpoints", type=Path, nargs="+")
    one.add_argument("--out", type=Path, required=True, help="folder to make")
    one.add_argument("--mib", type=float, default=MIB, help="of a part, at most (%(default)s)")
    other = commands.add_parser("join", help="parts -> checkpoints")
    other.add_argument("parts", type=Path, help="folder of parts")
    other.add_argument("--out", type=Path, required=True, help="folder to write checkpoints to")
    options = parser.parse_args(arguments)

    def work() -> int:
        if options.command == "split":
            written = split(options.checkpoints, options.out, options.mib)
        else:
            written = join(options.parts, options.out)
        for path in written:
            print(f"wrote {path} ({path.stat().st_size / 2**20:.1f} MiB)")
        return 0

    return run_command("carry", work)


if __name__ == "__main__":
    sys.exit(main())
