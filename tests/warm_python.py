"""A Python that has imported torch already: it forks for each command that documents name.

Importing torch and Lightning takes seconds, and the documents hold some forty commands. So a
stand-in for `python` hands `-m MODULE ARGUMENTS`, with its folder, variables and files, to one
process that has them; everything else of the command is as it would be.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from tests.support import SECONDS

PRELOADED = (
    "training.train",
    "evaluation.evaluate",
    "training.fit",
    "export.archive",
    "colorizer.commands.cli",
)
# The real one gets options of Python itself, as -c, what isn't of this project, and servers: they
# have to feel a Ctrl-C.
CLIENT = """\
#!{python} -IS
import json, os, socket, sys
arguments = sys.argv[1:]
room = arguments[1].split(".")[0] if arguments[:1] == ["-m"] and arguments[1:] else ""
if room in ("", "handlers", "page") or not os.path.isdir(room):
    os.execv({python!r}, [{python!r}, *arguments])
with socket.socket(socket.AF_UNIX) as warm:
    warm.connect({address!r})
    asked = [arguments[1:], os.getcwd(), dict(os.environ)]
    socket.send_fds(warm, [json.dumps(asked).encode()], [0, 1, 2])
    warm.shutdown(socket.SHUT_WR)
    sys.exit(int(warm.recv(9) or 70))
"""


@contextlib.contextmanager
def warm_python(tree: Path, client: Path) -> Iterator[None]:
    """Start it in the folder `tree`, whose code it runs, and write its stand-in, `client`."""
    address = str(client.with_suffix(".socket"))
    client.write_text(CLIENT.format(python=sys.executable, address=address))
    client.chmod(0o755)
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "tests.warm_python", address]
    process = subprocess.Popen(command, cwd=tree, env=environment)
    try:
        deadline = time.monotonic() + SECONDS
        while not Path(address).exists():
            assert process.poll() is None, "it ended"
            assert time.monotonic() < deadline, "it did not start"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(SECONDS)


def main(address: str) -> NoReturn:
    """Answer until somebody ends it; each command in a process of its own."""
    for name in PRELOADED:
        importlib.import_module(name)
    signal.signal(
        signal.SIGCHLD, signal.SIG_IGN
    )  # of those that wait for a command: none is missed
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(address)
        listening.listen()
        while True:
            asked, _ = listening.accept()
            with asked:
                if os.fork() == 0:
                    listening.close()
                    _wait_for_one(asked)


def _wait_for_one(asked: socket.socket) -> NoReturn:
    """Run one command in a child, and tell its exit code, whatever it died of."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, _, _ = socket.recv_fds(asked, 1 << 20, 3)
    while more := asked.recv(1 << 20):
        message += more
    child = os.fork()
    if child == 0:
        for number, file in enumerate(files):
            os.dup2(file, number)
        os._exit(_run(*json.loads(message)))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    asked.sendall(str(code if code >= 0 else 128 - code).encode())
    os._exit(0)


def _run(arguments: list[str], folder: str, environment: dict[str, str]) -> int:
    """Do as `python -m MODULE ARGUMENTS` does; returns the exit code."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path[0] = folder
    sys.argv = arguments[:]
    sys.modules.pop(arguments[0], None)  # it runs as __main__
    code = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return code


if __name__ == "__main__":
    main(sys.argv[1])
