"""The dashboard and the alerts; test_torchserve.py and test_triton.py put them to the servers."""

from __future__ import annotations

import re

import pytest

from colorizer.errors import RequestError
from colorizer.pipeline import STAGES
from colorizer.telemetry import KINDS, METRICS
from export.serving import Settings
from tests.telemetry import ALERTS, PANELS, Series, answered

QUERIES = [rule["expr"] for rule in ALERTS] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]


def test_the_queries_read_each_of_our_metrics() -> None:
    assert all(any(name in query for query in QUERIES) for name in METRICS)


def test_kinds_and_stages_that_the_alerts_name_exist() -> None:
    refusals = [
        one for one in RequestError.__subclasses__() if one.__module__ == "colorizer.errors"
    ]
    assert set(KINDS) == {"picture", "internal_error", *(one.kind for one in refusals)}
    for query in QUERIES:
        for value in re.findall(r'Kind(?:=|!=|=~|!~)"([^"]*)"', query):
            assert set(value.split("|")) <= set(KINDS)
        for value in re.findall(r'Stage="([^"]*)"', query):
            assert value in STAGES


def test_each_alert_says_what_it_means() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert len(rule["annotations"]["summary"]) > 30


def test_the_alert_of_a_full_queue_knows_its_length() -> None:
    queue = Settings.read().queue
    expected = f"nv_inference_pending_request_count[5m])) >= {queue} "
    assert any(expected in query for query in QUERIES)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("sum by (Kind) (rate(replies{Kind!~'a|b'}[5m]))", True),
        ("sum by (Kind) (rate(replies{Kind!~'a|c'}[5m]))", False),
        ("sum by (Stage) (rate(replies[5m]))", False),
        ("replies / other", False),
        ("replies > 1 or other > 1", True),
    ],
)
def test_a_query_is_answered_by_the_metrics_labels_and_values_that_it_names(
    query: str, expected: bool
) -> None:
    pytest.importorskip("promql_parser")
    series: list[Series] = [("replies", {"Kind": "c"})]
    assert answered(query, series) == expected
