"""The script for a machine with a GPU, as far as one without can tell."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def test_the_script_has_nothing_that_shellcheck_knows_better() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    done = subprocess.run([shellcheck, SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(shutil.which("nvidia-smi") is not None, reason="this machine may have a GPU")
def test_without_a_gpu_it_says_so_before_it_writes_anything(tmp_path: Path) -> None:
    out = tmp_path / "out"
    environment = {key: value for key, value in os.environ.items() if key != "DEVICE"}
    done = subprocess.run(
        ["sh", SCRIPT, out], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "no GPU" in done.stderr
    assert not out.exists()
