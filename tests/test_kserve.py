"""deploy/kubernetes/kserve fits the types of KServe's own Python SDK.

Only its generated types are read: the rest of the SDK needs another psutil than ours, so `make
test` installs it without its dependencies, in a folder of its own (KSERVE in the Makefile).
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support import ROOT, Patch
from tests.test_deploy import RESTRICTED, SERVERS, Server, each_server

SDK = Path(sys.prefix) / "kserve" / "kserve"
KINDS = {"ServingRuntime": "V1alpha1ServingRuntime", "InferenceService": "V1beta1InferenceService"}
PLAIN = {"str": str, "int": int, "bool": bool}


@pytest.fixture
def sdk(monkeypatch: Patch) -> Iterator[None]:
    """The SDK's types, without what its first file would import."""
    if not SDK.is_dir():
        pytest.skip("KServe's SDK is not installed: run `make test`")
    monkeypatch.syspath_prepend(str(SDK.parent))  # for six, which comes with it
    for name in ("kserve", "kserve.models"):
        module = ModuleType(name)
        module.__path__ = [str(SDK.parent.joinpath(*name.split(".")))]
        monkeypatch.setitem(sys.modules, name, module)
    yield
    for name in [name for name in sys.modules if name.startswith("kserve.")]:
        monkeypatch.delitem(sys.modules, name)


def model(kind: str) -> Any:
    """The SDK's class of a kind, None if it is one of Kubernetes."""
    for path in (SDK / "models").glob("*.py"):
        if path.stem.replace("_", "") == kind.lower():
            return getattr(importlib.import_module(f"kserve.models.{path.stem}"), kind)
    return None


def check(value: Any, kind: str, where: str) -> dict[str, Any]:
    """Check a value against a type; returns what of it Kubernetes defines, by its path.

    Raises:
        AssertionError, ValueError: where a key doesn't exist, lacks, or has another type.
    """
    if inner := re.fullmatch(r"list\[(.+)\]", kind):
        assert isinstance(value, list), where
        found = [check(one, inner[1], f"{where}[{n}]") for n, one in enumerate(value)]
        return {path: one for part in found for path, one in part.items()}
    if inner := re.fullmatch(r"dict\(str, (\w+)\)", kind):
        assert isinstance(value, dict), where
        assert all(isinstance(one, PLAIN[inner[1]]) for one in value.values()), where
        return {}
    if kind in PLAIN:
        assert type(value) is PLAIN[kind], f"{where} is {value!r}, not {kind}"
        return {}
    if (known := model(kind)) is None:
        return {where: value}
    assert isinstance(value, dict), where
    names = {theirs: ours for ours, theirs in known.attribute_map.items()}
    assert set(value) <= set(names), f"{where} has no {sorted(set(value) - set(names))}"
    known(**{names[key]: one for key, one in value.items()})  # raises if one lacks that is required
    left: dict[str, Any] = {}
    for key, one in value.items():
        left |= check(one, known.openapi_types[names[key]], f"{where}.{key}")
    return left


def read(server: Server) -> dict[str, Any]:
    text = (ROOT / "deploy" / "kubernetes" / "kserve" / f"{server.name}.yaml").read_text()
    return {one["kind"]: one for one in yaml.safe_load_all(text)}


@each_server
def test_each_object_fits_kserves_types(server: Server, sdk: None) -> None:
    manifests = read(server)
    assert set(manifests) == set(KINDS)
    for kind, one in manifests.items():
        assert one["apiVersion"] == f"serving.kserve.io/{KINDS[kind].removesuffix(kind).lower()}"
        left = check(one, KINDS[kind], kind)
        assert {path.rpartition(".")[2].partition("[")[0] for path in left} <= {
            *("metadata", "containers", "volumes", "resources", "securityContext", "averageValue"),
        }


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("spec.predictor.minReplica", 2, "has no ['minReplica']"),
        ("spec.predictor.minReplicas", "2", "is '2', not int"),
        ("spec.predictor.model.format", {"name": "colorizer"}, "has no ['format']"),
        ("spec.predictor.autoScaling.metrics", {}, "metrics"),
    ],
)
def test_what_does_not_fit_is_found(path: str, value: Any, said: str, sdk: None) -> None:
    one = read(SERVERS[0])["InferenceService"]
    *steps, last = path.split(".")
    place = one
    for step in steps:
        place = place[step]
    place[last] = value
    with pytest.raises((AssertionError, ValueError)) as refusal:
        check(one, "V1beta1InferenceService", "it")
    assert said in str(refusal.value)


@each_server
def test_the_pod_is_that_of_the_deployment(server: Server) -> None:
    """And so fits Kubernetes' own schema, and the image, as tests/test_deploy.py checks."""
    manifests = read(server)
    runtime, predictor = (
        manifests["ServingRuntime"]["spec"],
        (manifests["InferenceService"]["spec"]["predictor"]),
    )
    (container,) = runtime["containers"]
    resources = predictor["model"]["resources"]
    assert container | {"name": server.name, "resources": resources} == server.container
    for key in (
        "automountServiceAccountToken",
        "terminationGracePeriodSeconds",
        "securityContext",
    ):
        assert predictor[key] == server.pod[key]
    assert runtime["volumes"] == server.pod["volumes"]
    template = server.manifests["Deployment"]["spec"]["template"]
    assert runtime["annotations"] == template["metadata"]["annotations"]
    pod = {"containers": runtime["containers"], "volumes": runtime["volumes"]}
    kubernetes_validate.validate(
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": pod},
        kubernetes_validate.latest_version(),
        strict=True,
    )


@each_server
def test_the_service_runs_on_its_own_runtime_and_grows_by_the_queue(server: Server) -> None:
    manifests = read(server)
    runtime, service = manifests["ServingRuntime"], manifests["InferenceService"]
    predictor = service["spec"]["predictor"]
    assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
    assert predictor["model"]["modelFormat"] in runtime["spec"]["supportedModelFormats"]
    protocol = predictor["model"].get("protocolVersion", "v1")
    assert protocol in runtime["spec"]["protocolVersions"]
    (metric,) = predictor["autoScaling"]["metrics"]
    assert server.queue in metric["external"]["metric"]["query"]
    assert f'"{service["metadata"]["name"]}-predictor-' in metric["external"]["metric"]["query"]
    hpa = server.manifests["HorizontalPodAutoscaler"]["spec"]
    assert metric["external"]["target"] == hpa["metrics"][0]["pods"]["target"]
    assert (predictor["minReplicas"], predictor["maxReplicas"]) == (
        hpa["minReplicas"],
        hpa["maxReplicas"],
    )


def test_tritons_other_apis_are_closed_there_too() -> None:
    (container,) = read(SERVERS[1])["ServingRuntime"]["spec"]["containers"]
    assert container["args"] == RESTRICTED
