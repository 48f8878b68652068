"""Checkpoint -> .mar that carries all it needs: python -m export.archive --help

Graphs, handler, settings and this library, with the hash of each file in MAR-INF/MANIFEST.json.
The same checkpoint on the same machine gives the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

import colorizer
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import written_whole
from colorizer.graph import Name
from export import parity, serving, verify
from export.graphs import ENGINES, Source
from export.serving import ROOT, SETTINGS, Settings, add_graph_options

HANDLER = ROOT / "handlers" / "torchserve" / "handler.py"


class ArchiveFailed(UserError):
    """The archiver ended without an archive."""


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
        ArchiveFailed: if torch-model-archiver fails.
    """
    how = Settings.read(settings)
    pictures = parity.photographs(photos)
    say(f"{weights.name}: comparing on {len(pictures)} photographs")
    source = Source.read(weights, pictures)
    with tempfile.TemporaryDirectory(prefix="export-") as temporary:
        work = Path(temporary)
        stage = work / "stage"  # the archiver copies what is inside, so the package keeps its name
        serving.stage(source, stage, engines, say)
        config = work / "model-config.yaml"
        config.write_text(model_config(how))
        command = [
            *(sys.executable, "-m", "model_archiver.model_packaging"),
            *("--model-name", out.stem, "--version", version),
            *("--handler", str(HANDLER), "--config-file", str(config)),
            *("--extra-files", str(stage), "--export-path", str(work), "--runtime", "python3"),
            *("--archive-format", "zip-store"),  # weights do not compress
        ]
        # The archiver works in the temporary folder under the model's name, whoever else does.
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "TMPDIR": temporary}
        )
        made = work / f"{out.stem}.mar"
        if done.returncode or not made.exists():
            raise ArchiveFailed(
                f"torch-model-archiver failed: {(done.stderr or done.stdout)[-500:]}"
            )
        with written_whole(out) as beside:
            seal(made, beside)
            verify.verify(beside)
    say(f"wrote {out} ({out.stat().st_size / 1e6:.0f} MB)")
    return out


def seal(made: Path, sealed: Path) -> None:
    """Copy an archive with each file's hash in its manifest, and without the time of making.

    Files are sorted and carry no times, so that the same contents are the same bytes.
    """
    with zipfile.ZipFile(made) as old, zipfile.ZipFile(sealed, "w") as new:
        names = sorted(name for name in old.namelist() if not name.endswith("/"))
        manifest = json.loads(old.read(verify.MANIFEST))
        manifest.pop("createdOn", None)
        manifest["sha256"] = {
            name: hashlib.sha256(old.read(name)).hexdigest()
            for name in names
            if name != verify.MANIFEST
        }
        for name in names:
            text = json.dumps(manifest, indent=1, sort_keys=True) + "\n"
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))  # the earliest that zip knows
            entry.external_attr = 0o100644 << 16
            new.writestr(entry, text if name == verify.MANIFEST else old.read(name))


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
