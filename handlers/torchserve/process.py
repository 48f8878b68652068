"""TorchServe as a process: wait until it answers, and end it with all its processes."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handlers.torchserve import drain
from handlers.torchserve.checks import CannotServe
from handlers.torchserve.drain import Output

STARTUP_SECONDS = 300.0  # as startup_s in serving.yaml: torch on a slow, cold disk
GRACE_SECONDS = 10.0  # for TorchServe to end its workers by itself; it takes about 3
TICK_SECONDS = 0.2  # between checks of the server and of signals
LOG_SECONDS = 5  # between lines of progress, if they can't overwrite one another
SHOWN_LINES = 40  # of its output after a failure: a traceback through server, handler and library
# Its output when an archive can't be read, and when a worker can't load one or start at all; it
# would retry for minutes.
FAILURES = ("Failed to load model", "worker process died", "MODEL_LOG - Traceback")


class Server:
    """A running TorchServe.

    Args:
        command: that starts its front end.
        environment: of its processes.
        addresses: where it listens, by the keys of config.properties.
        logs: the folder of its logs, for messages.
        certificate: to trust, if it speaks HTTPS.
        key_file: that it writes its tokens into, if it wants them.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        addresses: Mapping[str, str],
        logs: Path,
        certificate: Path | None = None,
        key_file: Path | None = None,
    ) -> None:
        self._addresses, self._logs, self._key_file = addresses, logs, key_file
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if certificate:
            context = ssl.create_default_context(cafile=certificate)
            context.check_hostname = False  # it may be for the name that others know us by
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)  # no proxy to this machine
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches us alone; we end it in order
        )
        self._output = Output(self._process.stdout or ())

    def wait_until_ready(self, expected: int, asked: Sequence[int]) -> bool:
        """Wait until all models have workers, and print how to use them.

        Args:
            expected: how many models there are.
            asked: the signals so far.

        Returns:
            False if a signal came first.

        Raises:
            CannotServe: if the server ends, a model can't be loaded, or it takes too long.
        """
        began, before = time.monotonic(), -1
        while not asked:
            time.sleep(TICK_SECONDS)
            self._check_alive()
            seconds = int(time.monotonic() - began)
            if seconds == before:
                continue
            before = seconds
            self._check_log(seconds)
            if models := self._ready(expected):
                say(f"\nReady in {seconds} s. Colorize a photograph with")
                for model in models:
                    url = f"{self._addresses['inference_address']}/predictions/{model}"
                    say(f"  curl {url} -T photo.jpg -o colour.jpg")
                say("Ctrl-C stops the server.")
                return True
            if sys.stdout.isatty() or seconds % LOG_SECONDS == 0:
                start, end = ("\r", "") if sys.stdout.isatty() else ("", "\n")
                say(f"{start}Starting TorchServe (logs in {self._logs}) ... {seconds} s", end)
        return False

    def wait_for_signal(self, asked: Sequence[int]) -> None:
        """Wait for a signal.

        Raises:
            CannotServe: if the server ends by itself.
        """
        while not asked:
            time.sleep(TICK_SECONDS)
            self._check_alive()

    def drain(self, seconds: float, asked: Sequence[int]) -> None:
        """Wait until accepted requests are answered, or the time is over."""
        places = (self._addresses["inference_address"], self._addresses["grpc_inference_port"])
        ports = [urlsplit(place).port or int(place) for place in places]

        def look() -> drain.Look:
            return drain.look(self._models(), ports, self._output)

        drain.wait(look, seconds, asked, lambda: self._process.poll() is None, say)

    def stop(self) -> None:
        """End the front end, which ends its workers, then whatever is left."""
        say("\nStopping TorchServe ...")
        self._process.terminate()
        for last in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + GRACE_SECONDS
            while self._process.poll() is None and time.monotonic() < deadline:
                time.sleep(TICK_SECONDS / 4)
            self._signal(last)
            while self._signal(0) and time.monotonic() < deadline:
                time.sleep(TICK_SECONDS / 4)
        say("Stopped.")

    def _signal(self, number: int) -> bool:
        """Send a signal to all of the server's processes; false if none is left."""
        try:
            os.killpg(self._process.pid, number)
        except (ProcessLookupError, PermissionError):  # macOS: the latter for one that has ended
            return False
        return True

    def _get(self, url: str, token: str = "inference") -> Any:
        """Fetch JSON; None while there is no answer."""
        request = urllib.request.Request(url)
        try:
            if self._key_file:
                key = json.loads(self._key_file.read_text())[token]["key"]
                request.add_header("Authorization", f"Bearer {key}")
            with self._opener.open(request, timeout=5) as reply:
                return json.load(reply)
        except (OSError, ValueError, KeyError, http.client.HTTPException):
            return None

    def _models(self) -> dict[str, Any]:
        """Fetch TorchServe's description of each model, by name; empty for one without answer.

        Of a model with several versions, each is named as its address ends: NAME/VERSION.
        """
        api = f"{self._addresses['management_address']}/models"
        names = [one["modelName"] for one in (self._get(api, "management") or {}).get("models", [])]
        found = {}
        for name in names:
            versions = self._get(f"{api}/{name}/all", "management") or [{}]
            for one in versions:
                several = len(versions) > 1
                found[f"{name}/{one.get('modelVersion')}" if several else name] = one
        return found

    def _ready(self, expected: int) -> list[str]:
        """Name the models once all of them have ready workers; until then none."""
        if self._get(f"{self._addresses['inference_address']}/ping") is None:
            return []
        models = self._models()
        workers = [one.get("workers") for one in models.values()]
        ready = all(some and all(one["status"] == "READY" for one in some) for some in workers)
        return list(models) if ready and len(models) == expected else []

    def _check_alive(self) -> None:
        if self._process.poll() is not None:
            raise self._failure("TorchServe ended by itself", -SHOWN_LINES)

    def _check_log(self, seconds: int) -> None:
        """Refuse to wait longer for a model that can't be loaded."""
        lines = list(self._output.lines)
        failed = [n for n, line in enumerate(lines) if any(one in line for one in FAILURES)]
        if failed or seconds > STARTUP_SECONDS:
            raise self._failure(
                "TorchServe did not get ready", failed[0] if failed else -SHOWN_LINES
            )

    def _failure(self, what: str, first: int) -> CannotServe:
        """Tell what went wrong, with lines of the output from one on."""
        self._output.finish()  # the reason is still being written
        lines = list(self._output.lines)[first:][:SHOWN_LINES]
        lines = [line.rstrip().rpartition("MODEL_LOG - ")[-1] for line in lines]
        return CannotServe("\n  ".join([f"{what}; the whole of it is in {self._logs}:", *lines]))


def say(text: str, end: str = "\n") -> None:
    """Print a line at once."""
    with contextlib.suppress(OSError):  # the terminal may be gone, and the server has to end
        print(text, end=end, flush=True)
