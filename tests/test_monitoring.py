"""The dashboard and the alerts ask for metrics that the server has."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from colorizer.errors import RequestError
from colorizer.pipeline import STAGES
from tests.support import ROOT

FOLDER = ROOT / "docs" / "monitoring"
ALERTS = yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"][0]["rules"]
PANELS = json.loads((FOLDER / "grafana.json").read_text())["panels"]
QUERIES = [rule["expr"] for rule in ALERTS] + [
    target["expr"] for panel in PANELS for target in panel["targets"]
]
# Of PromQL, as far as these queries use it.
WORDS = {"sum", "rate", "max", "by", "histogram_quantile", "le", "m", "e"}


def exposed() -> dict[str, set[str]]:
    """Names as Prometheus sees them, with the labels of each."""
    found: dict[str, set[str]] = {}
    for section in yaml.safe_load(
        (ROOT / "handlers" / "torchserve" / "metrics.yaml").read_text()
    ).values():
        for kind, metrics in section.items():
            for metric in metrics:
                endings = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
                for ending in endings:
                    found[metric["name"] + ending] = {*metric["dimensions"], "le", "Hostname"}
    return found


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_names_only_metrics_and_labels_that_exist(query: str) -> None:
    plain = re.sub(r'"[^"]*"|\[[^]]*\]', "", query)  # without values and durations
    names = set(re.findall(r"[A-Za-z_]\w*", plain)) - WORDS
    grouped = {word for group in re.findall(r"by \(([^)]*)\)", plain) for word in group.split(", ")}
    chosen = {
        metric: set(re.findall(r"(\w+)\s*[=!]", braces))
        for metric, braces in re.findall(r"(\w+)\{([^}]*)\}", plain)
    }
    metrics = names - grouped - set().union(*chosen.values())
    assert metrics
    assert metrics <= set(exposed())
    for metric in metrics:
        assert grouped | chosen.get(metric, set()) <= exposed()[metric]


def test_kinds_and_stages_that_the_alerts_name_exist() -> None:
    kinds = {"picture", "internal_error"} | {one.kind for one in RequestError.__subclasses__()}
    for query in QUERIES:
        for value in re.findall(r'Kind(?:=|!=|=~|!~)"([^"]*)"', query):
            assert set(value.split("|")) <= kinds
        for value in re.findall(r'Stage="([^"]*)"', query):
            assert value in STAGES


def test_each_alert_says_what_it_means() -> None:
    for rule in ALERTS:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert len(rule["annotations"]["summary"]) > 30
