"""config.properties holds what TorchServe reads, and opens nothing beyond this machine."""

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
from handlers.torchserve import lint
from tests.support import ROOT, Capture

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
    for key in lint.PROPERTIES:
        assert key in known or f'"{key}"' in starter, key
    assert {word for word in known if re.fullmatch("[a-z]+(_[a-z]+)+", word)} - NO_KEYS <= (
        lint.PROPERTIES
    )


def test_torchserve_reads_each_key_that_export_writes_into_an_archive() -> None:
    written = yaml.safe_load(archive.model_config(Settings.read()))
    assert constants("archive/model/ModelConfig") >= set(written) - {"handler"}
    assert "batchsize" not in constants("archive/model/ModelConfig")
    assert set(written["handler"]) == {"threads"}  # our own


def test_the_linter_finds_nothing_in_the_shipped_settings() -> None:
    assert lint.problems_of_properties(CONFIG.read_text()) == []


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("max_request_siz=1", "line 1: TorchServe has no setting 'max_request_siz' and would"),
        ("max_request_siz=1", "did you mean max_request_size?"),
        ("\n# a comment\nJobQueueSize=3", "line 3: .* did you mean job_queue_size?"),
        ("nothing_like_it=3", "would ignore it$"),
        ("debug=yes", "debug must be true or false, not 'yes'"),
        ("debug=true ", "debug ends in a space"),
        ("job_queue_size=32 # photographs", "job_queue_size must be a whole number"),
        ("inference_address=127.0.0.1:8080", "inference_address must be like http://"),
        ("metrics_mode=Prometheus", "metrics_mode must be log, prometheus or legacy"),
        ("debug: true", "line 1: 'debug: true' is no setting; write key=value"),
        ("debug=true\ndebug=false", "line 2: debug stands in line 1 too"),
    ],
)
def test_what_is_wrong_in_a_config_properties_is_named(text: str, said: str) -> None:
    found = lint.problems_of_properties(text)
    assert len(found) == 1
    with pytest.raises(ValueError, match=said):
        raise ValueError(found[0])


def test_all_that_is_wrong_is_printed_with_its_file_and_the_exit_code_is_1(
    tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "config.properties"
    path.write_text("max_request_siz=1\ndebug=yes\n")
    assert lint.main([str(path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"{path}: line {n}: ") for n, line in enumerate(said, 1)] == [True] * 2
    path.write_text("debug=true\n")
    assert lint.main([str(path)]) == 0


def test_what_is_no_settings_file_is_said_in_one_line(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "a.properties").write_bytes(b"\xff\xfe")
    for name, part in [("a.properties", "decode"), ("b.properties", "No such file")]:
        assert lint.main([str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert part in said
        assert said.count("\n") == 1
