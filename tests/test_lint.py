"""The linter of settings: it finds what TorchServe would ignore, and names what was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from handlers.torchserve import lint, settings


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
        ("enable_envvars_config=true\ndebug=true", "line 2: debug is replaced by .* TS_DEBUG"),
    ],
)
def test_what_is_wrong_in_a_config_properties_is_named(text: str, said: str) -> None:
    found = settings.problems_of_properties(text, {"TS_DEBUG": "false", "HOME": "/"})
    assert len(found) == 1
    with pytest.raises(ValueError, match=said):
        raise ValueError(found[0])


def test_a_variable_replaces_nothing_where_the_file_does_not_let_it_in() -> None:
    text = "enable_envvars_config=false\ndebug=true"
    assert settings.problems_of_properties(text, {"TS_DEBUG": "false"}) == []


def test_all_that_is_wrong_is_printed_with_its_file_and_the_exit_code_is_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.properties"
    path.write_text("max_request_siz=1\ndebug=yes\n")
    assert lint.main([str(path)]) == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.startswith(f"{path}: line {n}: ") for n, line in enumerate(said, 1)] == [True] * 2
    path.write_text("debug=true\n")
    assert lint.main([str(path)]) == 0


def test_what_is_no_settings_file_is_said_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.properties").write_bytes(b"\xff\xfe")
    for name, part in [("a.properties", "decode"), ("b.properties", "No such file")]:
        assert lint.main([str(tmp_path / name)]) == 2
        said = capsys.readouterr().err
        assert part in said
        assert said.count("\n") == 1
