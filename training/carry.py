"""Split checkpoints into small parts, and join them again: python -m training.carry --help

For machines that can only transfer small files. Tensors that both networks share (the trunk, after
a joint run) are stored once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import written_whole

MIB = 15.0  # of a part, by default


def split(checkpoints: Sequence[Path], out: Path, mib: float = MIB) -> list[Path]:
    """Write checkpoints in parts of at most `mib` MiB into a folder that must not exist yet.

    Raises:
        FileExistsError: if the folder exists.
        UserError: if a tensor is larger than a part.
    """
    if out.exists():
        raise FileExistsError(f"{out} exists; name a new folder")
    headers: dict[str, dict[str, str]] = {}
    index: dict[str, dict[str, str]] = {}
    tensors: dict[str, Tensor] = {}
    for path in checkpoints:
        with opened(path) as file:
            headers[path.name] = file.metadata() or {}
            names = {}
            for name in sorted(file.keys()):
                value = file.get_tensor(name)
                same = f"0/{name}"
                shared = same in tensors and torch.equal(tensors[same], value)
                key = same if shared else f"{len(index)}/{name}"
                tensors[key], names[name] = value, key
            index[path.name] = names
    about = {"headers": json.dumps(headers), "index": json.dumps(index)}
    with written_whole(out) as beside:
        beside.mkdir()
        parts = list(_parts(tensors, int(mib * 2**20)))
        for number, part in enumerate(parts):
            save_file(
                part, beside / f"part-{number:02}.safetensors", {**about, "of": str(len(parts))}
            )
    return sorted(out.iterdir())


def _parts(tensors: dict[str, Tensor], most: int) -> Iterator[dict[str, Tensor]]:
    """Group tensors into parts of at most so many bytes, header included."""
    most -= 2**18  # the header: names, and both checkpoints' provenance
    part: dict[str, Tensor] = {}
    size = 0
    for name, value in tensors.items():
        if value.nbytes > most:
            raise UserError(f"{name} alone has {value.nbytes / 2**20:.1f} MiB; make parts larger")
        if size + value.nbytes > most:
            yield part
            part, size = {}, 0
        part[name] = value
        size += value.nbytes
    yield part


def join(parts: Path, out: Path) -> list[Path]:
    """Write the checkpoints that a folder of parts holds into another folder.

    Raises:
        UserError: if a part is missing or damaged.
    """
    tensors: dict[str, Tensor] = {}
    about: dict[str, str] = {}
    found = sorted(parts.glob("part-*.safetensors"))
    for path in found:
        with opened(path) as file:
            about = file.metadata() or {}
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if str(len(found)) != about.get("of"):
        raise UserError(
            f"{parts} holds {len(found)} parts of {about.get('of', 'an unknown number')}"
        )
    headers, index = json.loads(about["headers"]), json.loads(about["index"])
    written = []
    for name, names in index.items():
        with written_whole(out / name) as beside:
            save_file({own: tensors[key] for own, key in names.items()}, beside, headers[name])
            beside.chmod(0o644)
        written.append(out / name)
    return written


def opened(path: Path) -> Any:
    """Open a safetensors file.

    Raises:
        UserError: if it is not a whole one.
    """
    try:
        return safe_open(path, framework="pt")
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}") from None


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
