"""config.properties says only what TorchServe reads, and opens nothing beyond this machine."""

from __future__ import annotations

import importlib.util
import struct
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest

CONFIG = Path(__file__).parent.parent / "config.properties"
LINES = CONFIG.read_text().splitlines()
SETTINGS = dict(line.split("=", 1) for line in LINES if line and not line.startswith("#"))


@pytest.fixture(scope="module")
def config_manager() -> bytes:
    """TorchServe's compiled class that reads the settings; each key is one of its constants."""
    found = importlib.util.find_spec("ts")
    assert found is not None
    assert found.origin is not None
    with zipfile.ZipFile(Path(found.origin).parent / "frontend" / "model-server.jar") as jar:
        return jar.read("org/pytorch/serve/util/ConfigManager.class")


def is_constant(text: str, compiled: bytes) -> bool:
    """Look for text among a class file's constants: tag 1, its length in two bytes, its bytes.

    Source: The Java Virtual Machine Specification, 4.4.7, CONSTANT_Utf8_info.
    """
    return b"\x01" + struct.pack(">H", len(text)) + text.encode() in compiled


@pytest.mark.parametrize("key", SETTINGS)
def test_torchserve_reads_each_key(key: str, config_manager: bytes) -> None:
    assert is_constant(key, config_manager)


def test_a_misspelt_key_would_be_noticed(config_manager: bytes) -> None:
    assert not is_constant("max_request_siz", config_manager)
    assert not is_constant("maximum_request_size", config_manager)


def test_each_setting_is_given_once_and_follows_a_comment_or_its_group() -> None:
    assert len(SETTINGS) == sum(1 for line in LINES if line and not line.startswith("#"))
    groups = "\n".join(LINES).split("\n\n")
    assert all(group.startswith("#") for group in groups)


@pytest.mark.parametrize("service", ["inference", "management", "metrics"])
def test_http_stays_on_this_machine(service: str) -> None:
    assert urlsplit(SETTINGS[f"{service}_address"]).hostname == "127.0.0.1"


@pytest.mark.parametrize("service", ["inference", "management"])
def test_grpc_stays_on_this_machine(service: str) -> None:
    assert SETTINGS[f"grpc_{service}_address"] == "127.0.0.1"


def test_nothing_is_fixed_that_the_command_line_says() -> None:
    assert not {"load_models", "model_store", "models"} & set(SETTINGS)
