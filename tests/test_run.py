"""How commands end."""

from __future__ import annotations

import subprocess
import sys

import pytest

from colorizer.commands.run import run_command
from colorizer.errors import BadOption, UserError
from tests.support import ROOT, Capture


def raising(error: BaseException) -> int:
    """Work that ends in an error."""

    def work() -> int:
        raise error

    return run_command("name", work, "half is there")


@pytest.mark.parametrize("code", [0, 1])
def test_the_works_own_code_is_the_commands(code: int) -> None:
    assert run_command("name", lambda: code) == code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("no model; make one"), 2, "name: no model; make one"),
        (BadOption("quality is 0."), 2, "name: quality is 0."),
        (FileNotFoundError(2, "No such file or directory", "a"), 2, "name: [Errno 2] No such file"),
        (KeyboardInterrupt(), 130, "name: interrupted; half is there"),
    ],
)
def test_what_a_user_can_mend_is_one_line(
    error: BaseException, code: int, line: str, capsys: Capture
) -> None:
    assert raising(error) == code
    said = capsys.readouterr().err
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())


def test_an_output_that_was_closed_ends_quietly() -> None:
    script = (
        "import sys; from colorizer.commands.run import run_command\n"
        "def work():\n    while True: print('x' * 1000)\n"
        "sys.exit(run_command('name', work))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=-1, stderr=-1, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.wait(60) == 1
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()
