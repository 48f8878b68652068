"""What the command lines of the benchmarks share: options, and tables printed as they come."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

import colorizer
from benchmarks import results
from benchmarks.results import Table
from colorizer.checkpoint import BadCheckpoint
from colorizer.engine import BadGraph


class Unusable(Exception):
    """What was given can't be measured; the message says why, and what to give."""


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A command line with the options that all have."""
    made = argparse.ArgumentParser(
        prog=f"python -m {module}", description=(description or "").partition("\n\n")[0]
    )
    add = made.add_argument
    add("--version", action="version", version=colorizer.__version__)
    add("--json", type=Path, metavar="FILE", help="save the tables there too")
    add("--quick", action="store_true", help="smallest sizes: shows that it works, and no more")
    add("--threads", type=positive, help="of the CPU (default: as torch has it)")
    return made


def positive(text: str) -> int:
    """A whole number from 1 on, of a command line."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not 1 or more")
    return value


def carry_out(
    module: str,
    options: argparse.Namespace,
    arguments: Sequence[str] | None,
    tables: Iterable[Table],
) -> int:
    """Print tables as they are measured, and save them; returns the exit code."""
    before = torch.get_num_threads()
    torch.set_num_threads(options.threads or before)
    try:
        errors = BadCheckpoint, BadGraph, Unusable
        return results.carry_out(module, options.json, arguments, tables, errors)
    finally:
        torch.set_num_threads(before)


def threads() -> str:
    """How many threads of the CPU torch computes with, in words."""
    count = torch.get_num_threads()
    return f"{count} thread" if count == 1 else f"{count} threads"


def say(text: str) -> None:
    """Tell what takes time now, beside the tables."""
    print(f"{text} ...", file=sys.stderr, flush=True)
