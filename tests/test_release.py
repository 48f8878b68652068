"""What the release workflow does: its steps are targets of the Makefile, all but publishing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import colorizer
from tests.support import ROOT

WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
CYCLONEDX = Path(sys.prefix) / "sbom" / "bin" / "cyclonedx-py"


def dry_run(target: str) -> str:
    """The commands of a target, with lines that go on joined."""
    done = subprocess.run(
        ["make", "--dry-run", target], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return re.sub(r"\\\n\s*", "", done.stdout)


def steps(job: str) -> list[str]:
    return [step["run"] for step in WORKFLOW["jobs"][job]["steps"] if "run" in step]


def test_the_workflow_builds_by_targets_alone_and_publishes_at_the_end() -> None:
    assert steps("build") == ["make wheels sbom"]
    build, publish = steps("images")
    assert build == "make images"
    assert "docker push" in publish
    assert WORKFLOW["jobs"]["attach"]["needs"] == ["try", "images"]
    kept = [
        step["with"]["path"]
        for job in ("build", "images")
        for step in WORKFLOW["jobs"][job]["steps"]
        if "upload-artifact" in step.get("uses", "")
    ]
    assert "dist/sbom.cdx.json" in kept[0]
    assert kept[1] == "dist/*.cdx.json"
    assert "dist/*.whl dist/*.cdx.json" in steps("attach")[0]


def test_images_are_built_from_each_dockerfile_under_this_version_and_listed() -> None:
    commands = dry_run("images")
    for image, docker in (("colorizer", "Dockerfile"), ("colorizer-triton", "Dockerfile.triton")):
        tag = f"{image}:{colorizer.__version__}"
        assert f"docker build -f deploy/{docker} -t {tag} ." in commands
        assert image in steps("images")[1]
    assert "for image in colorizer colorizer-triton; do" in commands
    listed = f"docker run --rm --entrypoint python3 $image:{colorizer.__version__} -m pip list"
    assert f"{listed} --format=freeze | .venv/sbom/bin/cyclonedx-py requirements" in commands


def test_what_is_listed_is_installed_from_the_wheels_at_pinned_versions() -> None:
    commands = dry_run("sbom")
    assert commands.index("export.wheels --out dist") < commands.index("dist/*.whl")
    assert re.search(r"pip install .*--constraint constraints\.txt dist/\*\.whl", commands)
    assert "cyclonedx-bom==" in (ROOT / "Makefile").read_text()


@pytest.mark.skipif(not CYCLONEDX.exists(), reason="make sbom has not been run here")
def test_an_sbom_names_each_package_with_its_version_and_licence(tmp_path: Path) -> None:
    """By the target's own options, of the environment that runs the tests."""
    (options,) = re.findall(r"cyclonedx-py environment (.+?) --output-file", dry_run("sbom"))
    out = tmp_path / "sbom.cdx.json"
    command = [str(CYCLONEDX), "environment", *options.split(), "--output-file", str(out)]
    subprocess.run([*command, sys.executable], cwd=ROOT, check=True, capture_output=True)
    found: dict[str, Any] = json.loads(out.read_text())
    assert (found["bomFormat"], found["metadata"]["component"]["name"]) == (
        "CycloneDX",
        "photo-colorizer",
    )
    parts = {part["name"].lower(): part for part in found["components"]}
    assert {"numpy", "pillow", "onnxruntime", "opencv-python-headless"} <= set(parts)
    assert parts["numpy"]["purl"] == f"pkg:pypi/numpy@{parts['numpy']['version']}"
    assert parts["numpy"]["licenses"]
