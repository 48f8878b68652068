"""Run a command: every `main` ends alike.

    0    done
    1    done, but for some that failed (the command says which), or the output was closed
    2    the user can mend it: one line says what was wrong and what to do
    130  interrupted (Ctrl-C)

A bug shows its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

from colorizer.errors import UserError


def run_command(
    name: str, work: Callable[[], int], interrupted: str = "nothing was written"
) -> int:
    """Do a command's work; returns the exit code.

    Args:
        name: begins the line that tells an error.
        work: returns 0, or 1 where some of it failed.
        interrupted: what Ctrl-C leaves, in words.
    """
    try:
        return work()
    except BrokenPipeError:
        # Whoever read the output has gone (`| head`). Python would complain again as it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return 130
