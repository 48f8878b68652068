"""The documents' commands work, and the files and links that they name exist.

Each fenced block of sh and python is run by a reader's shell in a copy of this tree; tests/clone.py
says what differs there. Blocks that can't be run here are in NOT_RUN, with the reason; their
syntax, options, targets and files are checked all the same.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from colorizer.recipe import Head
from handlers.triton import install as install_triton
from tests.clone import STAND_INS, Ports, Shell, make_clone, variables
from tests.support import (
    ROOT,
    SECONDS,
    coloured,
    encoded,
    opened,
    start_triton,
    wait_for_line,
    wait_until_ready,
)
from tests.warm_python import warm_python

PATTERNS = ["*.md", "docs/*.md", "benchmarks/*.md", "model_store/*.md"]
DOCUMENTS = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))

# Document and beginning of a block -> why it isn't run. Each is still checked by the last tests.
NOT_RUN = {
    "CONTRIBUTING.md: make venv": "would make the environment, and run these very tests",
    "benchmarks/GPU.md: python -m pip download": "needs photographs; test_gpu.py goes through it",
    "benchmarks/GPU.md: .venv/bin/python": "needs what a GPU machine sent; test_gpu.py runs it",
    "docs/benchmarks.md: make bench": "minutes; test_benchmarks.py runs what it runs",
    "docs/benchmarks.md: .venv/bin/python -m benchmarks.serving": "minutes on servers of its own",
    "docs/benchmarks.md: .venv/bin/python -m benchmarks.quality": "test_quality.py runs it",
    "docs/deploy.md: docker build": "needs Docker",
    "docs/deploy.md: docker compose": "needs Docker",
    "docs/deploy.md: make triton": "needs Docker and a registry",
    "docs/deploy.md: .venv/bin/python -m export.archive": "test_versions.py runs it",
    "docs/deploy.md: make wheels sbom": "needs Docker and package registries",
    "docs/deploy.md: kubectl apply": "needs a cluster",
    "docs/serving.md: .venv/bin/python -m handlers.torchserve.serve": "test_serve.py runs it",
    "docs/export.md: .venv/bin/python -m pip": "needs a GPU and NVIDIA's libraries",
    "docs/export.md: .venv/bin/python -m export model_store/regression.safetensors --to tensorrt": (
        "test_tensorrt_rtx.py runs it"
    ),
    "docs/training.md: make train": "the steps that make takes are the next block's, which is run",
    "docs/training.md: .venv/bin/python -m training.shards": "test_training_runs.py runs torchrun",
}


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


# A file that a command is told to write, beside it.
WRITTEN = re.compile(r"(?:-o|--out|>) ([\w-]+\.(?:jpg|png|mp4|mar|safetensors))\b")
BLOCKS = read_blocks()
LISTED = [one for one in BLOCKS if any(str(one).startswith(key) for key in NOT_RUN)]
RUN = [one for one in BLOCKS if one.language in ("sh", "python") and one not in LISTED]


@pytest.fixture(scope="module")
def shell(
    weights: Callable[[Head], Path], archives: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shell]:
    """A shell in a copy of this tree."""
    tree, ports = tmp_path_factory.mktemp("documents") / "tree", Ports.find()
    make_clone(tree, weights, archives, ports)
    with warm_python(tree, tree / ".venv" / "bin" / "python"):
        yield Shell(tree, variables(tree, ports))


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
    repository = shell.tree / "model_store" / "triton"
    # In float32, as the archives that TorchServe has here.
    process = start_triton(repository, work, port, COLORIZER_ENGINE="onnx")
    try:
        wait_until_ready(f"http://127.0.0.1:{port}", process, work / "triton.log")
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


@pytest.mark.documents
@pytest.mark.server
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_does_what_it_says(
    block: Block, shell: Shell, request: pytest.FixtureRequest
) -> None:
    if "127.0.0.1:8080" in block.text or "make serve" in block.text:
        request.getfixturevalue("torchserve")
    if re.search(r"127\.0\.0\.1:800[01]|tritonserver", block.text):
        request.getfixturevalue("triton")
    made = [shell.tree / name for name in WRITTEN.findall(block.text)]
    for path in made:
        path.unlink(missing_ok=True)  # another block's
    if block.language == "sh":
        shell.run(f"set -e -o pipefail\n{STAND_INS}{block.text}", "bash")
    else:
        shell.run(block.text, sys.executable, "-")
    for path in made:
        assert path.stat().st_size
        if path.suffix in (".jpg", ".png"):
            assert opened(path.read_bytes()).size == opened(encoded(coloured(0))).size


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
            r"-m ((?:benchmarks|colorizer|export|handlers|page|training)\b[\w.]*"
            r"(?: join\b)?)([^;&|#]*)",
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


@pytest.mark.documents
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
MADE = (
    "model_store/triton",
    "model_store/next",
    "model_store/*.mar",
    "model_store/colorize",
    "training/shards",
)
ROOMS = r"(?:benchmarks|colorizer|deploy|docs|export|handlers|model_store|page|tests|training)"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_file_of_this_tree_that_is_named_is_there(path: Path) -> None:
    text = re.sub(r"\[[^]]*\]\(https?:[^)]*\)", "", path.read_text())  # of other trees
    for named in re.findall(rf"(?<![\w/.-]){ROOMS}/[\w./*-]+", text):
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


@pytest.mark.parametrize(
    ("schema", "folder"), [("issue-forms", "ISSUE_TEMPLATE"), ("workflows", "workflows")]
)
def test_the_forms_for_issues_and_the_workflows_fit_githubs_schemas(
    schema: str, folder: str
) -> None:
    files = list((ROOT / ".github" / folder).glob("*.yml"))
    tool = Path(sys.executable).parent / "check-jsonschema"
    command = [tool, "--builtin-schema", f"vendor.github-{schema}", *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_model_card_begins_with_what_hubs_read() -> None:
    _, header, _ = (ROOT / "model_store" / "MODEL_CARD.md").read_text().split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["license"] == "other"  # none of those that hubs know
    assert (ROOT / "model_store" / values["license_link"]).exists()
    assert values["pipeline_tag"] == "image-to-image"
