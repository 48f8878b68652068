"""What several tests need: small networks with random weights, and their archives."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Threads that wait for others sleep: without it, tests on a busy machine take many times as long.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read by torch when it is imported

import pytest
import torch
from safetensors.torch import save_file

from colorizer import checkpoint, gamut
from colorizer.checkpoint import Checkpoint
from colorizer.graph import Name
from colorizer.recipe import HEADS, Head, Recipe
from colorizer.unet import Alike, UNet
from export import archive, graphs, serving, triton
from export.graphs import Source
from tests.support import (
    ALIKE,
    SIDE,
    Sharing,
    TorchServe,
    Triton,
    Weights,
    coloured,
    encoded,
    picture,
    running_torchserve,
    running_triton,
)
from tests.telemetry import Collector

FLOAT: list[Name] = ["onnx"]  # in float32, so that bytes are the same on every processor

# A script that starts the tests in the background has them, and all that they start, ignore Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Files whose tests share servers: one process runs them, and at last those that end a server.
SERVERS = ("test_clients", "test_torchserve", "test_torchserve_faults", "test_triton")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the tests that end a shared server after all others."""
    items.sort(key=lambda one: one.path.stem in SERVERS and one.name.startswith("test_sigterm"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each process whole files, as `--dist loadfile` does, and those of SERVERS together."""
    from xdist.scheduler import LoadFileScheduling

    class ByServers(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            name = Path(nodeid.partition("::")[0]).stem
            return "servers" if name in SERVERS else name

    return ByServers(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the plans that NVIDIA's compiler made: record_property("plan", ...) in a test."""
    reports = terminalreporter.getreports("passed")
    plans = [value for one in reports for key, value in one.user_properties if key == "plan"]
    if plans:
        terminalreporter.section("plans compiled")
    for plan in plans:
        terminalreporter.write_line(str(plan))


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """A checkpoint of either head: real encoder shape, narrow decoder, random weights."""
    folder = tmp_path_factory.mktemp("weights")

    def make(head: Head) -> Path:
        path = folder / f"{head}.safetensors"
        if not path.exists():
            torch.manual_seed(1)
            net = UNet(head, widths=(16, 16, 16, 16))
            # Random weights give next to no colour; enough of it, and the tests see a difference.
            with torch.no_grad():
                net.head[-1].weight *= 30
            bins = gamut.bin_centres() if head == "classification" else ()
            recipe = Recipe(head, SIDE, bins)
            checkpoint.save(path, net.eval(), Checkpoint(recipe, net.widths))
            net.tell_alike(Alike(net.seen_by_alike, 8, ALIKE).state_dict())
            checkpoint.save_alike(path, net, {})
        return path

    return make


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-50 of random weights, under torchvision's names."""
    from evaluation.perceptual import torchvision_models

    torch.manual_seed(0)
    state = torchvision_models().resnet50(weights=None).state_dict()
    path = tmp_path_factory.mktemp("encoder") / "resnet50.safetensors"
    save_file({k: v for k, v in state.items() if not k.startswith("fc.")}, path)
    return path


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight colour photographs, and four files that teach nothing."""
    folder = tmp_path_factory.mktemp("photos")
    for seed in range(8):
        (folder / f"{seed}.png").write_bytes(encoded(coloured(seed)))
    (folder / "grey.png").write_bytes(encoded(coloured(9)[..., 0]))
    (folder / "cut.jpg").write_bytes(encoded(coloured(10), "JPEG")[:500])
    (folder / "text.jpg").write_text("not a picture")
    (folder / "notes.txt").write_text("not even called one")
    return folder


@pytest.fixture(scope="session")
def sources(weights: Weights) -> dict[str, Source]:
    """The small network of each head, ready to be exported."""
    pictures = [picture(90, 120, seed) for seed in range(3)]
    return {head: Source.read(weights(head), pictures) for head in HEADS}


@pytest.fixture(scope="session")
def folders(
    sources: dict[str, Source], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """For each head a folder with graphs for both engines of the CPU: onnx/, torchscript/."""
    folder = tmp_path_factory.mktemp("graphs")
    names: tuple[Name, ...] = ("onnx", "torchscript")
    for head, source in sources.items():
        for name in names:
            graphs.export(source, name, folder / head / name, [], say=lambda line: None)
    return {head: folder / head for head in sources}


@pytest.fixture(scope="session")
def staged_once(tmp_path_factory: pytest.TempPathFactory) -> Sharing:
    """Let exports inside a `with` share what a checkpoint's archive and Triton model both carry.

    It takes most of an export's time, and the same checkpoint gives the same bytes
    (tests/test_export_archive.py).
    """
    stage, kept = serving.stage, tmp_path_factory.mktemp("staged")

    def once(source: Source, folder: Path, engines: list[Name], say: Callable[..., None]) -> None:
        made = kept / "-".join([source.sha256, *engines])
        if not made.exists():
            stage(source, made, engines, say)
        shutil.copytree(made, folder)

    @contextmanager
    def sharing() -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(serving, "stage", once)
            yield

    return sharing


@pytest.fixture(scope="session")
def archives(
    weights: Weights, staged_once: Sharing, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model store: an archive of each head, under the names that the shipped ones have."""
    store = tmp_path_factory.mktemp("archives")
    with staged_once():
        archive.archive(weights("regression"), store / "colorize.mar", engines=FLOAT)
        archive.archive(weights("classification"), store / "colorize-classes.mar", engines=FLOAT)
    return store


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """What receives the servers' spans, of those requests alone that say so in traceparent."""
    with Collector() as one:
        yield one


@pytest.fixture(scope="session")
def repository(
    weights: Weights, staged_once: Sharing, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model repository of Triton with both heads."""
    out = tmp_path_factory.mktemp("triton") / "models"
    with staged_once():
        return triton.repository([weights(head) for head in HEADS], out, engines=FLOAT)


@pytest.fixture(scope="session")
def torchserve(
    archives: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[TorchServe]:
    """TorchServe with both archives; the last of test_torchserve_faults.py ends it."""
    work = tmp_path_factory.mktemp("torchserve")
    with running_torchserve(archives, work, **collector.variables) as one:
        yield one


@pytest.fixture(scope="session")
def triton_server(
    repository: Path, collector: Collector, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Triton]:
    """Triton with both models; it traces whom its caller traces. test_triton.py ends it."""
    settings = ("mode=opentelemetry", "level=TIMESTAMPS", "rate=0")
    settings += (f"opentelemetry,url={collector.url}/v1/traces",)
    traces = [f"--trace-config={one}" for one in settings]
    work = tmp_path_factory.mktemp("triton-work")
    with running_triton(repository, work, *traces, **collector.variables) as one:
        yield one
