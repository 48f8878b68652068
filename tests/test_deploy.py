"""Deployment files fit the schemas of what reads them, and agree with the servers' settings."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml

import colorizer
from benchmarks import servers
from tests.support import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CONFIG = (ROOT / "config.properties").read_text()
GUIDE = (ROOT / "docs" / "deploy.md").read_text()
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
DRAIN = 30  # seconds that either server has for what is in work, once it is told to end


class Server(NamedTuple):
    """What deploys one server."""

    name: str
    docker: str
    manifests: dict[str, Any]  # by kind, as the overlay for CPUs makes them
    writable: set[str]  # folders
    queue: str  # its metric of photographs that wait

    @property
    def compose(self) -> Any:
        return COMPOSE[self.name]

    @property
    def pod(self) -> Any:
        return self.manifests["Deployment"]["spec"]["template"]["spec"]

    @property
    def container(self) -> Any:
        (container,) = self.pod["containers"]
        return container

    @property
    def ports(self) -> set[int]:
        """What its image opens."""
        (line,) = re.findall(r"^EXPOSE (.+)$", self.docker, re.MULTILINE)
        return {int(port) for port in line.split()}


def built(overlay: str) -> dict[str, Any]:
    """The manifests of an overlay, by kind.

    Made here as kustomize makes them, of the few words that ours use; a test compares.
    """
    folder = KUBERNETES / overlay
    how = yaml.safe_load((folder / "kustomization.yaml").read_text())
    made: dict[str, Any] = {}
    for name in how.get("resources", ()):
        if (folder / name).is_dir():
            made |= built(f"{overlay}/{name}")
        else:
            made |= {one["kind"]: one for one in yaml.safe_load_all((folder / name).read_text())}
    for name in how.get("components", ()):
        component = yaml.safe_load((folder / name / "kustomization.yaml").read_text())
        for patch in component["patches"]:
            for change in yaml.safe_load(patch["patch"]):
                *path, last = change["path"].strip("/").split("/")
                where = made[patch["target"]["kind"]]
                for step in path:
                    where = where[int(step) if step.isdecimal() else step]
                where[last] = change["value"]
    for image in how.get("images", ()):
        for container in made["Deployment"]["spec"]["template"]["spec"]["containers"]:
            if container["image"].split(":")[0] == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"
    return made


def read(name: str, ending: str, writable: set[str], queue: str) -> Server:
    docker = (DEPLOY / f"Dockerfile{ending}").read_text()
    return Server(name, docker.replace("\\\n", " "), built(f"{name}-cpu"), writable, queue)


SERVERS = [
    read("torchserve", "", {"/tmp", "/app/logs"}, "ts_queue_latency_microseconds"),
    read("triton", ".triton", {"/tmp", "/dev/shm"}, "nv_inference_pending_request_count"),
]
TORCHSERVE, TRITON = SERVERS
OVERLAYS = [f"{server.name}-{device}" for server in SERVERS for device in ("cpu", "gpu")]
RESTRICTED: list[str] = TRITON.container["args"]  # of Triton's APIs
each_server = pytest.mark.parametrize("server", SERVERS, ids=lambda server: server.name)


def tool(name: str, *arguments: str) -> None:
    command = [str(Path(sys.executable).parent / name), *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_manifest_fits_kubernetes_own_schema(overlay: str) -> None:
    for one in built(overlay).values():
        kubernetes_validate.validate(one, kubernetes_validate.latest_version(), strict=True)


def kustomize() -> list[str]:
    """The command that builds a folder, where there is one."""
    for command in (["kubectl", "kustomize"], ["kustomize", "build"]):
        if shutil.which(command[0]):
            return command
    pytest.skip("neither kubectl nor kustomize is on this machine")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_kustomize_builds_what_was_checked(overlay: str) -> None:
    command = [*kustomize(), str(KUBERNETES / overlay)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {one["kind"]: one for one in yaml.safe_load_all(done.stdout)} == built(overlay)


@each_server
def test_the_overlays_differ_in_what_a_pod_may_use(server: Server) -> None:
    cpu, gpu = (built(f"{server.name}-{device}")["Deployment"] for device in ("cpu", "gpu"))
    (container,) = gpu["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"].pop("nvidia.com/gpu") == "1"
    assert gpu["spec"]["template"]["spec"].pop("tolerations")
    container["resources"]["requests"]["cpu"] = "2"
    container["image"] = container["image"].removesuffix("-cuda")
    assert gpu == cpu
    build = f"docker build -f deploy/Dockerfile{'' if server is TORCHSERVE else '.triton'}"
    assert f"{build} --build-arg TORCH=https://pypi.org/simple" in GUIDE
    assert "ARG TORCH=" in server.docker


def test_compose_fits_its_schema() -> None:
    tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/compose.yaml")


def test_the_dockerfiles_pass_their_linter() -> None:
    tool("hadolint", "deploy/Dockerfile", "deploy/Dockerfile.triton")


@each_server
def test_what_a_dockerfile_copies_is_there(server: Server) -> None:
    copied = re.findall(r"^COPY (?!--)(.+) \S+$", server.docker, re.MULTILINE)
    sources = [source for line in copied for source in line.split()]
    assert {"LICENSE", "model_store/LICENSE-WEIGHTS"} <= set(sources)
    ignored = (ROOT / ".dockerignore").read_text().split()
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source not in ignored


@each_server
def test_compose_builds_from_the_servers_own_dockerfile(server: Server) -> None:
    build = server.compose["build"]
    assert (DEPLOY / build["context"]).resolve() == ROOT
    assert (ROOT / build["dockerfile"]).read_text().replace("\\\n", " ") == server.docker


def test_inside_a_container_torchserve_opens_only_predictions_and_metrics() -> None:
    changes = re.findall(r"-e 's#\^(\w+)=\.\*#(\w+)=(\S+)#'", TORCHSERVE.docker)
    settings = dict(re.findall(r"^(\w+)=(.*)$", CONFIG, re.MULTILINE))
    for before, after, value in changes:
        assert before == after
        assert before in settings, "sed would change nothing"
        settings[after] = value
    outside = {key for key, value in settings.items() if "0.0.0.0" in value}
    assert outside == {"inference_address", "metrics_address"}
    assert {int(settings[key].rpartition(":")[2]) for key in outside} == TORCHSERVE.ports


@each_server
def test_the_same_ports_are_named_everywhere(server: Server) -> None:
    assert server.ports == {port["containerPort"] for port in server.container["ports"]}
    policy = server.manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"]
    assert server.ports == {port["port"] for port in policy}
    loopback = [f"127.0.0.1:{port}:{port}" for port in sorted(server.ports)]
    assert server.compose["ports"] == loopback
    annotations = server.manifests["Deployment"]["spec"]["template"]["metadata"]["annotations"]
    named = {port["name"]: port["containerPort"] for port in server.container["ports"]}
    assert annotations["prometheus.io/port"] == str(named["metrics"])
    for port in server.manifests["Service"]["spec"]["ports"]:
        assert port["targetPort"] in named


@each_server
def test_nobody_is_root_and_nothing_but_what_is_mounted_can_be_written(server: Server) -> None:
    (user,) = re.findall(r"^USER (\d+)$", server.docker, re.MULTILINE)
    assert server.pod["securityContext"]["runAsNonRoot"]
    assert str(server.pod["securityContext"]["runAsUser"]) == user != "0"
    security = server.container["securityContext"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert {mount["mountPath"] for mount in server.container["volumeMounts"]} == server.writable
    assert server.compose["read_only"]
    assert server.compose["cap_drop"] == ["ALL"]
    in_memory = {one.split(":")[0] for one in server.compose["tmpfs"]}
    assert in_memory | ({"/dev/shm"} if "shm_size" in server.compose else set()) == server.writable


@each_server
def test_each_is_asked_for_its_health_where_it_answers(server: Server) -> None:
    (port,) = (one["containerPort"] for one in server.container["ports"] if one["name"] == "http")
    ready = server.container["readinessProbe"]["httpGet"]
    assert ready == server.container["startupProbe"]["httpGet"]
    assert f"http://127.0.0.1:{port}{ready['path']}'" in server.docker
    assert ready["path"] == {"torchserve": "/ping", "triton": "/v2/health/ready"}[server.name]
    assert "livenessProbe" in server.container
    assert server.container["resources"]["limits"]["memory"] == "21Gi"
    assert server.compose["mem_limit"] == "21g"


@each_server
def test_what_is_in_work_has_its_time_before_the_end_is_forced(server: Server) -> None:
    (_, seconds) = server.container["lifecycle"]["preStop"]["exec"]["command"]
    assert server.pod["terminationGracePeriodSeconds"] >= int(seconds) + DRAIN + 10
    assert int(server.compose["stop_grace_period"].rstrip("s")) >= DRAIN + 10
    assert "STOPSIGNAL SIGTERM" in server.docker


@each_server
def test_pods_are_added_by_a_metric_that_the_guides_rules_make(server: Server) -> None:
    (metric,) = server.manifests["HorizontalPodAutoscaler"]["spec"]["metrics"]
    (text,) = re.findall(r"^```yaml\n(rules:.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    rules = {rule["name"]["as"]: rule for rule in yaml.safe_load(text)["rules"]}
    assert len(rules) == len(SERVERS)
    rule = rules[metric["pods"]["metric"]["name"]]
    assert rule["seriesQuery"].startswith(server.queue + "{")
    assert rule["metricsQuery"].endswith("/ 1e6") == server.queue.endswith("microseconds")
    if server is TORCHSERVE:
        assert (
            f"name: {server.queue}"
            in (ROOT / "handlers" / "torchserve" / "metrics.yaml").read_text()
        )


@each_server
def test_every_object_selects_the_pods_of_its_deployment(server: Server) -> None:
    spec = {kind: one["spec"] for kind, one in server.manifests.items()}
    labels = spec["Deployment"]["template"]["metadata"]["labels"]
    assert spec["Deployment"]["selector"]["matchLabels"] == labels
    assert spec["Service"]["selector"] == labels
    assert spec["PodDisruptionBudget"]["selector"]["matchLabels"] == labels
    assert spec["NetworkPolicy"]["podSelector"]["matchLabels"] == labels
    name = server.manifests["Deployment"]["metadata"]["name"]
    assert spec["HorizontalPodAutoscaler"]["scaleTargetRef"]["name"] == name


def test_the_two_can_stand_in_one_cluster() -> None:
    manifests = [one for server in SERVERS for one in server.manifests.values()]
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(set(names)) == len(names)


@each_server
def test_the_image_carries_this_version(server: Server) -> None:
    assert server.container["image"].endswith(f":{colorizer.__version__}")


@each_server
def test_every_image_installs_the_pinned_versions(server: Server) -> None:
    installing = [line for line in server.docker.splitlines() if "pip install" in line]
    assert installing
    for line in installing:
        assert re.search(r" -c (/src/)?constraints\.txt ", line)


def test_tritons_options_are_those_that_its_tests_start_it_with() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (\[.+\])$", TRITON.docker, re.MULTILINE)
    command, _ = servers.triton(Path("models"), 8000)
    tested = {option.split("=")[0] for option in command}
    assert {option.split("=")[0] for option in yaml.safe_load(entry)[1:]} <= tested
