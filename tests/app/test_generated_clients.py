"""Clients that others' generators make of our description download a file and the archive, byte for byte."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from environments import make_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NAME = "cell_0000/frame_0000.stl"
# Each prints the sizes and SHA-256 of what it downloaded from sys.argv[1], job sys.argv[2].
TOLD = """
import hashlib, json
print(json.dumps([hashlib.sha256(content).hexdigest() for content in (file, archive)]))
"""
PYTHON_CLIENT = """
import sys
from cytosynth_client import Client
from cytosynth_client.api.files import get_archive, get_file
client = Client(base_url=sys.argv[1])
file = get_file.sync(id=sys.argv[2], name=sys.argv[3], client=client).payload.read()
archive = get_archive.sync(id=sys.argv[2], client=client).payload.read()
"""
GENERATOR = """
import sys
import openapi_client
api = openapi_client.FilesApi(openapi_client.ApiClient(openapi_client.Configuration(host=sys.argv[1])))
file = bytes(api.get_file_without_preload_content(sys.argv[2], sys.argv[3]).data)
archive = bytes(api.get_archive_without_preload_content(sys.argv[2]).data)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment of its own with both generators."""
    folder = tmp_path_factory.mktemp("generators") / "venv"
    packages = ["openapi-python-client==0.29.1", "openapi-generator-cli==7.26.0"]
    packages += ["urllib3", "pydantic", "python-dateutil", "typing-extensions", "ruff"]
    try:
        return make_environment(folder, *packages) / "python"
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the generators cannot be installed here: {error.stderr.strip().splitlines()[-1]}")


@pytest.mark.parametrize("generator", ["openapi-python-client", "openapi-generator-cli"])
def test_a_generated_client_downloads_a_file_and_the_archive(
    house: Any, python: Path, tmp_path: Path, generator: str
) -> None:
    job_id = house.submit()["id"]
    files = house.carry_out(job_id)
    whole = house.get(f"/v1/jobs/{job_id}/archive").content
    (tmp_path / "openapi.json").write_text(json.dumps(house.get("/openapi.json").json()))
    if generator == "openapi-python-client":
        (tmp_path / "config.yml").write_text("package_name_override: cytosynth_client\nproject_name_override: made\n")
        command = [python.parent / generator, "generate", "--path", "openapi.json", "--config", "config.yml"]
        script, made = PYTHON_CLIENT, tmp_path / "made"
    else:
        if shutil.which("java") is None:
            pytest.skip("openapi-generator-cli needs java")
        command = [python.parent / generator, "generate", "-g", "python", "-i", "openapi.json", "-o", "made"]
        script, made = GENERATOR, tmp_path / "made"
    env = {"PATH": f"{python.parent}:/usr/local/bin:/usr/bin:/bin", "HOME": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unsupported content_type" not in done.stdout + done.stderr
    asked = [python, "-c", script + TOLD, house.url, job_id, NAME]
    told = subprocess.run(asked, cwd=made, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    wanted = [hashlib.sha256(content).hexdigest() for content in (files[NAME], whole)]
    assert json.loads(told.stdout.splitlines()[-1]) == wanted
