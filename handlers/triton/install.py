"""Install Triton Inference Server for the tests: python -m handlers.triton.install

nvidia-pytriton carries the server itself in a wheel. Its release is an old one, with known holes:
for tests on this machine, never for a server that others reach.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

WHEEL = "nvidia-pytriton==0.7.0"
NEEDED_GLIBC = (2, 35)
FOLDER = Path(sys.prefix) / "triton"
SERVER = FOLDER / "pytriton" / "tritonserver"
LIBRARY = Path(sysconfig.get_config_var("LIBDIR")) / sysconfig.get_config_var("INSTSONAME")


def obstacle() -> str | None:
    """Say why Triton can't run here; None where it can."""
    kind, release = platform.libc_ver()
    if sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"):
        return f"Triton's wheel is for Linux, not {sys.platform} on {platform.machine()}"
    if kind != "glibc" or tuple(map(int, release.split("."))) < NEEDED_GLIBC:
        return (
            f"Triton's wheel needs glibc {NEEDED_GLIBC[0]}.{NEEDED_GLIBC[1]}, not {kind} {release}"
        )
    if ".so" not in LIBRARY.name or not LIBRARY.exists():
        return f"Triton needs Python as a library, and {sys.executable} has none: no {LIBRARY}"
    return None


def main() -> int:
    """Install what is missing; returns the exit code."""
    argparse.ArgumentParser(
        prog="python -m handlers.triton.install",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    reason = obstacle()
    if reason:
        print(f"Not installing Triton, so its tests will be skipped: {reason}")
        return 0
    if not (SERVER / "bin" / "tritonserver").exists():
        print(f"Installing Triton for the tests ({WHEEL}, 55 MB) ...", flush=True)
        beside = FOLDER.with_name("triton.unfinished")
        shutil.rmtree(beside, ignore_errors=True)
        # Without its own requirements: they are for its Python side, and would replace numpy.
        command = [*(sys.executable, "-m", "pip", "install", "--quiet", "--no-deps")]
        command += ["--disable-pip-version-check", "--target", str(beside), WHEEL]
        if subprocess.run(command).returncode:
            print("The installation failed; the lines above say why.", file=sys.stderr)
            return 1
        beside.rename(FOLDER)
    stub = "triton_python_backend_stub"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    shutil.copy(
        SERVER / "python_backend_stubs" / version / stub, SERVER / "backends" / "python" / stub
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
