"""This tree as readers of the documents have it: cloned, set up, with photographs of their own.

This file alone says what differs from a reader's machine: SUBSTITUTIONS (ports), STAND_INS
(commands that the tests' servers replace, or that would make the environment again), SMALL and
SMALL_RUN (so that training and export take seconds), and the files that the documents mention.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from colorizer.recipe import Head
from evaluation.perceptual import torchvision_models
from evaluation.photographs import is_held_out
from handlers.triton import install as install_triton
from tests.support import ROOT, SECONDS, coloured, encoded, free_port, is_free
from tests.test_film import make

# Text in a block -> what is typed instead.
SUBSTITUTIONS = {
    "127.0.0.1:8080": "127.0.0.1:$PORT",
    "127.0.0.1:8000": "127.0.0.1:$TRITON_PORT",
}

# Shell functions that stand before each block.
STAND_INS = r"""
make() {
  case $1 in
    # The tests' servers were started by these, and are running.
    serve) curl -sf -o /dev/null "$PING" && command make --dry-run "$@" ;;
    triton) curl -sf "$TRITON_PING" && command make --dry-run "$@" ;;
    # Each would make the environment, or run this suite.
    venv | test | documents | fuzz | check) command make --dry-run "$@" ;;
    *) command make "$@" ;;
  esac
}
# Triton runs already, started by the tests: that it has these options is what is asked here.
tritonserver() {
  local help
  help=$("$TRITON" --help 2>&1) || true
  for option in "$@"; do grep -q -- "${option%%=*}" <<< "$help" || return 1; done
}
# torchserve returns before it answers, and is stopped by the next line.
torchserve() {
  command torchserve "$@" || return
  case $1 in --start)
    for _ in {1..300}; do curl -s -o /dev/null "$TYPED_PING" && return; sleep 0.2; done; return 1
  esac
}
# Into a folder of its own, not into the environment of the tests; tests/test_install.py uses it.
pip() { python -m pip install --no-index --no-deps --target installed "${@:2}"; }
curl() { command curl --fail "$@"; } # an error's text is no picture
colorizer() { python -m colorizer.commands.cli "$@"; }
colorizer-film() { python -m colorizer.commands.film "$@"; }
"""

# Appended to each preset, so that the training commands take seconds and need no other words.
SMALL_RUN = """
steps = 2
batch = 2
chunk = 1
warmup = 1
side = 32
"""


# Text in code: networks that training starts anew are as small as the tests' others, and so are the
# photographs that graphs are compared on.
SMALL = {
    "colorizer/recipe.py": {"side: int = 224": "side: int = 64"},
    "colorizer/unet.py": {"(256, 160, 96, 48)": "(16, 16, 16, 16)"},
    "export/parity.py": {"\nSIDE = 384 ": "\nSIDE = 64 "},
}

LONG_AGO = 500_000_000  # in 1985: a time that zip files, which archives are, can hold


class Ports(NamedTuple):
    """The first of five free ones each."""

    torchserve: int  # of `make serve`
    typed: int  # of the server that a typed `torchserve --start` starts
    triton: int

    @classmethod
    def find(cls) -> Ports:
        found: list[int] = []
        port = free_port()
        while len(found) < len(cls._fields):
            if all(is_free(one) for one in range(port, port + 5)):
                found.append(port)
            port += 5
        return cls(*found)


def make_clone(tree: Path, weights: Callable[[Head], Path], archives: Path, ports: Ports) -> None:
    """Copy this tree, with small networks, the documents' files, and an environment.

    Args:
        tree: folder to make.
        weights: gives a checkpoint of each head.
        archives: folder of the archives that `make archives` would make of them.
        ports: those of `typed` go into config.properties.
    """
    shutil.copytree(ROOT, tree, ignore=_ignored)
    for name, changes in SMALL.items():
        for before, after in changes.items():
            text = (tree / name).read_text()
            assert before in text
            (tree / name).write_text(text.replace(before, after))
    for head in ("regression", "classification"):
        (tree / "model_store" / f"{head}.safetensors").symlink_to(weights(head))
    for path in tree.rglob("*"):
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)  # make finds all else newer
    for archive in archives.iterdir():
        (tree / "model_store" / archive.name).symlink_to(archive)
    _make_files(tree)
    _make_environment(tree)
    numbers = iter(range(ports.typed, ports.typed + 5))
    config = tree / "config.properties"
    port = re.compile(r"\b(808\d|707\d)$", re.MULTILINE)
    config.write_text(port.sub(lambda _: str(next(numbers)), config.read_text()))


def _ignored(folder: str, names: list[str]) -> set[str]:
    """What a clean clone hasn't, and weights, for which there are small ones."""
    heavy = {".venv", ".git", "logs", "runs", "build", "dist"}
    heavy |= {"triton"} if Path(folder).name == "model_store" else set()
    return {one for one in names if one in heavy or re.search(r"\.(mar|safetensors|pyc)$", one)}


def _make_files(tree: Path) -> None:
    """Photographs, folders of them, a film, an encoder as if it were downloaded."""
    photographs = [encoded(coloured(seed)) for seed in range(6)]
    photographs += [next(x for x in map(_coloured_file, range(6, 1000)) if is_held_out(x, 0.03))]
    for folder in ("PHOTOS", "OTHER_PHOTOS", "OLD_PHOTOS", "MINE"):
        (tree / folder).mkdir()
        for number, photograph in enumerate(photographs):
            (tree / folder / f"{number}.png").write_bytes(photograph)
    (tree / "photo.jpg").write_bytes(encoded(coloured(0), "JPEG"))
    make(tree / "old.mp4", count=4, sound="aac")
    torch.manual_seed(0)
    cached = tree / "torch" / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
    cached.parent.mkdir(parents=True)
    torch.save(torchvision_models().resnet50(weights=None).state_dict(), cached)
    for preset in (tree / "training" / "presets").iterdir():
        kept = re.sub(
            r"^(steps|batch|chunk|warmup|side|late_side) = .*\n", "", preset.read_text(), flags=re.M
        )
        preset.write_text(kept + SMALL_RUN)


def _coloured_file(seed: int) -> bytes:
    return encoded(coloured(seed))


def _make_environment(tree: Path) -> None:
    """A .venv of links to this one, in which make finds everything installed."""
    environment = tree / ".venv"
    (environment / "bin").mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.name != "bin" and not path.name.startswith("."):
            (environment / path.name).symlink_to(path)
    for path in Path(sys.executable).parent.iterdir():
        if not path.name.startswith("python"):
            (environment / "bin" / path.name).symlink_to(path)
    for extras in ("serve", "all", "triton", "kserve", "sbom"):
        (environment / f".{extras}-installed").touch()


class Shell(NamedTuple):
    """How a block is run."""

    tree: Path
    variables: dict[str, str]

    def run(self, text: str, *command: str) -> None:
        for before, after in SUBSTITUTIONS.items():
            text = text.replace(before, after)
        text = re.sub(r"\$(PORT|TRITON_PORT)\b", lambda name: self.variables[name[1]], text)
        done = subprocess.run(
            command,
            input=text,
            cwd=self.tree,
            env=self.variables,
            text=True,
            capture_output=True,
            timeout=3 * SECONDS,  # the longest block starts seven processes
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


def variables(tree: Path, ports: Ports) -> dict[str, str]:
    """What the shell in the copy is started with: the environment comes first on its path."""
    folders = [str(tree / ".venv" / "bin"), os.environ["PATH"]]
    (tree / "tmp").mkdir()
    given = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    return given | {
        "PATH": os.pathsep.join(folders),
        "PORT": str(ports.torchserve),
        "TRITON_PORT": str(ports.triton),
        "PING": f"http://127.0.0.1:{ports.torchserve}/ping",
        "TYPED_PING": f"http://127.0.0.1:{ports.typed}/ping",
        "TRITON_PING": f"http://127.0.0.1:{ports.triton}/v2/health/ready",
        "TRITON": str(install_triton.SERVER / "bin" / "tritonserver"),
        "COLORIZER_HOME": str(tree / "home"),
        "no_proxy": "*",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TORCH_HOME": str(tree / "torch"),
        "TMPDIR": str(tree / "tmp"),
    }
