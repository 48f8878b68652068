"""GPU.md's calls, run on the CPU without a network, and what they bring back.

The short form takes small networks and some of the steps. `make gpu-rehearsal` takes all steps and
the shipped weights. For it, REHEARSAL_PHOTOS and REHEARSAL_ENCODER name a folder and a file, and if
wanted REHEARSAL_WHEELS a folder, and REHEARSAL_PYTHON an environment for these wheels, with only
what the machine has.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import engines, gpu, pack
from benchmarks.pack import LIMIT, OUT
from colorizer import checkpoint
from colorizer import engines as engines_of
from colorizer.errors import UserError
from colorizer.graph import Graph
from colorizer.pipeline import Pipeline
from colorizer.recipe import Head
from evaluation.photographs import find
from tests.support import ROOT, coloured, encoded, opened, picture
from training import shards

GUIDE = (ROOT / "benchmarks" / "GPU.md").read_text()
CALL = re.compile(r"^\| [^|]+ \|([^|]*)\| `([^`]+)` \| \d+ \|", re.MULTILINE)
BACK = 16 * 2**20  # bytes of a file that comes back
LONG = "REHEARSAL_PHOTOS" in os.environ
SHORT = "train finish split graphs engine-onnx photographs archive serving"
# A process with the machine's own address and no other.
APART = ["unshare", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec sh -c "$0"']


def copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(path, target)


def checked_out(folder: Path, weights: list[Path]) -> Path:
    """Copy what travels into a git repository of its own, with weights as the shipped ones lie."""
    for path in pack.travelling(ROOT):
        if path.suffix != ".safetensors":
            copy(ROOT / path, folder / path)
    for path in weights:
        copy(path, folder / "model_store" / path.name)
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    for arguments in (["init", "-q"], ["add", "--all"], [*who, "commit", "-q", "-m", "All"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    return folder


def call(checkout: Path, machine: Path, part: Path | None, command: str, out: Path) -> None:
    """Copy what a call takes along, run its command there, and check what comes back."""
    assert len(command) < 2000
    paths = [*pack.travelling(checkout)]
    paths += [] if part is None else [path.relative_to(checkout) for path in part.iterdir()]
    assert sum((checkout / path).stat().st_size for path in paths) <= LIMIT
    tree = machine / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    for path in paths:
        copy(checkout / path, tree / path)
    out.mkdir(parents=True)
    environment = {**os.environ, "OUT": str(out), "GPU_FOLDER": str(machine / "gpu")}
    environment |= {"GPU_REHEARSAL": "1"}
    there = os.environ.get("REHEARSAL_PYTHON") or sys.prefix
    environment["PATH"] = f"{there}/bin:{os.environ['PATH']}"
    if not LONG:
        environment["GPU_STEPS"] = SHORT
    allowed = shutil.which("ip") and subprocess.run([*APART, "true"]).returncode == 0
    began = time.monotonic()
    done = subprocess.run(
        [*(APART if allowed else ["sh", "-c"]), command],
        cwd=tree, env=environment, text=True, stdout=-1, stderr=subprocess.STDOUT,
    )  # fmt: skip
    print(f"{done.stdout}=== {time.monotonic() - began:.0f} s, {allowed=}: {command}\n", flush=True)
    assert done.returncode in (0, 1), done.stdout  # 1: a step failed, which the tables tell
    back = list(out.iterdir())
    assert len(back) <= 8
    assert all(path.stat().st_size <= BACK for path in back)


@pytest.fixture(scope="module")
def rehearsed(
    weights: Callable[[Head], Path],
    encoder: Path,
    photos: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    """Go through all calls; returns the folder of everything."""
    work = tmp_path_factory.mktemp("rehearsal")
    given = [weights("regression"), weights("classification")]
    wheels: list[Path] = []
    if LONG:
        given = sorted((ROOT / "model_store").glob("*.safetensors"))
        photos, encoder = (Path(os.environ[f"REHEARSAL_{one}"]) for one in ("PHOTOS", "ENCODER"))
        wheels = sorted(Path(os.environ.get("REHEARSAL_WHEELS", "none")).glob("*.whl"))
    checkout = checked_out(work / "checkout", given)
    limits = shards.Limits(100_000, 55, stored=48)
    shards.make_shards(photos, work / "photos", 0.03, 15, limits)
    copy(encoder, work / "encoder.safetensors")
    for number in range(4):
        path = work / "pictures" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(coloured(number, 240, 320), "JPEG"))
    for path in wheels:
        copy(path, work / "wheels" / path.name)
    pack.lean(checkout)
    kept = checkout / OUT / "weights"
    hashes = [path for path in (work / "wheels").glob("*") if "imagehash" in path.name.lower()]
    start = [kept / "classification.safetensors", *hashes, work / "encoder.safetensors"]
    brought = [kept / "regression.safetensors", work / "pictures"]
    brought += [work / "wheels"] if wheels else []
    train, measure = [*start, work / "photos"], brought
    parts = {"train": pack.parts("train", train, checkout)}
    parts["measure"] = pack.parts("measure", measure, checkout)
    group = "train"
    for number, (carries, command) in enumerate(CALL.findall(GUIDE)):
        group = "measure" if "measure" in carries else group
        first, *others = parts[group]
        for part in [first] if "-00" in carries else others if carries.strip() else [None]:
            out = work / "back" / f"{number}-{part.name if part else group}"
            call(checkout, work / f"machine-{group}", part, command, out)
    pack.whole(checkout)
    assert not subprocess.check_output(["git", "status", "--porcelain"], cwd=checkout)
    for path in work.glob("back/*/part-*"):
        copy(path, work / "parts" / path.name)
    join = ["training.carry", "join", work / "parts", "--out", work / "joined"]
    subprocess.run([sys.executable, "-m", *join], cwd=ROOT, check=True)
    (last,) = work.glob("back/*-measure/results.tar.gz")
    subprocess.run(["tar", "xzf", last, "-C", work], check=True)
    return work


@pytest.mark.server
def test_the_packs_bring_the_photographs_and_whole_weights(rehearsed: Path) -> None:
    there = rehearsed / "machine-train" / "gpu"
    brought, sent = (find(folder / "photos") for folder in (there, rehearsed))
    assert len(sent) >= 8
    assert [one.read_bytes() for one in brought] == [one.read_bytes() for one in sent]
    for name in ("classification", "regression"):
        group = "train" if name == "classification" else "measure"
        path = rehearsed / f"machine-{group}" / "gpu" / f"{name}.safetensors"
        original = rehearsed / "checkout" / "model_store" / path.name
        assert path.read_bytes() == original.read_bytes()


@pytest.mark.server
def test_the_joined_checkpoints_load_and_colour_a_picture(rehearsed: Path) -> None:
    joined = sorted(path.stem for path in (rehearsed / "joined").iterdir())
    assert joined[0] == "classification"
    assert joined[-1] == "regression"
    assert any(name.startswith("finished-") for name in joined)
    for name in ("classification", "regression"):
        net, header = checkpoint.load(rehearsed / "joined" / f"{name}.safetensors")
        pipeline = Pipeline(Graph("", "", header.recipe), engines_of.Eager(net))
        reply = pipeline.colorize(encoded(picture(80, 100), "JPEG"))
        assert opened(reply.body).size == (100, 80)
        # A few steps leave regression all but grey, where it began.
        assert np.ptp(pipeline.run(np.full((1, 1, 64, 64), 50, np.float32))) > 0


@pytest.mark.server
def test_the_tables_have_every_row_and_say_why_one_is_empty(
    rehearsed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GPU_REHEARSAL", "1")
    timed, stages, *served = gpu.tables(rehearsed)
    assert [row[:2] for row in timed.rows] == [
        [engine, batch] for engine in gpu.ENGINES for batch in (1, 2)
    ]
    for row in timed.rows:
        assert isinstance(row[2], float) or str(row[-1]).startswith("not available: "), row
    assert isinstance(timed.rows[2 * gpu.ENGINES.index("onnx")][2], float)
    assert [row[0] for row in stages.rows] == [0.05, 0.1]
    closed = [table for table in served if "closed loop" in table.title]
    assert [[str(row[0]) for row in table.rows] for table in closed] == [list(gpu.USERS)] * 2
    achieved = list(closed[0].columns).index("achieved, 1/s")
    assert all(float(row[achieved] or 0) > 0 for row in closed[0].rows)
    text = gpu.markdown(rehearsed)
    assert all(table.markdown() in text for table in [timed, stages, *served])
    assert "not available: left out by GPU_STEPS" in text or LONG


def test_engines_of_the_tables_can_be_timed() -> None:
    assert set(gpu.ENGINES) < set(engines.ENGINES)


def test_a_part_that_comes_early_or_damaged_is_named_and_one_that_comes_twice_does_no_harm(
    tmp_path: Path,
) -> None:
    checkout = checked_out(tmp_path / "checkout", [])
    big, small = tmp_path / "load" / "big", tmp_path / "load" / "small"
    big.parent.mkdir()
    big.write_bytes(os.urandom(LIMIT))
    small.write_bytes(b"small")
    first, second = pack.parts("load", [big.parent], checkout)
    twice = tmp_path / "twice"
    shutil.copytree(first, twice / first.name)
    away = second.rename(tmp_path / second.name)
    there = tmp_path / "there"
    shutil.copytree(away, tmp_path / "early" / away.name)
    with pytest.raises(UserError, match="lacks what comes before load-01"):
        pack.unpack(tmp_path / "early", there)
    (only,) = (tmp_path / "early" / away.name).iterdir()
    only.write_bytes(b"cut")
    with pytest.raises(UserError, match="load-01 is damaged: bring it again"):
        pack.unpack(tmp_path / "early", there)
    assert pack.unpack(checkout / OUT, there) == []
    assert pack.unpack(twice, there) == []
    away.rename(second)
    assert {path.name for path in pack.unpack(checkout / OUT, there)} == {"big", "small"}
    assert (there / "load" / "big").read_bytes() == big.read_bytes()


def test_weights_leave_the_tree_and_come_back(
    weights: Callable[[Head], Path], tmp_path: Path
) -> None:
    checkout = checked_out(tmp_path / "checkout", [weights("regression")])
    for _ in range(2):
        pack.lean(checkout)
        travel = pack.travelling(checkout)
        assert Path("colorizer/pipeline.py") in travel
        assert not [path for path in travel if path.suffix == ".safetensors"]
    (kept,) = (checkout / OUT / "weights").iterdir()
    assert kept.read_bytes() == weights("regression").read_bytes()
    for _ in range(2):
        pack.whole(checkout)
        assert not subprocess.check_output(["git", "status", "--porcelain"], cwd=checkout)
        assert Path("model_store/regression.safetensors") in pack.travelling(checkout)


def test_a_tree_that_leaves_no_room_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pack, "LIMIT", 2**20)
    assert pack.main(["parts", "load", str(tmp_path)]) == 2
    assert "python -m benchmarks.pack lean" in capsys.readouterr().err


def test_a_step_that_fails_or_takes_too_long_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scripts = {"graphs": (0.5, "http.server 0"), "archive": (60, "nothing"), "check": (60, "this")}
    monkeypatch.setattr(gpu, "STEPS", scripts)
    arguments = ["run", *scripts, "--folder", str(tmp_path), "--out", str(tmp_path / "out")]
    assert gpu.main(arguments) == 1
    said = capsys.readouterr().out
    assert "--- graphs: not done in 0 s" in said
    assert re.search("--- archive: exit code 1: .*No module named nothing", said)
    assert "--- check: done" in said
    tables = (tmp_path / "out" / "tables.md").read_text()
    assert "| onnx | 64 |  |  |  |  |  |  | not available: it was not run |" in tables
    assert gpu.main(arguments) == 1
    assert "--- check" not in capsys.readouterr().out  # what is done is not repeated


def test_figures_go_between_their_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    (tmp_path / "benchmarks").mkdir()
    written = (tmp_path / "benchmarks" / "GPU.md", tmp_path / "README.md")
    for path in written:
        copy(ROOT / path.relative_to(tmp_path), path)
    for path in written:
        before, after = re.split(f"{gpu.MARK}.*{gpu.END}", path.read_text(), flags=re.DOTALL)
        for _ in range(2):
            gpu.write(tmp_path)
        text = path.read_text()
        assert text.startswith(before)
        assert text.endswith(after)
        assert text.count("| torchscript |") == (1 if path.name == "README.md" else 3)


def test_wheels_for_the_gpu_machine_have_the_versions_of_pyproject() -> None:
    pinned = set(re.findall(r'^  "([\w.-]+==[^";]+)', (ROOT / "pyproject.toml").read_text(), re.M))
    lower = {one.lower() for one in pinned}
    names = {one.partition("==")[0]: one for one in lower}
    for line in (ROOT / "benchmarks" / "gpu-wheels.txt").read_text().lower().splitlines():
        if "==" in line and line.partition("==")[0] in names:
            assert line in lower


def test_a_venv_with_the_wheels_that_were_brought_sees_all_that_is_here(tmp_path: Path) -> None:
    wheel = tmp_path / "brought" / "brought_along-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    texts = {
        "METADATA": "Metadata-Version: 2.1\nName: brought-along\nVersion: 1.0\n",
        "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr("brought_along.py", "WORD = 'here'\n")
        for name, text in texts.items():
            file.writestr(f"brought_along-1.0.dist-info/{name}", text)
    python = gpu.interpreter(tmp_path)
    assert python != sys.executable
    script = "import brought_along, numpy, pip; print(brought_along.WORD)"
    assert subprocess.check_output([python, "-c", script], text=True) == "here\n"
    assert gpu.interpreter(tmp_path) == python
