"""Compare export/typings/tensorrt.pyi with stubs of the full API: python -m export.check_typings

FOLDER holds one folder for each release, with a tensorrt.pyi that was made by introspecting the
bindings.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

OURS = Path(__file__).parent / "typings" / "tensorrt.pyi"
# Members that introspection does not show: the buffer protocol of C.
UNSEEN = {"IHostMemory.__buffer__"}


def differences(ours: str, full: str) -> list[str]:
    """Name what a stub declares and the full one lacks, or declares otherwise."""
    theirs = dict(_members(ast.parse(full)))
    found = []
    for name, nodes in _members(ast.parse(ours)):
        there = theirs.get(name, [])
        if name in UNSEEN or any(_fits(one, other) for one in nodes for other in there):
            continue
        found.append(f"{name}: {'declared otherwise' if there else 'missing'}")
    return found


def _members(
    tree: ast.Module | ast.ClassDef, prefix: str = ""
) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Give each declaration of a stub, with its overloads, under its full name."""
    found: dict[str, list[ast.stmt]] = {}
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            found.setdefault(prefix + node.name, []).append(node)
            yield from _members(node, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef):
            found.setdefault(prefix + node.name, []).append(node)
        elif isinstance(node, ast.AnnAssign):
            found.setdefault(prefix + ast.unparse(node.target), []).append(node)
    yield from found.items()


def _fits(ours: ast.stmt, full: ast.stmt) -> bool:
    """Whether code that is right by our declaration is right by the full one."""
    if isinstance(ours, ast.ClassDef) and isinstance(full, ast.ClassDef):
        return [ast.unparse(one) for one in ours.bases] == [ast.unparse(one) for one in full.bases]
    if isinstance(ours, ast.AnnAssign) and isinstance(full, ast.AnnAssign):
        return _same(ours.annotation, full.annotation)
    if not isinstance(ours, ast.FunctionDef) or not isinstance(full, ast.FunctionDef):
        return False
    mine, theirs = ours.args.args, full.args.args
    optional = len(full.args.defaults)
    return (
        len(theirs) - optional <= len(mine) <= len(theirs)
        and _is_property(ours) == _is_property(full)
        and _same(ours.returns, full.returns)
        and all(
            one.arg == other.arg and _same(one.annotation, other.annotation)
            for one, other in zip(mine, theirs, strict=False)
        )
    )


def _is_property(function: ast.FunctionDef) -> bool:
    return "property" in [ast.unparse(one) for one in function.decorator_list]


def _same(ours: ast.expr | None, full: ast.expr | None) -> bool:
    """Whether two annotations say the same; introspection leaves some open, and never says None."""
    if ours is None or full is None:
        return ours is full
    unknown = ("...", "typing.Any")
    return ast.unparse(full) in (*unknown, ast.unparse(ours).removesuffix(" | None"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and compare; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m export.check_typings", description=__doc__)
    parser.add_argument("folder", type=Path, help="holds RELEASE/tensorrt.pyi, one or more")
    options = parser.parse_args(arguments)
    stubs = sorted(options.folder.glob("*/tensorrt.pyi"))
    if not stubs:
        parser.error(f"{options.folder} holds no RELEASE/tensorrt.pyi")
    failed = False
    for stub in stubs:
        found = differences(OURS.read_text(), stub.read_text())
        print(f"{stub}: {'; '.join(found) or 'has all that we call'}")
        failed |= bool(found)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
