"""Run a command; all commands end the same way.

    0    done
    1    done, except for some that failed (the command says which), or the output was closed
    2    an error that the user can fix: one line says what was wrong and what to do
    130  interrupted (Ctrl-C)

A bug shows its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from colorizer import __version__
from colorizer.errors import UserError


def command_parser(
    name: str, description: str | None, epilog: str | None = None, as_written: bool = False
) -> argparse.ArgumentParser:
    """Make a command's parser, with --version; the help may keep the lines of its texts."""
    formatter = argparse.RawDescriptionHelpFormatter if as_written else argparse.HelpFormatter
    parser = argparse.ArgumentParser(name, None, description, epilog, formatter_class=formatter)
    parser.add_argument("--version", action="version", version=__version__)
    return parser


def run_command(
    name: str, work: Callable[[], int], interrupted: str = "nothing was written"
) -> int:
    """Do a command's work; returns the exit code.

    Args:
        name: the prefix of error messages.
        work: returns 0, or 1 if some of it failed.
        interrupted: what Ctrl-C leaves behind, in words.
    """
    try:
        return work()
    except BrokenPipeError:
        # The reader of our output is gone (`| head`); Python would complain again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (UserError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{name}: interrupted; {interrupted}", file=sys.stderr)
        return 130
