"""Checkpoints -> a model repository for Triton: python -m export.triton --help"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import written_whole
from colorizer.graph import MANIFEST, Name
from colorizer.models import SERVED as NAMES
from export import parity, serving
from export.graphs import ENGINES, Source
from export.serving import ROOT, SETTINGS, Settings, add_graph_options

MODEL = ROOT / "handlers" / "triton" / "model.py"
NETWORK = MODEL.with_name("network.py")


class SameName(UserError):
    """Two checkpoints of one head: a repository has one model of each."""


def repository(
    weights: Sequence[Path],
    out: Path,
    say: Callable[[str], None] = print,
    engines: Sequence[Name] = ENGINES,
    photos: Path | None = None,
    settings: Path = SETTINGS,
    shared: bool = False,
) -> Path:
    """Write a model repository atomically; an existing one is replaced.

    Args:
        weights: checkpoints, at most one of each head.
        out: the folder to write.
        say: takes lines of progress.
        engines: to carry a graph for, each in a folder of that name.
        photos: folder of photographs to compare on; left out: scikit-image's samples.
        settings: the serving.yaml.
        shared: whether the network is a separate model, which all workers of a picture model
            share. For a GPU: one process owns it, while others read and finish pictures.

    Raises:
        SameName: if two checkpoints have the same head.
        BadSettings: if serving.yaml has a key that doesn't exist, or a wrong value.
        NotEqual, NotBuilt, BadCheckpoint, FileNotFoundError: as `graphs.export`.
        FileExistsError: if out holds something that is no model repository.
    """
    how = Settings.read(settings)
    check_replaceable(out)
    with written_whole(out) as beside:
        beside.mkdir()
        photographs = parity.photographs(photos)
        for path in weights:
            source = Source.read(path, photographs)
            name = NAMES[source.header.recipe.head]
            model = beside / name
            if model.exists():
                raise SameName(f"{path} would be a second {name}; give one checkpoint of each head")
            serving.stage(source, model / "1", engines, say)
            if shared:
                alone = model.rename(beside / f"{name}-network")
                shutil.copy(NETWORK, alone / "1" / "model.py")
                (alone / "config.pbtxt").write_text(network_config(alone.name, source, how))
                graph = alone / "1" / engines[0] / MANIFEST
                library = alone / "1" / "colorizer"
                shutil.copytree(library, model / "1" / "colorizer")
                shutil.copy(graph, model / "1" / MANIFEST)
            shutil.copy(MODEL, model / "1" / "model.py")
            (model / "config.pbtxt").write_text(config(name, how, shared))
    say(f"wrote {out}: {', '.join(sorted(path.name for path in out.iterdir()))}")
    return out


def check_replaceable(out: Path) -> None:
    """Refuse to replace what isn't a model repository.

    Raises:
        FileExistsError: naming the first thing in it that is no model of ours.
    """
    if out.exists() and not out.is_dir():
        raise FileExistsError(f"{out} is a file; name a folder")
    for path in sorted(out.iterdir()) if out.exists() else ():
        if not (path / "config.pbtxt").is_file():
            raise FileExistsError(
                f"{out} holds {path.name}, which is no model; name another folder"
            )


def config(name: str, settings: Settings, shared: bool = False) -> str:
    """Write config.pbtxt, with the same batching, waiting and limits as TorchServe.

    A worker that shares its network takes one picture at a time, so that none waits for another's
    reading and finishing. Warming up is the model's own business: Triton's model_warmup can't send
    a picture to an input whose length varies.
    """
    network = f'parameters {{ key: "network" value {{ string_value: "{name}-network" }} }}\n'
    # Of a shared network, all versions of a picture model would get the newest.
    versions = (
        "# Each version that has a folder is served; who names none gets the highest.\n"
        "version_policy { all {} }\n"
    )
    return f"""\
# Made by `python -m export.triton` from handlers/serving.yaml.
name: "{name}"
backend: "python"
max_batch_size: {1 if shared else settings.batch}
{"" if shared else versions}# The bytes of picture files; their lengths may differ within a batch.
input {{ name: "PICTURE" data_type: TYPE_UINT8 dims: [ -1 ] allow_ragged_batch: true }}
output {{ name: "COLOUR" data_type: TYPE_UINT8 dims: [ -1 ] }}

# Requests that wait together are answered together.
dynamic_batching {{
  max_queue_delay_microseconds: {0 if shared else settings.batch_delay_ms * 1000}
  # Photographs that may wait, and how long; beyond it: refused at once, with 503.
  default_queue_policy {{
    max_queue_size: {settings.queue}
    default_timeout_microseconds: {settings.timeout_s * 1_000_000}
    timeout_action: REJECT
  }}
}}

# {"On the CPU." if shared else "On each GPU there is, else on the CPU."}
instance_group {{ count: {settings.workers} kind: KIND_{"CPU" if shared else "AUTO"} }}

# Of the network; 0: as many as there are cores.
parameters {{ key: "threads" value {{ string_value: "{settings.threads}" }} }}
{network if shared else ""}"""


def network_config(name: str, source: Source, settings: Settings) -> str:
    """Write config.pbtxt of a network that picture models share."""
    recipe = source.header.recipe
    return f"""\
# Made by `python -m export.triton --shared-network` from handlers/serving.yaml.
name: "{name}"
backend: "python"
max_batch_size: {settings.batch}
input {{ name: "LIGHTNESS" data_type: TYPE_FP32 dims: [ 1, {recipe.side}, {recipe.side} ] }}
output {{ name: "OUTPUT" data_type: TYPE_FP32 dims: [ -1, -1, -1 ] }}

# What waits while the network runs goes together next; nothing waits for more.
dynamic_batching {{ max_queue_delay_microseconds: 0 }}

# One on each GPU there is, else one on the CPU.
instance_group {{ count: 1 kind: KIND_AUTO }}

# Of the network; 0: as many as there are cores.
parameters {{ key: "threads" value {{ string_value: "{settings.threads}" }} }}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and write a repository; returns the exit code."""
    parser = command_parser("python -m export.triton", __doc__)
    add = parser.add_argument
    add("checkpoint", type=Path, nargs="+", help="weights, one file of each head")
    add("--out", type=Path, required=True, help="folder to write")
    add_graph_options(parser)
    add("--shared-network", action="store_true", help="for a GPU: the network as a separate model, "
        "which batches across picture models; raise `workers` in --settings, too")  # fmt: skip
    options = parser.parse_args(arguments)
    engines = list(dict.fromkeys(options.engine))

    def work() -> int:
        how = {"photos": options.photos, "settings": options.settings}
        shared = options.shared_network
        repository(options.checkpoint, options.out, engines=engines, shared=shared, **how)
        return 0

    return run_command("export", work)


if __name__ == "__main__":
    sys.exit(main())
