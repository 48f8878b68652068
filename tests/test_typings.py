"""The stub of TensorRT's calls against the full API, where stubs of that are at hand."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from export import check_typings
from tests.support import Capture

FULL = """
class Builder:
    def __init__(self, logger: ILogger) -> None: ...
    @typing.overload
    def build(self, network: INetwork) -> IHostMemory: ...
    @typing.overload
    def build(self, network: INetwork, kernel_text: typing.Any) -> IHostMemory: ...
    @property
    def size(self) -> int: ...
    class Level:
        HIGH: typing.ClassVar[Builder.Level]
"""


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        ("def build(self, network: INetwork) -> IHostMemory | None: ...", []),
        ("@property\n    def size(self) -> int: ...", []),
        ("def build(self, graph: INetwork) -> IHostMemory: ...", ["Builder.build"]),
        ("def build(self, network: str) -> IHostMemory: ...", ["Builder.build"]),
        ("def build(self) -> IHostMemory: ...", ["Builder.build"]),
        ("def build(self, network: INetwork) -> bytes: ...", ["Builder.build"]),
        ("def size(self) -> int: ...", ["Builder.size"]),
        ("def make(self) -> int: ...", ["Builder.make"]),
        ("class Level:\n        LOW: typing.ClassVar[Builder.Level]", ["Builder.Level.LOW"]),
    ],
)
def test_what_the_full_api_lacks_or_has_otherwise_is_named(ours: str, said: list[str]) -> None:
    found = check_typings.differences(f"class Builder:\n    {ours}\n", FULL)
    assert [line.partition(":")[0] for line in found] == said


@pytest.mark.skipif("TENSORRT_API" not in os.environ, reason="TENSORRT_API names no folder of them")
def test_the_stub_holds_against_every_release() -> None:
    assert check_typings.main([os.environ["TENSORRT_API"]]) == 0


def test_a_folder_without_stubs_is_refused(tmp_path: Path, capsys: Capture) -> None:
    with pytest.raises(SystemExit, match="2"):
        check_typings.main([str(tmp_path)])
    assert "holds no RELEASE/tensorrt.pyi" in capsys.readouterr().err
