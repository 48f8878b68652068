"""Hold TorchServe's settings against what it reads: it ignores all else without a word.

Source: the constants of org.pytorch.serve.util.ConfigManager and of
org.pytorch.serve.archive.model.ModelConfig in TorchServe 0.12's model-server.jar, and
ts/model_server.py, which starts it by default; tests hold these lists against those files.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

# config.properties.
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
# Variables named otherwise than their key.
_VARIABLES = {
    "TS_TOKEN_EXPIRATION_TIME_MIN": "token_expiration_min",
    "TS_OPEN_INFERENCE_PROTOCOL": "ts_open_inference_protocol",
}

# model-config.yaml.
_MODEL_COUNTS = {
    *("minWorkers", "maxWorkers", "batchSize", "maxBatchDelay", "responseTimeout"),
    *("startupTimeout", "parallelLevel", "maxRetryTimeoutInSec", "clientTimeoutInMills"),
    *("jobQueueSize", "sequenceMaxIdleMSec", "sequenceTimeoutMSec", "maxSequenceJobQueueSize"),
    "maxNumSequence",
}
_MODEL_SWITCHES = {
    *("useJobTicket", "continuousBatching", "sequenceBatching", "asyncCommunication", "useVenv"),
}
_MODEL_OTHERS = {"deviceType", "parallelType", "deviceIds", "torchrun"}
MODEL = _MODEL_COUNTS | _MODEL_SWITCHES | _MODEL_OTHERS
HANDLER = {"threads"}  # under the key "handler": our own


def problems_of_properties(text: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """Say what is wrong with a config.properties; nothing where all is right.

    Args:
        text: the file.
        environment: variables that TorchServe would find, where the file lets them in.
    """
    found: list[str] = []
    lines: dict[str, int] = {}
    values: dict[str, str] = {}
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
        lines[key], values[key] = number, value.lstrip()
        wrong = _wrong_property(key, value.lstrip())
        if wrong:
            found.append(f"line {number}: {wrong}")
    if values.get("enable_envvars_config") == "true":
        for name in sorted(environment or {}):
            key = _VARIABLES.get(name, name.removeprefix("TS_").lower())
            if name.startswith("TS_") and key in values:
                found.append(f"line {lines[key]}: {key} is replaced by the variable {name}")
    return found


def problems_of_model(settings: object) -> list[str]:
    """Say what is wrong with the settings of a model-config.yaml; nothing where all is right."""
    if not isinstance(settings, Mapping):
        return ["there are no settings in it; write key: value"]
    found = []
    for key, value in settings.items():
        if key == "handler":
            inside = value if isinstance(value, Mapping) else {}
            found += [_unknown(name, HANDLER, "handler") for name in inside if name not in HANDLER]
            found += [
                f"handler: {name} must be a whole number, not {inside[name]!r}"
                for name in HANDLER & set(inside)
                if not _is_count(inside[name])
            ]
            if not isinstance(value, Mapping):
                found.append(f"handler must hold settings, as threads: 0, not {value!r}")
        elif key not in MODEL:
            found.append(_unknown(key, MODEL | {"handler"}))
        elif key in _MODEL_COUNTS and not _is_count(value):
            found.append(f"{key} must be a whole number, not {value!r}")
        elif key in _MODEL_SWITCHES and type(value) is not bool:
            found.append(f"{key} must be true or false, not {value!r}")
        elif key in _MODEL_CHECKS and not _MODEL_CHECKS[key][0](value):
            found.append(f"{key} must be {_MODEL_CHECKS[key][1]}, not {value!r}")
    least, most = settings.get("minWorkers", 0), settings.get("maxWorkers", 0)
    if "maxWorkers" in settings and _is_count(least) and _is_count(most) and least > most:
        found.append(f"minWorkers is {least}, more than maxWorkers, {most}")
    return found


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


_MODEL_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "deviceType": (lambda value: value in ("cpu", "gpu"), "cpu or gpu"),
    "parallelType": (lambda value: value in ("pp", "tp", "pptp", "custom"), "pp, tp or pptp"),
    "deviceIds": (
        lambda value: isinstance(value, list) and all(map(_is_count, value)),
        "a list of whole numbers",
    ),
    "torchrun": (lambda value: isinstance(value, Mapping), "a group of torchrun's parameters"),
}


def _wrong_property(key: str, value: str) -> str | None:
    if key not in PROPERTIES:
        return _unknown(key, PROPERTIES)
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


def _unknown(key: object, known: Collection[str], where: str = "TorchServe") -> str:
    """Name the nearest right key: one that differs in case and underscores only comes first."""
    plain = {name.replace("_", "").lower(): name for name in sorted(known)}
    near = difflib.get_close_matches(str(key).replace("_", "").lower(), plain, 1, 0.7)
    hint = f"; did you mean {plain[near[0]]}?" if near else ""
    return f"{where} has no setting {key!r} and would ignore it{hint}"
