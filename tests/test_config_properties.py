"""config.properties says only what TorchServe reads, and opens nothing beyond this machine."""

from __future__ import annotations

import importlib.util
import re
import zipfile
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from export import archive
from export.serving import Settings
from handlers.torchserve import settings
from tests.support import ROOT

CONFIG = ROOT / "config.properties"
LINES = CONFIG.read_text().splitlines()
SETTINGS = dict(line.split("=", 1) for line in LINES if line and not line.startswith("#"))


CONSTANT = re.compile(rb"\x01(..)([A-Za-z_]+)", re.DOTALL)
# Constants of the same form that are no keys: values, and names of headers and of a folder.
NO_KEYS = {"torchelastic_ts", "ts_request_sequence_end", "ts_request_sequence_id"}
NO_KEYS |= {"ts_request_sequence_start"}


def torchserve() -> Path:
    """TorchServe's folder, found without importing it: it leaves a file open."""
    found = importlib.util.find_spec("ts")
    assert found is not None
    assert found.origin is not None
    return Path(found.origin).parent


def constants(name: str) -> set[str]:
    """Words among the constants of one of TorchServe's compiled classes.

    Source: The Java Virtual Machine Specification, 4.4.7, CONSTANT_Utf8_info: tag 1, its length
    in two bytes, its bytes.
    """
    with zipfile.ZipFile(torchserve() / "frontend" / "model-server.jar") as jar:
        compiled = jar.read(f"org/pytorch/serve/{name}.class")
    return {
        word[: int.from_bytes(length, "big")].decode()
        for length, word in CONSTANT.findall(compiled)
        if len(word) >= int.from_bytes(length, "big")
    }


def test_the_linter_knows_just_the_keys_that_torchserve_reads() -> None:
    known = constants("util/ConfigManager")
    starter = (torchserve() / "model_server.py").read_text()
    for key in settings.PROPERTIES:
        assert key in known or f'"{key}"' in starter, key
    assert {word for word in known if re.fullmatch("[a-z]+(_[a-z]+)+", word)} - NO_KEYS <= (
        settings.PROPERTIES
    )


def test_torchserve_reads_each_key_that_export_writes_into_an_archive() -> None:
    written = yaml.safe_load(archive.model_config(Settings.read()))
    assert constants("archive/model/ModelConfig") >= set(written) - {"handler"}
    assert "batchsize" not in constants("archive/model/ModelConfig")
    assert set(written["handler"]) == {"threads"}  # our own


def test_the_linter_finds_nothing_in_the_shipped_settings() -> None:
    assert settings.problems_of_properties(CONFIG.read_text()) == []


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
