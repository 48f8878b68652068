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
import yaml

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
    "docs/export.md: .venv/bin/python -m pip": "needs a GPU and NVIDIA's TensorRT",
    "docs/training.md: make train": "the steps that make takes are the next block's, which is run",
    "docs/training.md: .venv/bin/python -m training.shards": "test_training_runs.py runs torchrun",
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


# Text in colorizer/unet.py: networks that training starts anew are as small as the tests' others.
SMALL_NETWORK = {"side: int = 224": "side: int = 64", "(256, 160, 96, 48)": "(16, 16, 16, 16)"}

LONG_AGO = 500_000_000  # in 1985: a time that zip files, which archives are, can hold


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
        os.utime(path, (LONG_AGO, LONG_AGO), follow_symlinks=False)  # make finds all else newer
    for archive in archives.iterdir():
        (tree / "model_store" / archive.name).symlink_to(archive)
    unet = tree / "colorizer" / "unet.py"
    for before, after in SMALL_NETWORK.items():
        assert before in unet.read_text()
        unet.write_text(unet.read_text().replace(before, after))
    os.utime(unet, (LONG_AGO, LONG_AGO))
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


# --- what is named in them


def spoken() -> list[tuple[str, str]]:
    """Document and command: lines of blocks, and what stands in prose as `code`."""
    found = [(one.document, line) for one in BLOCKS for line in joined(one.text)]
    for path in DOCUMENTS:
        prose = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        name = path.relative_to(ROOT).as_posix()
        found += [(name, code) for code in re.findall(r"`([^`\n]+)`", prose)]
    return found


def joined(text: str) -> list[str]:
    """Lines, those that end in a backslash with their next."""
    return text.replace("\\\n", " ").splitlines()


SPOKEN = spoken()
COMMANDS = sorted(
    {
        (document, match[1], match[2])
        for document, text in SPOKEN
        for match in re.finditer(
            r"-m ((?:benchmarks|colorizer|export|handlers|page|training)\b[\w.]*(?: triton)?)"
            r"([^;&|#]*)",
            text,
        )
    }
)


@pytest.fixture(scope="module")
def help_of(shell: Shell) -> Callable[[str], str]:
    """What a module of this project says to --help; asked once."""
    known: dict[str, str] = {}

    def ask(module: str) -> str:
        if module not in known:
            command = [
                str(shell.tree / ".venv" / "bin" / "python"),
                "-m",
                *module.split(),
                "--help",
            ]
            done = subprocess.run(
                command, cwd=shell.tree, env=shell.variables, capture_output=True, text=True
            )
            assert done.returncode == 0, f"python -m {module} --help: {done.stderr}"
            known[module] = done.stdout
        return known[module]

    return ask


@pytest.mark.parametrize(("document", "module", "arguments"), COMMANDS)
def test_every_command_that_is_named_has_the_options_named(
    document: str, module: str, arguments: str, help_of: Callable[[str], str]
) -> None:
    options = re.findall(r"(?<![\w-])--[a-z][\w-]*", arguments)
    for option in options:
        assert re.search(rf"{option}\b(?!-)", help_of(module)), f"{module} has no {option}"
    assert options or help_of(module)


def test_every_target_of_make_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        (document, match[1])
        for document, text in SPOKEN
        for match in re.finditer(r"(?:^|&& |`)make ([a-z-]+)", text)
    }
    assert {"serve", "test"} <= {target for _, target in named}
    for document, target in named:
        assert target in targets, f"{document}: make {target}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if re.match(r"https?:", target):
            continue
        file, _, anchor = target.partition("#")
        assert (path.parent / file).exists(), target
        assert file or anchor in anchors, target


# Made by the commands, or by those who read: not in a clean clone.
MADE = ("model_store/triton", "model_store/*.mar", "model_store/colorize", "training/shards")
ROOMS = r"(?:benchmarks|colorizer|deploy|docs|export|handlers|model_store|page|tests|training)"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_of_this_tree_that_is_named_is_there(path: Path) -> None:
    for named in re.findall(rf"(?<![\w/.-]){ROOMS}/[\w./*-]+", path.read_text()):
        named = named.rstrip(".")
        if not named.startswith(MADE):
            assert any(ROOT.glob(named.rstrip("/"))), named


@pytest.mark.parametrize("block", [one for one in LISTED if one.language == "sh"], ids=str)
def test_a_block_that_is_not_run_is_at_least_shell(block: Block) -> None:
    done = subprocess.run(["bash", "-n"], input=block.text, text=True, capture_output=True)
    assert not done.stderr


@pytest.mark.parametrize(
    "block", [one for one in BLOCKS if one.language in ("yaml", "json")], ids=str
)
def test_a_block_of_settings_parses(block: Block) -> None:
    assert yaml.safe_load(block.text)  # JSON is YAML too
