"""Find keys and values in a config.properties that TorchServe would silently ignore.

Unknown keys, with the nearest right one; keys given twice; values of a wrong type.

Source: the constants of org.pytorch.serve.util.ConfigManager in TorchServe 0.12's
model-server.jar, and ts/model_server.py; tests compare these lists with both.
"""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from colorizer.commands.run import command_parser

_SWITCHES = {
    *("async_logging", "cpu_launcher_enable", "debug", "decode_input_request"),
    *("disable_system_metrics", "disable_token_authorization", "enable_envvars_config"),
    *("enable_grpc_ssl", "enable_metrics_api", "enable_model_api", "install_py_dep_per_model"),
    *("ipex_enable", "ipex_gpu_enable", "limit_max_image_pixels", "model_metrics_auto_detect"),
    *("prefer_direct_buffer", "ts_open_inference_protocol", "use_env_allowed_urls"),
    "use_native_io",
}
_COUNTS = {
    *("default_response_timeout", "default_startup_timeout", "default_workers_per_model"),
    *("grpc_inference_port", "grpc_management_port", "initial_distribution_port"),
    *("grpc_inference_max_connection_age_ms", "grpc_inference_max_connection_age_grace_ms"),
    *("grpc_management_max_connection_age_ms", "grpc_management_max_connection_age_grace_ms"),
    *("initial_worker_port", "io_ratio", "job_queue_size", "max_request_size"),
    *("max_response_size", "metric_time_interval", "netty_client_threads", "number_of_gpu"),
    *("number_of_netty_threads", "token_expiration_min", "unregister_model_timeout"),
}
_ADDRESSES = {"inference_address", "management_address", "metrics_address"}
_TEXTS = {
    *("allowed_urls", "blacklist_env_vars", "certificate_file", "cors_allowed_headers"),
    *("cors_allowed_methods", "cors_allowed_origin", "cpp_log_config", "cpu_launcher_args"),
    *("default_service_handler", "grpc_inference_address", "grpc_management_address", "keystore"),
    *("keystore_pass", "keystore_type", "load_models", "metrics_config", "metrics_mode"),
    *("model_server_home", "model_snapshot", "model_store", "models", "private_key_file"),
    *("python", "service_envelope", "system_metrics_cmd", "ts_header_key_sequence_end"),
    *("ts_header_key_sequence_id", "ts_header_key_sequence_start", "version", "workflow_store"),
}
_LAUNCHER = {"plugins_path", "vmargs"}  # read by who starts Java: frontend.py
PROPERTIES = _SWITCHES | _COUNTS | _ADDRESSES | _TEXTS | _LAUNCHER
_MODES = ("log", "prometheus", "legacy")  # of metrics_mode, any other being taken for log
_ADDRESS = re.compile(r"https?://[^:/\s]+(:\d+)?/?|unix:/\S*")


def problems_of_properties(text: str) -> list[str]:
    """List what is wrong with the text of a config.properties."""
    found: list[str] = []
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip()[0] in "#!":
            continue
        key, is_pair, value = line.partition("=")
        key = key.strip()
        if not is_pair:
            found.append(f"line {number}: {line.strip()!r} is no setting; write key=value")
            continue
        if key in lines:
            found.append(f"line {number}: {key} stands in line {lines[key]} too, which is ignored")
        lines[key] = number
        wrong = _wrong_property(key, value.lstrip())
        if wrong:
            found.append(f"line {number}: {wrong}")
    return found


def _wrong_property(key: str, value: str) -> str | None:
    if key not in PROPERTIES:
        return _unknown(key)
    if value != value.rstrip():
        return f"{key} ends in a space, which TorchServe takes as a part of the value"
    if key in _SWITCHES and value not in ("true", "false"):
        return f"{key} must be true or false, not {value!r}"
    if key in _COUNTS and not value.isdecimal():
        return f"{key} must be a whole number, not {value!r}"
    if key in _ADDRESSES and not _ADDRESS.fullmatch(value):
        return f"{key} must be like http://127.0.0.1:8080, not {value!r}"
    if key == "metrics_mode" and value not in _MODES:
        return f"metrics_mode must be {', '.join(_MODES[:-1])} or {_MODES[-1]}, not {value!r}"
    return None


def _unknown(key: str) -> str:
    """Name the nearest right key: one that differs in case and underscores only comes first."""
    plain = {name.replace("_", "").lower(): name for name in sorted(PROPERTIES)}
    near = difflib.get_close_matches(key.replace("_", "").lower(), plain, 1, 0.7)
    hint = f"; did you mean {plain[near[0]]}?" if near else ""
    return f"TorchServe has no setting {key!r} and would ignore it{hint}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse the command line and lint.

    Returns:
        0: all is right. 1: something is wrong. 2: a file can't be read.
    """
    parser = command_parser("python -m handlers.torchserve.lint", __doc__)
    add = parser.add_argument
    add("files", nargs="+", type=Path, metavar="FILE", help="a config.properties")
    options = parser.parse_args(arguments)
    wrong = 0
    for path in options.files:
        try:
            found = problems_of_properties(path.read_text())
        except (OSError, UnicodeDecodeError) as error:
            print(f"lint: {path}: {error}", file=sys.stderr)
            return 2
        wrong += len(found)
        for one in found:
            print(f"{path}: {one}")
    if not wrong:
        print("TorchServe reads all of it.")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
