"""Compare export/typings/tensorrt.pyi with stubs of the full API: python -m export.check_typings

FOLDER holds one folder for each release, with a tensorrt.pyi that was made by introspecting the
bindings.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

OURS = Path(__file__).parent / "typings" / "tensorrt.pyi"
# Members that introspection does not show: the buffer protocol of C.
UNSEEN = {"IHostMemory.__buffer__"}


def differences(ours: str, full: str) -> list[str]:
    """Name what a stub declares and the full one lacks, or declares otherwise."""
    theirs = defaultdict(list)
    for name, node in _members(ast.parse(full)):
        theirs[name].append(node)  # with its overloads
    return [
        f"{name}: {'declared otherwise' if theirs[name] else 'missing'}"
        for name, node in _members(ast.parse(ours))
        if name not in UNSEEN and not any(_fits(node, other) for other in theirs[name])
    ]


def _members(tree: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.stmt]]:
    """Give each declaration of a stub under its full name."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.AnnAssign):
            yield prefix + ast.unparse(node.target), node
        if isinstance(node, ast.ClassDef):
            yield from _members(node, f"{prefix}{node.name}.")


def _fits(ours: ast.stmt, full: ast.stmt) -> bool:
    """Whether code that is right by our declaration is right by the full one."""
    if isinstance(ours, ast.ClassDef) and isinstance(full, ast.ClassDef):
        return [ast.unparse(one) for one in ours.bases] == [ast.unparse(one) for one in full.bases]
    if isinstance(ours, ast.AnnAssign) and isinstance(full, ast.AnnAssign):
        return _same(ours.annotation, full.annotation)
    if not isinstance(ours, ast.FunctionDef) or not isinstance(full, ast.FunctionDef):
        return False
    mine, theirs = ours.args.args, full.args.args
    needed = len(theirs) - len(full.args.defaults)
    is_property, is_theirs = (
        "property" in [ast.unparse(one) for one in function.decorator_list]
        for function in (ours, full)
    )
    return (
        needed <= len(mine) <= len(theirs)
        and is_property == is_theirs
        and _same(ours.returns, full.returns)
        and all(
            one.arg == other.arg and _same(one.annotation, other.annotation)
            for one, other in zip(mine, theirs, strict=False)
        )
    )


def _same(ours: ast.expr | None, full: ast.expr | None) -> bool:
    """Whether annotations are the same; introspection leaves some open, and never says None."""
    if ours is None or full is None:
        return ours is full
    return ast.unparse(full) in ("...", "typing.Any", ast.unparse(ours).removesuffix(" | None"))


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
