"""Serve archives with TorchServe, from the checks before its start to its orderly end."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from colorizer.commands.run import command_parser
from handlers.torchserve import frontend
from handlers.torchserve.checks import (
    CannotServe,
    check_free,
    check_room,
    find_archives,
    find_torchserve,
    server_environment,
)
from handlers.torchserve.lint import problems_of_properties
from handlers.torchserve.process import Server

DRAIN_SECONDS = 30.0  # to answer accepted requests: a full queue of photographs on two cores
# Workers listen on FOLDER/.ts.sock.PORT, and a socket's path has 107 bytes at most.
LONGEST_FOLDER = 107 - len("/.ts.sock.65535")
LOG_ROOM = 2**24  # bytes needed for logs; TorchServe fails silently when it can't write them
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
    settings = read_settings(options.config)
    addresses, changes = choose_addresses(settings, options.port, bool(options.certificate))
    check_free(addresses)
    changes += secure(options)
    key_file = KEY_FILE if options.tokens else None
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
        server = Server(
            command, environment, addresses, options.logs, options.certificate, key_file
        )
        try:
            if server.wait_until_ready(len(archives), asked):
                server.wait_for_signal(asked)
                server.drain(options.drain, asked)
        finally:
            server.stop()


def read_settings(config: Path) -> str:
    """Read and validate a config.properties.

    Raises:
        CannotServe: if it is missing, or has what TorchServe would silently ignore.
    """
    if not config.is_file():
        raise CannotServe(f"the configuration {config} is missing")
    settings = config.read_text()
    if wrong := problems_of_properties(settings):
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


if __name__ == "__main__":
    sys.exit(main())
