"""Compile an ONNX graph into a plan, with the parser and builder of TensorRT or TensorRT for RTX.

TensorRT 10, 11 and TensorRT for RTX share this path: their networks are strongly typed, so each
layer has the precision of the graph.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, ModuleType
from typing import TYPE_CHECKING, Any, Literal, SupportsInt

from colorizer.errors import UserError

if TYPE_CHECKING:
    import tensorrt

log = logging.getLogger(__name__)

# Package -> name.
Library = Literal["tensorrt", "tensorrt_rtx_bindings"]
TITLES: dict[Library, str] = {"tensorrt": "TensorRT", "tensorrt_rtx_bindings": "TensorRT for RTX"}

Shape = tuple[int, ...]


class NotBuilt(UserError):
    """A library that is missing, or that refused the graph."""


class Parsed:
    """A graph that NVIDIA's parser has read, ready to be compiled.

    Args:
        library: whose parser.
        graph: an ONNX graph, weights included.

    Attributes:
        title: the library's name and release.

    Raises:
        NotBuilt: if the parser refuses the graph; the message names the node.
        ImportError: if the library is not installed.
    """

    def __init__(self, library: Library, graph: bytes) -> None:
        if TYPE_CHECKING:
            import tensorrt as trt
        else:
            trt = importlib.import_module(library)
        self._trt: ModuleType = trt
        self.title = f"{TITLES[library]} {trt.__version__}"
        logger, self._errors = shared_logger(library)
        self._builder = trt.Builder(logger)
        # Release 11 has no other networks and ignores the flag; release 10 needs it.
        strongly_typed = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        self.network = self._builder.create_network(strongly_typed)
        self._parser = trt.OnnxParser(self.network, logger)  # holds the network's weights
        if not self._parser.parse(graph):
            raise NotBuilt(f"{self.title} refuses the graph: {self._refusal()}")
        if not self.network.num_outputs:
            raise NotBuilt(f"{self.title} refuses the graph: it is empty")

    def _refusal(self) -> str:
        error = self._parser.get_error(0)
        operator, node = error.node_operator(), error.node_name()
        if not operator:
            return readable(error.desc().splitlines())
        if not self._parser.supports_operator(operator):
            return f"its parser does not support operator {operator} (node {node})"
        return f"{operator} (node {node}): {readable(error.desc().splitlines())}"

    def compile(
        self,
        shapes: tuple[Shape, Shape, Shape],
        configure: Callable[[Any], None],
        say: Callable[[str], None] = log.debug,
    ) -> bytes:
        """Compile the network; Ctrl-C, or an exception from `say`, ends the build early.

        Args:
            shapes: smallest, best and largest shape of the network's one input.
            configure: gets the IBuilderConfig, to set what only this library has.
            say: takes lines of progress.

        Raises:
            NotBuilt: if the library refuses, with the reason that it logged.
            KeyboardInterrupt: if the build was interrupted.
        """
        config = self._builder.create_builder_config()
        profile = self._builder.create_optimization_profile()
        profile.set_shape(self.network.get_input(0).name, *shapes)
        config.add_optimization_profile(profile)
        configure(config)
        self._errors.clear()
        stopped: list[BaseException] = []
        config.progress_monitor = monitor = _monitor(self._trt, say, stopped)
        with _interrupts_into(stopped):
            built = self._builder.build_serialized_network(self.network, config)
        del monitor  # the builder only borrows it
        if stopped:
            raise stopped[0]
        if built is None:
            raise NotBuilt(f"{self.title} could not build the plan: {readable(self._errors)}")
        return bytes(built)


@functools.cache
def shared_logger(library: Library) -> tuple[tensorrt.ILogger, deque[str]]:
    """Make a library's logger, and the list of errors that it collects.

    All messages also go to Python's logging. A process has one for each library, which keeps the
    first logger it is given and ignores others.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = importlib.import_module(library)
    errors: deque[str] = deque(maxlen=20)

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(msg)  # for the exception that the caller raises
            warning = severity == trt.ILogger.Severity.WARNING
            log.log(logging.WARNING if warning else logging.DEBUG, "%s", msg)

    return Logger(), errors


def _monitor(
    library: ModuleType, say: Callable[[str], None], stopped: list[BaseException]
) -> tensorrt.IProgressMonitor:
    """Make a monitor that reports phases and steps, and ends the build once `stopped` has entries.

    Exceptions don't pass through the builder's C++ frames: what `say` raises goes into `stopped`.
    """
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}

        def _report(self, line: str) -> None:
            try:
                say(line)
            except BaseException as error:
                stopped.append(error)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: SupportsInt) -> None:
            self._steps[phase_name] = int(num_steps)
            if not parent_phase:
                self._report(f"{phase_name}, {num_steps} steps")

        def step_complete(self, phase_name: str, step: SupportsInt) -> bool:
            steps = self._steps.get(phase_name, 0)
            if steps >= 10 and int(step) % max(1, steps // 10) == 0:
                self._report(f"{phase_name}: {step} of {steps}")
            return not stopped

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()


@contextlib.contextmanager
def _interrupts_into(stopped: list[BaseException]) -> Iterator[None]:
    """Collect Ctrl-C in a list, since a build only returns to Python in its callbacks."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread gets signals
        return

    def note(number: int, frame: FrameType | None) -> None:
        stopped.append(KeyboardInterrupt())

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def readable(messages: Iterable[str]) -> str:
    """Choose the first informative message, and remove places in NVIDIA's source."""
    for message in messages:
        # A missing driver isn't the reason: nothing needs one before a plan is run.
        if message.strip() and not re.search("Invalid Node|catchCudaError", message):
            return " ".join(re.sub(r"\s*\bIn \w+ at /_src/[^\s)]+", "", message).split())[:400]
    return "it gives no reason"
