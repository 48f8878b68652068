"""What the documents tell people to type is typed here, and what they point at is there.

Each fenced block of sh and python is run, in a copy of this tree, by the shell that a reader has.
What differs from a reader's machine is said in this file and nowhere else: FILES (the files that
the documents speak of), SUBSTITUTIONS (ports), STAND_INS (commands that the tests' servers stand
for, or that would make the environment anew), and NOT_RUN (blocks that can't run here, with the
reason; their syntax, options, targets and files are held against what there is all the same).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from colorizer.unet import Head, torchvision_models
from tests import install_triton
from tests.support import (
    ROOT,
    SECONDS,
    coloured,
    encoded,
    free_port,
    is_free,
    start_triton,
    wait_for_line,
    wait_until_ready,
)
from tests.test_film import grainy, write_film
from tests.warm_python import warm_python
from training.survey import is_held_out

PATTERNS = ["*.md", "docs/*.md", "benchmarks/*.md", "model_store/*.md"]
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))

# Document and beginning of a block -> why it isn't run. Each is still checked by the last tests.
NOT_RUN = {
    "CONTRIBUTING.md: make venv": "would make the environment, and run this very suite",
    "benchmarks/GPU.md: make venv": "needs a GPU and NVIDIA's TensorRT",
    "model_store/MODEL_CARD.md: train=": "hours; the same commands as README's, with other numbers",
    "docs/deploy.md: docker build": "needs Docker",
    "docs/deploy.md: kubectl apply": "needs a cluster",
    "docs/serving.md: .venv/bin/python -m handlers.serve": "test_serve.py runs it, with keys",
    "README.md: make train": "the steps that make takes are the next block's, which is run",
    "README.md: .venv/bin/python -m training.shards": "torchrun is run by test_training_runs.py",
}

# Text in a block -> what is typed instead.
SUBSTITUTIONS = {
    "http://127.0.0.1:8080": "http://127.0.0.1:$PORT",
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
    venv | test | fuzz | check) command make --dry-run "$@" ;;
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
    for _ in {1..300}; do curl -s -o /dev/null "$OTHER_PING" && return; sleep 0.2; done; return 1
  esac
}
colorizer() { python -m colorizer.cli "$@"; }
colorizer-film() { python -m colorizer.film "$@"; }
"""

# Appended to each preset, so that the training commands take seconds and need no other words.
SMALL_RUN = """
steps = 2
batch = 2
chunk = 1
warmup = 1
side = 32
"""


class Block(NamedTuple):
    document: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.document}: {self.text.splitlines()[0]}"


def read_blocks() -> list[Block]:
    found = []
    for path in DOCUMENTS:
        text, name = path.read_text(), path.relative_to(ROOT).as_posix()
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text[: match.start()].count("\n") + 1
            found.append(Block(name, line, match[1], match[2]))
    return found


BLOCKS = read_blocks()
LISTED = [one for one in BLOCKS if any(str(one).startswith(key) for key in NOT_RUN)]
RUN = [one for one in BLOCKS if one.language in ("sh", "python") and one not in LISTED]


def ignored(folder: str, names: list[str]) -> set[str]:
    """What a clean clone hasn't, and weights, for which there are small ones."""
    heavy = {".venv", ".git", "logs", "runs", "triton", "build"}
    return {one for one in names if one in heavy or re.search(r"\.(mar|safetensors|pyc)$", one)}


@pytest.fixture(scope="module")
def ports() -> list[int]:
    """Three times five free ports in a row, the first of each: two TorchServes and a Triton."""
    found: list[int] = []
    port = free_port()
    while len(found) < 3:
        if all(is_free(one) for one in range(port, port + 5)):
            found.append(port)
        port += 5
    return found


@pytest.fixture(scope="module")
def tree(
    weights: Callable[[Head], Path],
    archives: Path,
    ports: list[int],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Path]:
    """A copy of this tree with small networks, the documents' files, and an environment."""
    tree = tmp_path_factory.mktemp("documents") / "tree"
    shutil.copytree(ROOT, tree, ignore=ignored)
    for head in ("regression", "classification"):
        (tree / "model_store" / f"{head}.safetensors").symlink_to(weights(head))
    for path in tree.rglob("*"):
        os.utime(path, (0, 0), follow_symlinks=False)  # so that make finds all that follows newer
    for archive in archives.iterdir():
        (tree / "model_store" / archive.name).symlink_to(archive)
    make_files(tree)
    make_environment(tree)
    others = iter(range(ports[0], 65536))
    config = tree / "config.properties"  # other ports, for the server that torchserve starts
    config.write_text(
        re.sub(r"\b(808\d|707\d)$", lambda _: str(next(others)), config.read_text(), flags=re.M)
    )
    with warm_python(tree, tree / ".venv" / "bin" / "python"):
        yield tree


def make_files(tree: Path) -> None:
    """FILES: photographs, folders of them, a film, an encoder as if it were downloaded."""
    photographs = [encoded(coloured(seed)) for seed in range(6)]
    photographs += [next(x for x in map(coloured_file, range(6, 1000)) if is_held_out(x, 0.03))]
    for folder in ("PHOTOS", "OTHER_PHOTOS", "MINE"):
        (tree / folder).mkdir()
        for number, photograph in enumerate(photographs):
            (tree / folder / f"{number}.png").write_bytes(photograph)
    (tree / "photo.jpg").write_bytes(encoded(coloured(0), "JPEG"))
    write_film(tree / "old.mp4", grainy(4))
    torch.manual_seed(0)
    cached = tree / "torch" / "hub" / "checkpoints" / "resnet50-11ad3fa6.pth"
    cached.parent.mkdir(parents=True)
    torch.save(torchvision_models().resnet50(weights=None).state_dict(), cached)
    for preset in (tree / "training" / "presets").iterdir():
        kept = re.sub(
            r"^(steps|batch|chunk|warmup|side) = .*\n", "", preset.read_text(), flags=re.M
        )
        preset.write_text(kept + SMALL_RUN)


def coloured_file(seed: int) -> bytes:
    return encoded(coloured(seed))


def make_environment(tree: Path) -> None:
    """A .venv of links to this one, in which make finds everything installed."""
    environment = tree / ".venv"
    (environment / "bin").mkdir(parents=True)
    for path in Path(sys.prefix).iterdir():
        if path.name != "bin" and not path.name.startswith("."):
            (environment / path.name).symlink_to(path)
    for path in Path(sys.executable).parent.iterdir():
        if not path.name.startswith("python"):
            (environment / "bin" / path.name).symlink_to(path)
    for extras in ("serve", "page", "all", "triton"):
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
            timeout=SECONDS,
        )
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"


@pytest.fixture(scope="module")
def shell(tree: Path, ports: list[int]) -> Shell:
    """A shell in the copy, with the environment first on its path."""
    folders = [str(tree / ".venv" / "bin"), os.environ["PATH"]]
    _, port, triton = ports
    ping = re.search(r"^inference_address=(.*)$", (tree / "config.properties").read_text(), re.M)
    assert ping
    variables = {**os.environ, "PATH": os.pathsep.join(folders), "PYTHONDONTWRITEBYTECODE": "1"}
    variables |= {"PORT": str(port), "TRITON_PORT": str(triton), "no_proxy": "*"}
    variables |= {"PING": f"http://127.0.0.1:{port}/ping", "OTHER_PING": f"{ping[1]}/ping"}
    variables |= {"TRITON_PING": f"http://127.0.0.1:{triton}/v2/health/ready"}
    variables |= {"TRITON": str(install_triton.SERVER / "bin" / "tritonserver")}
    variables |= {"TORCH_HOME": str(tree / "torch"), "TMPDIR": str(tree / "tmp")}
    variables.pop("PYTHONPATH", None)
    (tree / "tmp").mkdir()
    return Shell(tree, variables)


@pytest.fixture(scope="module")
def torchserve(shell: Shell) -> Iterator[None]:
    """The server that `make serve` starts."""
    process = subprocess.Popen(
        ["make", "serve"],
        cwd=shell.tree,
        env=shell.variables,
        text=True,
        stdout=-1,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        wait_for_line(process, "Ready in ")
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)  # as a terminal's Ctrl-C does
        process.communicate(timeout=SECONDS)


@pytest.fixture(scope="module")
def triton(shell: Shell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Triton with what `make triton` makes."""
    work, port = tmp_path_factory.mktemp("work"), int(shell.variables["TRITON_PORT"])
    reason = install_triton.obstacle()
    if reason:
        pytest.skip(reason)
    subprocess.run(
        ["make", "triton"], cwd=shell.tree, env=shell.variables, check=True, timeout=SECONDS
    )
    process = start_triton(shell.tree / "model_store" / "triton", work, port)
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, work / "triton.log")
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.mark.server
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_does_what_it_says(
    block: Block, shell: Shell, request: pytest.FixtureRequest
) -> None:
    if "127.0.0.1:8080" in block.text or "make serve" in block.text:
        request.getfixturevalue("torchserve")
    if re.search(r"127\.0\.0\.1:800[01]|tritonserver", block.text):
        request.getfixturevalue("triton")
    if block.language == "sh":
        shell.run(f"set -e -o pipefail\n{STAND_INS}{block.text}", "bash")
    else:
        shell.run(block.text, sys.executable, "-")


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    for block in BLOCKS:
        assert block.language in {"sh", "python", "yaml", "json", "text"}, f"{block}: {block.line}"


def test_blocks_that_are_not_run_exist_and_have_a_reason() -> None:
    for key, reason in NOT_RUN.items():
        assert [one for one in BLOCKS if str(one).startswith(key)], f"no block begins so: {key}"
        assert reason
