"""Checkpoint -> .mar that carries all it needs: python -m export.archive --help

Graphs, handler, settings and this library, with the hash of each file in MAR-INF/MANIFEST.json.
The same checkpoint on the same machine gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

import colorizer
from colorizer.commands.run import command_parser, run_command
from colorizer.files import written_whole
from colorizer.graph import Name
from export import parity, serving, verify
from export.graphs import ENGINES, Source
from export.serving import ROOT, SETTINGS, Settings, add_graph_options

HANDLER = ROOT / "handlers" / "torchserve" / "handler.py"
CONFIG = "model-config.yaml"


def archive(
    weights: Path,
    out: Path,
    say: Callable[[str], None] = print,
    engines: Sequence[Name] = ENGINES,
    photos: Path | None = None,
    settings: Path = SETTINGS,
    version: str = colorizer.__version__,
) -> Path:
    """Write a .mar atomically; its name without the suffix is the model's name.

    Args:
        weights: a checkpoint.
        out: the .mar to write.
        say: takes lines of progress.
        engines: to carry a graph for, each in a folder of that name.
        photos: folder of photographs to compare on; left out: scikit-image's samples.
        settings: the serving.yaml.
        version: of the model, by which TorchServe tells archives of one model apart.

    Raises:
        BadSettings: if serving.yaml has a key that doesn't exist, or a wrong value.
        NotEqual, NotBuilt, BadCheckpoint, FileNotFoundError: as `graphs.export`.
    """
    how = Settings.read(settings)
    pictures = parity.photographs(photos)
    say(f"{weights.name}: comparing on {len(pictures)} photographs")
    source = Source.read(weights, pictures)
    with tempfile.TemporaryDirectory(prefix="export-") as temporary:
        folder = Path(temporary, "archive")
        serving.stage(source, folder, engines, say)
        shutil.copy(HANDLER, folder)
        (folder / CONFIG).write_text(model_config(how))
        model = {"modelName": out.stem, "modelVersion": version}
        with written_whole(out) as beside:
            pack(folder, {**model, "handler": HANDLER.name, "configFile": CONFIG}, beside)
            verify.verify(beside)
    say(f"wrote {out} ({out.stat().st_size / 1e6:.0f} MB)")
    return out


def pack(folder: Path, model: Mapping[str, str], out: Path) -> None:
    """Write a folder as a zip file with TorchServe's manifest, to which our hashes are added.

    Files are sorted and carry no times, so that the same contents give the same bytes.
    """
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    manifest = {
        "archiverVersion": "0.12.0",  # of torch-model-archiver, whose format this is
        "runtime": "python3",
        "model": model,
        "sha256": {name: hashlib.sha256(p.read_bytes()).hexdigest() for name, p in files.items()},
    }
    text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
    with zipfile.ZipFile(out, "w") as file:  # not compressed: weights don't shrink
        for name in sorted([*files, verify.MANIFEST]):
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the earliest that zip knows
            entry.external_attr = 0o100644 << 16
            file.writestr(entry, text if name == verify.MANIFEST else files[name].read_bytes())


def model_config(settings: Settings) -> str:
    """Write model-config.yaml, which TorchServe reads, and below `handler` our handler."""
    values = {
        "minWorkers": settings.workers,
        "maxWorkers": settings.workers,
        "batchSize": settings.batch,
        "maxBatchDelay": settings.batch_delay_ms,
        "jobQueueSize": settings.queue,
        "responseTimeout": settings.timeout_s,
        "startupTimeout": settings.startup_s,
        "handler": {"threads": settings.threads},
    }
    made = "# Made by `python -m export.archive` from handlers/serving.yaml.\n"
    return made + yaml.safe_dump(values, sort_keys=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write an archive; returns the exit code."""
    parser = command_parser("python -m export.archive", "Write an archive that TorchServe serves.")
    add = parser.add_argument
    add("checkpoint", type=Path, help="weights made by training")
    add("--out", type=Path, required=True, help=".mar to write; it names the model")
    add("--model-version", default=colorizer.__version__,
        help="tells archives of one model apart (default: this program's version)")  # fmt: skip
    add_graph_options(parser)
    options = parser.parse_args(arguments)
    if not re.fullmatch(r"[\w.+-]{1,40}", options.model_version):
        parser.error(
            f"--model-version has letters, digits and . + - _ only, not {options.model_version!r}"
        )
    if options.out.suffix != ".mar":
        parser.error(f"--out must end in .mar, not {options.out}")
    engines = list(dict.fromkeys(options.engine))

    def work() -> int:
        more = {"photos": options.photos, "settings": options.settings}
        more["version"] = options.model_version
        archive(options.checkpoint, options.out, engines=engines, **more)
        return 0

    return run_command("export", work)


if __name__ == "__main__":
    sys.exit(main())
