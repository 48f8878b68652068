"""Start TorchServe, wait until it answers, and at Ctrl-C end it with all its processes."""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from colorizer.commands.run import command_parser
from handlers.torchserve import drain, frontend
from handlers.torchserve.checks import (
    CannotServe,
    check_free,
    check_room,
    find_archives,
    find_torchserve,
    server_environment,
)
from handlers.torchserve.drain import Output
from handlers.torchserve.lint import problems_of_properties

STARTUP_SECONDS = 300.0  # as startup_s in serving.yaml: torch on a slow, cold disk
GRACE_SECONDS = 10.0  # for TorchServe to end its workers by itself; it takes about 3
TICK_SECONDS = 0.2  # between checks of the server and of signals
LOG_SECONDS = 5  # between lines of progress, if they can't overwrite one another
DRAIN_SECONDS = 30.0  # to answer accepted requests: a full queue of photographs on two cores
# Workers listen on FOLDER/.ts.sock.PORT, and a socket's path has 107 bytes at most.
LONGEST_FOLDER = 107 - len("/.ts.sock.65535")
LOG_ROOM = 2**24  # bytes needed for logs; TorchServe fails silently when it can't write them
SHOWN_LINES = 40  # of its output after a failure: a traceback through server, handler and library
# Its output when an archive can't be read, and when a worker can't load one or start at all; it
# would retry for minutes.
FAILURES = ("Failed to load model", "worker process died", "MODEL_LOG - Traceback")

KEY_FILE = Path("key_file.json")  # TorchServe writes its tokens into the folder that it starts in
METRICS = Path(__file__).resolve().with_name("metrics.yaml")

# Where TorchServe listens, with its defaults, in the order in which --port numbers them.
ADDRESSES = {
    "inference_address": "http://127.0.0.1:8080",
    "management_address": "http://127.0.0.1:8081",
    "metrics_address": "http://127.0.0.1:8082",
    "grpc_inference_port": "7070",
    "grpc_management_port": "7071",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and serve; returns the exit code."""
    parser = command_parser("python -m handlers.torchserve.serve", __doc__)
    add = parser.add_argument
    add("--port", type=int, help="for predictions; the next four are for management, metrics, gRPC")
    add("--model-store", type=Path, default="model_store", help="folder of archives (%(default)s)")
    add("--models", nargs="+", default=["all"], help="archives in that folder (%(default)s)")
    add(
        "--config", type=Path, default="config.properties", help="settings, ports too (%(default)s)"
    )
    add("--certificate", type=Path, help="PEM file: speak HTTPS, with --private-key")
    add("--private-key", type=Path, help="PEM file, PKCS 8, of the certificate")
    add("--tokens", action="store_true", help="answer only who has a token from key_file.json")
    add("--logs", type=Path, default="logs", help="folder to write logs to (%(default)s)")
    add(
        "--drain",
        type=float,
        default=DRAIN_SECONDS,
        metavar="SECONDS",
        help="at most, to answer what was accepted, before the server ends (%(default)g)",
    )
    options = parser.parse_args(arguments)
    if not 0 <= options.drain < float("inf"):
        parser.error(f"--drain must be 0 or more seconds, not {options.drain}")
    if options.port is not None and not 1 <= options.port <= 65531:  # and four more
        parser.error(f"--port must be 1 to 65531, not {options.port}")
    if (options.certificate is None) != (options.private_key is None):
        parser.error("--certificate and --private-key belong together")
    asked: list[int] = []
    for wanted in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(wanted, lambda number, frame: asked.append(number))
    try:
        serve(options, asked)
    except (CannotServe, OSError) as error:
        print(f"serve: {error}", file=sys.stderr)
        return 1
    return 0


def serve(options: argparse.Namespace, asked: Sequence[int]) -> None:
    """Run TorchServe until a signal comes, which makes `asked` non-empty.

    Raises:
        CannotServe: if the server can't start, or ends by itself.
    """
    package = find_torchserve()
    archives = find_archives(options.model_store, options.models)
    environment = server_environment(options.logs)
    settings = read_settings(options.config, environment)
    addresses, changes = choose_addresses(settings, options.port, bool(options.certificate))
    check_free(addresses)
    changes += secure(options)
    client = Client(options.certificate, KEY_FILE if options.tokens else None)
    options.logs.mkdir(parents=True, exist_ok=True)
    check_room(options.logs, LOG_ROOM, "logs", "--logs ")
    # TorchServe would look for this file in the folder that it is started in.
    if "metrics_config=handlers/torchserve/metrics.yaml" in settings:
        changes.append(f"metrics_config={METRICS}")
    # Its own temporary folder, for unpacked archives and sockets: another server's sockets have the
    # same names.
    with tempfile.TemporaryDirectory(prefix="serve-", ignore_cleanup_errors=True) as temporary:
        if len(os.fsencode(temporary)) > LONGEST_FOLDER:
            raise CannotServe(
                f"the temporary folder {temporary} has too long a path for the workers' sockets; "
                "set TMPDIR to a shorter one"
            )
        environment["TMPDIR"] = temporary  # for the workers
        sizes = [(options.model_store / one.split("=")[-1]).stat().st_size for one in archives]
        check_room(Path(temporary), sum(sizes), "unpacked archives", "TMPDIR=")
        config = Path(temporary) / "config.properties"
        config.write_text("\n".join([settings, *changes, ""]))  # of a key's lines the last counts
        command = frontend.java(package, environment, read_properties(settings), Path(temporary))
        command += ["--python", sys.executable, "-f", str(config.resolve()), "-ncs"]
        command += ["-s", str(options.model_store.resolve()), "-m", *archives]
        server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            env=environment,
            start_new_session=True,  # a terminal's Ctrl-C reaches us alone; we end it in order
        )
        try:
            output = Output(server.stdout or ())
            models = _watch(server, addresses, len(archives), options.logs, asked, client, output)
            if models:
                _drain(server, addresses, options.drain, asked, client, output)
        finally:
            _say("\nStopping TorchServe ...")
            stop(server)
            _say("Stopped.")


def read_settings(config: Path, environment: Mapping[str, str]) -> str:
    """Read and validate a config.properties.

    Raises:
        CannotServe: if it is missing, or has what TorchServe would silently ignore.
    """
    if not config.is_file():
        raise CannotServe(f"the configuration {config} is missing")
    settings = config.read_text()
    if wrong := problems_of_properties(settings, environment):
        raise CannotServe("\n  ".join([f"{config} is not what TorchServe reads:", *wrong]))
    return settings


def secure(options: argparse.Namespace) -> list[str]:
    """Give the lines to add to the settings for HTTPS and tokens."""
    changes = ["disable_token_authorization=false"] if options.tokens else []
    if options.certificate:
        for path in (options.certificate, options.private_key):
            if not path.is_file():
                raise CannotServe(f"{path} is missing; HTTPS needs a certificate and its key")
        changes.append(f"certificate_file={options.certificate.resolve()}")
        changes.append(f"private_key_file={options.private_key.resolve()}")
    if options.tokens:
        KEY_FILE.unlink(missing_ok=True)  # of an earlier server, whose tokens are worth nothing
    return changes


def read_properties(text: str) -> dict[str, str]:
    """Read the keys and values of a config.properties; of a repeated key the last counts."""
    pairs = (line.split("=", 1) for line in text.splitlines() if not line.startswith("#"))
    return {pair[0].strip(): pair[1].strip() for pair in pairs if len(pair) == 2}


def choose_addresses(
    settings: str, port: int | None, https: bool = False
) -> tuple[dict[str, str], list[str]]:
    """Fill in ADDRESSES, and give the lines to add to the settings."""
    given = read_properties(settings)
    addresses = {key: given.get(key, default) for key, default in ADDRESSES.items()}
    before = dict(addresses)
    for number, (key, value) in enumerate(before.items(), start=port or 0):
        url = urlsplit(value)
        chosen = number if port else url.port
        if url.scheme:
            scheme = "https" if https else url.scheme
            addresses[key] = f"{scheme}://{url.hostname}:{chosen}"
        elif port:
            addresses[key] = str(number)
    if addresses == before:
        return addresses, []
    return addresses, [f"{key}={value}" for key, value in addresses.items()]


class Client:
    """Queries the server; trusts its certificate and uses its tokens."""

    def __init__(self, certificate: Path | None, key_file: Path | None) -> None:
        self._key_file = key_file
        handlers: list[urllib.request.BaseHandler] = [urllib.request.ProxyHandler({})]
        if certificate:
            context = ssl.create_default_context(cafile=certificate)
            context.check_hostname = False  # it may be for the name that others know us by
            handlers.append(urllib.request.HTTPSHandler(context=context))
        self._opener = urllib.request.build_opener(*handlers)  # no proxy to this machine

    def get(self, url: str, token: str = "inference") -> Any:
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

    def models(self, addresses: Mapping[str, str]) -> dict[str, Any]:
        """Fetch TorchServe's description of each model, by name; empty for one without answer.

        Of a model with several versions, each is named as its address ends: NAME/VERSION.
        """
        api = f"{addresses['management_address']}/models"
        names = [one["modelName"] for one in (self.get(api, "management") or {}).get("models", [])]
        found = {}
        for name in names:
            versions = self.get(f"{api}/{name}/all", "management") or [{}]
            for one in versions:
                several = len(versions) > 1
                found[f"{name}/{one.get('modelVersion')}" if several else name] = one
        return found


def ready_models(addresses: Mapping[str, str], expected: int, client: Client) -> list[str]:
    """Name the models once all of them have ready workers; until then none."""
    if client.get(f"{addresses['inference_address']}/ping") is None:
        return []
    models = client.models(addresses)
    workers = [one.get("workers") for one in models.values()]
    ready = all(some and all(one["status"] == "READY" for one in some) for some in workers)
    return list(models) if ready and len(models) == expected else []


def stop(server: subprocess.Popen[str]) -> None:
    """End TorchServe's front end, which ends its workers, then whatever is left."""
    server.terminate()
    for last in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + GRACE_SECONDS
        while server.poll() is None and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS / 4)
        _signal_all(server.pid, last)
        while _signal_all(server.pid, 0) and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS / 4)


def _watch(
    server: subprocess.Popen[str],
    addresses: Mapping[str, str],
    expected: int,
    logs: Path,
    asked: Sequence[int],
    client: Client,
    output: Output,
) -> list[str]:
    """Wait until the server is ready, print how to use it, and wait for a signal.

    Returns:
        The models; none if the signal came before they were ready.
    """
    lines = output.lines
    began, seconds = time.monotonic(), -1
    models: list[str] = []
    while not asked:
        time.sleep(TICK_SECONDS)
        if server.poll() is not None:
            output.finish()
            last = list(lines)[-SHOWN_LINES:]
            raise CannotServe(_report("TorchServe ended by itself", last, logs))
        if models or seconds == int(time.monotonic() - began):
            continue
        seconds = int(time.monotonic() - began)
        failed = [n for n, line in enumerate(list(lines)) if any(one in line for one in FAILURES)]
        if failed or seconds > STARTUP_SECONDS:
            output.finish()  # the reason is still being written
            first = failed[0] if failed else len(lines) - SHOWN_LINES
            shown = list(lines)[first : first + SHOWN_LINES]
            raise CannotServe(_report("TorchServe did not get ready", shown, logs))
        models = ready_models(addresses, expected, client)
        if models:
            _say(f"\nReady in {seconds} s. Colorize a photograph with")
            for model in models:
                url = f"{addresses['inference_address']}/predictions/{model}"
                _say(f"  curl {url} -T photo.jpg -o colour.jpg")
            _say("Ctrl-C stops the server.")
        elif sys.stdout.isatty() or seconds % LOG_SECONDS == 0:
            start, end = ("\r", "") if sys.stdout.isatty() else ("", "\n")
            _say(f"{start}Starting TorchServe (logs in {logs}) ... {seconds} s", end)
    return models


def _drain(
    server: subprocess.Popen[str],
    addresses: Mapping[str, str],
    seconds: float,
    asked: Sequence[int],
    client: Client,
    output: Output,
) -> None:
    """Wait until accepted requests are answered."""
    places = (addresses["inference_address"], addresses["grpc_inference_port"])
    ports = [urlsplit(place).port or int(place) for place in places]

    def look() -> drain.Look:
        return drain.look(client.models(addresses), ports, output)

    drain.wait(look, seconds, asked, lambda: server.poll() is None, _say)


def _signal_all(group: int, number: int) -> bool:
    """Send a signal to all of the server's processes; false if none is left."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):  # macOS: the latter for one that has ended
        return False
    return True


def _report(what: str, lines: Sequence[str], logs: Path) -> str:
    lines = [line.rstrip().rpartition("MODEL_LOG - ")[-1] for line in lines]
    return "\n  ".join([f"{what}; the whole of it is in {logs}:", *lines])


def _say(text: str, end: str = "\n") -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone, and the server has to end
        print(text, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
