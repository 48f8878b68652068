"""Deployment files, held against the schemas of what reads them, and against the server's own."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from tests.support import ROOT

DEPLOY = ROOT / "deploy"
CONFIG = (ROOT / "config.properties").read_text()
MANIFESTS = list(yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text()))


def tool(name: str, *arguments: str) -> None:
    command = [str(Path(sys.executable).parent / name), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def manifest(kind: str) -> Any:
    (found,) = (one for one in MANIFESTS if one["kind"] == kind)
    return found


@pytest.mark.parametrize("one", MANIFESTS, ids=lambda one: one["kind"])
def test_each_manifest_fits_kubernetes_own_schema(one: Any) -> None:
    kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def test_compose_fits_its_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")


def test_the_dockerfile_passes_its_linter() -> None:
    tool("hadolint", "deploy/Dockerfile")


def test_what_the_dockerfile_copies_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text().replace("\\\n", " ")
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", text, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert {"handlers", "LICENSE", "model_store/LICENSE-WEIGHTS"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists(), source


def test_inside_a_container_only_predictions_and_metrics_are_reachable() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    changes = re.findall(r"-e 's#\^(\w+)=\.\*#(\w+)=(\S+)#'", text)
    settings = dict(re.findall(r"^(\w+)=(.*)$", CONFIG, re.MULTILINE))
    for before, after, value in changes:
        assert before == after
        assert before in settings, "sed would change nothing"
        settings[after] = value
    outside = {key for key, value in settings.items() if "0.0.0.0" in value}
    assert outside == {"inference_address", "metrics_address"}
    ports = {int(settings[key].rpartition(":")[2]) for key in outside}
    assert ports == {int(port) for port in re.search(r"^EXPOSE (.+)$", text, re.M)[1].split()}  # type: ignore[index]
    container = manifest("Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert ports == {port["containerPort"] for port in container["ports"]}
    policy = manifest("NetworkPolicy")["spec"]["ingress"][0]["ports"]
    assert ports == {port["port"] for port in policy}
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["torchserve"]
    assert compose["ports"] == [f"127.0.0.1:{port}:{port}" for port in sorted(ports)]


def test_nobody_is_root_and_nothing_but_what_is_mounted_can_be_written() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    (user,) = re.findall(r"^USER (\d+)$", text, re.MULTILINE)
    pod = manifest("Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert str(pod["securityContext"]["runAsUser"]) == user != "0"
    (container,) = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    mounted = {mount["mountPath"] for mount in container["volumeMounts"]}
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["torchserve"]
    assert compose["read_only"]
    assert {one.split(":")[0] for one in compose["tmpfs"]} == mounted == {"/tmp", "/app/logs"}


def test_every_object_selects_the_pods_of_the_deployment() -> None:
    labels = manifest("Deployment")["spec"]["template"]["metadata"]["labels"]
    assert manifest("Deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("Service")["spec"]["selector"] == labels
    assert manifest("PodDisruptionBudget")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("NetworkPolicy")["spec"]["podSelector"]["matchLabels"] == labels
    name = manifest("Deployment")["metadata"]["name"]
    assert manifest("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == name


def test_the_image_carries_this_version() -> None:
    import colorizer

    (container,) = manifest("Deployment")["spec"]["template"]["spec"]["containers"]
    assert container["image"].endswith(f":{colorizer.__version__}")
