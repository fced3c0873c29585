"""The images and the compose file, checked without a container engine.

Each image's recipe is read from its Dockerfile and carried out in a fresh environment: the files it copies, the
requirements it installs, the command it starts, the health check it runs. Recipe and test cannot drift apart.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from model.card import load_card
from model.spec import GenerationSpec
from worker.broker.check import check_server
from worker.broker.embedded import find_server, start_broker
from worker.jobs import JobQueue, QueueAdmin

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
DOCKERFILES = ["docker/app.Dockerfile", "docker/worker.Dockerfile"]
NUMERICAL = {"torch", "numpy", "scipy", "scikit-image", "trimesh", "tifffile", "numba", "matplotlib", "pillow"}
PASSWORD = "0123456789abcdef"


# ------------------------------------------------------------------------------------------------------ reading recipes


@dataclass(frozen=True)
class Recipe:
    """What a Dockerfile says: its stages, each a list of (instruction, argument)."""

    stages: list[list[tuple[str, str]]]

    @classmethod
    def read(cls, name: str) -> Recipe:
        text = (ROOT / name).read_text(encoding="utf-8")
        text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
        stages: list[list[tuple[str, str]]] = []
        for line in filter(str.strip, text.splitlines()):
            instruction, argument = line.strip().split(maxsplit=1)
            if instruction == "FROM":
                stages.append([])
            stages[-1].append((instruction, re.sub(r" {2,}", " ", argument)))
        return cls(stages)

    def all(self, instruction: str, *, stage: int) -> list[str]:
        return [argument for name, argument in self.stages[stage] if name == instruction]

    @property
    def copied(self) -> list[str]:
        """Names that the build stage copies from the tree."""
        return [name for line in self.all("COPY", stage=0) for name in line.split()[:-1]]

    @property
    def requirement(self) -> str:
        """What the build stage installs, such as ``.[app]``."""
        [found] = re.findall(
            r'pip install --constraint constraints\.txt "([^"]+)"', "\n".join(self.all("RUN", stage=0))
        )
        return found

    @property
    def command(self) -> list[str]:
        [line] = self.all("CMD", stage=-1)
        return list(json.loads(line))

    @property
    def health(self) -> list[str]:
        [line] = self.all("HEALTHCHECK", stage=-1)
        return list(json.loads(line[line.index("CMD ") + 4 :]))

    @property
    def environment(self) -> dict[str, str]:
        return dict(word.split("=", 1) for line in self.all("ENV", stage=-1) for word in shlex.split(line))


# ---------------------------------------------------------------------------------------------------------- Dockerfiles


@pytest.mark.parametrize("name", DOCKERFILES)
def test_images_are_built_apart_and_run_without_rights(name: str) -> None:
    recipe = Recipe.read(name)
    assert len(recipe.stages) == 2
    assert all(
        stage[0] in {("FROM", "python:3.11-slim AS build"), ("FROM", "python:3.11-slim")} for stage in recipe.stages
    )
    [user] = recipe.all("USER", stage=-1)
    assert user == "10001:10001"
    assert not any(recipe.all("ADD", stage=stage) for stage in (0, 1))
    # Nothing of the final stage comes from the tree: no sources, no tests, no settings.
    assert all(line.startswith("--from=build ") for line in recipe.all("COPY", stage=-1))


def test_web_image_asks_for_nothing_numerical() -> None:
    assert Recipe.read("docker/app.Dockerfile").requirement == ".[app]"
    assert Recipe.read("docker/worker.Dockerfile").requirement == ".[worker]"


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_images_copy_exists_and_is_let_in(name: str) -> None:
    let_in = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), flags=re.MULTILINE)
    copied = Recipe.read(name).copied
    assert set(copied) == set(let_in)
    assert all((ROOT / path).exists() for path in copied)


def test_the_health_check_of_a_worker_fails_without_one_and_passes_with_one(tmp_path: Path) -> None:
    """In the environment of the tests; the slow tests run it in that of the image."""
    _, *arguments = Recipe.read("docker/worker.Dockerfile").health
    with start_broker(tmp_path / "broker") as broker:

        def check() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
                env={**os.environ, "PYTHONPATH": str(ROOT), "CYTOSYNTH_REDIS_URL": broker.url},
            )  # fmt: skip

        alone = check()
        assert (alone.returncode, alone.stderr) == (1, "")
        jobs = JobQueue.connect(broker.url)
        jobs.admin.announce(name="one", hostname=socket.gethostname(), pid=1, device="cpu")
        jobs.close()
        assert check().returncode == 0


@pytest.mark.parametrize("name", DOCKERFILES)
def test_hadolint_finds_nothing_in(name: str) -> None:
    hadolint = shutil.which("hadolint", path=f"{BIN}{os.pathsep}{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("hadolint is not published for this machine")
    done = subprocess.run([hadolint, name], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


# -------------------------------------------------------------------------------------------------------------- compose


def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    return loaded


SERVICES = ["redis", "web", "worker"]


def test_compose_files_follow_the_compose_specification() -> None:
    files = ["docker-compose.yml", "docker/gpu.yml"]
    checker = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", *files]
    done = subprocess.run(checker, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("service", SERVICES)
def test_service_has_no_rights_and_writes_only_to_volumes_and_memory(service: str) -> None:
    written = compose()["services"][service]
    assert written["cap_drop"] == ["ALL"]
    assert written["security_opt"] == ["no-new-privileges:true"]
    assert written["read_only"] is True
    assert written["tmpfs"] == ["/tmp"]
    assert "privileged" not in written
    assert "cap_add" not in written


def test_services_are_those_described_here() -> None:
    assert sorted(compose()["services"]) == SERVICES


def test_only_the_web_is_reached_from_outside_and_by_default_from_this_host_only() -> None:
    services, networks = compose()["services"], compose()["networks"]
    assert services["web"]["ports"] == ["${CYTOSYNTH_PUBLISH:-127.0.0.1:8000}:8000"]
    assert [name for name in SERVICES if "ports" in services[name]] == ["web"]
    assert networks["back"] == {"internal": True}
    assert services["redis"]["networks"] == services["worker"]["networks"] == ["back"]


def test_web_and_worker_wait_for_the_broker_and_share_settings_and_data() -> None:
    services = compose()["services"]
    web, worker = services["web"], services["worker"]
    assert web["depends_on"] == worker["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert web["environment"] == worker["environment"]
    assert web["volumes"] == worker["volumes"] == ["data:/data"]
    assert web["environment"]["CYTOSYNTH_DATA_DIR"] == "/data"


def test_workers_can_be_scaled() -> None:
    # A fixed name or port would admit one only.
    assert {"container_name", "ports", "hostname"} & set(compose()["services"]["worker"]) == set()


def test_no_password_is_written_down() -> None:
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert text.count("REDIS_PASSWORD:?") == 3
    assert re.search(r"^REDIS_PASSWORD=$", (ROOT / ".env.example").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert "requirepass" not in settings_of_redis()


def test_gpu_overlay_reserves_a_device_for_the_worker_only() -> None:
    overlay = yaml.safe_load((ROOT / "docker/gpu.yml").read_text(encoding="utf-8"))
    assert list(overlay["services"]) == ["worker"]
    [device] = overlay["services"]["worker"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


# --------------------------------------------------------------------------------------------------------------- broker


def settings_of_redis() -> dict[str, str]:
    text = (ROOT / "docker/redis.conf").read_text(encoding="utf-8")
    return dict(line.split(maxsplit=1) for line in text.splitlines() if line.strip() and not line.startswith("#"))


def test_broker_of_the_containers_forgets_and_drops_nothing() -> None:
    written = settings_of_redis()
    assert written["appendonly"] == "yes"
    assert written["maxmemory-policy"] == "noeviction"


def test_a_server_takes_the_configuration_and_workers_take_the_server(tmp_path: Path) -> None:
    written = compose()["services"]["redis"]["command"]
    assert written[:5] == ["redis-server", "/etc/redis.conf", "--dir", "/data", "--requirepass"]
    port = free_port()
    command = [str(find_server()), str(ROOT / "docker/redis.conf"), "--dir", str(tmp_path), "--requirepass", PASSWORD]
    command += ["--port", str(port), "--bind", "127.0.0.1"]
    with running(command, environment=os.environ.copy(), folder=tmp_path):
        url = f"redis://:{PASSWORD}@127.0.0.1:{port}/0"
        wait_until(lambda: check_server(url) is None)


# ------------------------------------------------------------------------------------------------------ carrying it out


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_image_holds_our_packages_as_they_are_and_apart_from_the_libraries(tmp_path: Path) -> None:
    # The steps for our own packages are the same in both images.
    recipes = [Recipe.read(name) for name in DOCKERFILES]
    own = [[step for step in recipe.stages[0] if "--target" in step[1]] for recipe in recipes]
    assert own[0] == own[1] != []
    python = install(recipes[0], tmp_path, libraries=False)
    assert wrong_files(tmp_path) == set()
    assert {"cytosynth", "cytosynth-service"} & installed(python) == set()
    copied = recipes[0].all("COPY", stage=-1)
    assert (
        copied
        == recipes[1].all("COPY", stage=-1)
        == [f"--from=build {place} {place}" for place in ("/opt/cytosynth", "/opt/own")]
    )


def test_command_line_without_web_libraries_says_where_it_runs() -> None:
    code = "import sys; sys.modules['httpx'] = None; import app.cli.commands"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "web image" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.timeout(1200)  # installs from a registry
def test_web_image_holds_what_inspects_uploads_only_and_a_job_sent_to_it_starts_by_its_wake_up(tmp_path: Path) -> None:
    recipe = Recipe.read("docker/app.Dockerfile")
    python = install(recipe, tmp_path)
    # For the children that inspect uploads and check cells before a training.
    assert installed(python) & NUMERICAL == {"numpy", "tifffile"}
    assert {"imagecodecs", "h5py"} <= installed(python)
    assert wrong_files(tmp_path) == set()

    port = str(free_port())
    with start_broker(tmp_path / "broker") as broker:
        environment = surroundings(recipe, tmp_path, url=broker.url, data=tmp_path / "data")
        command = [word.replace("0.0.0.0", "127.0.0.1").replace("8000", port) for word in recipe.command]
        with running(command, environment=environment, folder=tmp_path):
            base = f"http://127.0.0.1:{port}"
            wait_until(lambda: fetch(f"{base}/livez") is not None)
            assert fetch(f"{base}/v1/models")
            assert b"cytosynth" in (fetch(f"{base}/openapi.json") or b"")
            assert fetch(f"{base}/")  # the page and its files were installed
            listed = ["cytosynth", "models", "--server", base]  # the client is installed, and what it needs
            told = subprocess.run(listed, env=environment, cwd=tmp_path, capture_output=True, text=True, check=True)
            assert {line.split("\t")[0] for line in told.stdout.splitlines()} >= {"a549", "celegans"}
            health = [word.replace("8000", port) for word in recipe.health]
            subprocess.run(health, env=environment, cwd=tmp_path, check=True, timeout=30)

            jobs = JobQueue.connect(broker.url, wake_up=lambda _: None)  # it wakes nobody, and no worker sweeps
            assert jobs.admin.wake_ups_waiting() == 0
            body = json.dumps({"model": "celegans", "seed": 1, "frames": 1, "grid": 16, "formats": ["stl"]}).encode()
            request = urllib.request.Request(
                f"{base}/v1/generations", data=body, headers={"Content-Type": "application/json"}
            )
            with urllib.request.urlopen(request, timeout=30) as answer:
                assert answer.status == 202
            wait_until(lambda: jobs.admin.wake_ups_waiting() == 1)
            jobs.close()

            # Label volumes are checked here before a training is queued.
            training = {"name": "huge", "uploads": ["example-cells.tif"], "voxel": [1e6, 1e6, 1e6]}
            request = urllib.request.Request(
                f"{base}/v1/trainings", data=json.dumps(training).encode(), headers={"Content-Type": "application/json"}
            )
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=60)
            assert (refused.value.code, json.load(refused.value)["code"]) == (422, "bad_dataset")


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_worker_image_computes_a_cell(tmp_path: Path, tiny_models: Path) -> None:
    recipe = Recipe.read("docker/worker.Dockerfile")
    python = install(recipe, tmp_path)
    assert installed(python) & {"fastapi", "uvicorn", "pytest"} == set()
    assert "imagecodecs" in installed(python)
    assert wrong_files(tmp_path) == set()

    card = load_card(tiny_models / "tiny")
    spec = GenerationSpec(model=card.id, seed=1, frames=2, grid=card.grid_min, formats=["stl"]).completed()
    with start_broker(tmp_path / "broker") as broker:
        environment = surroundings(recipe, tmp_path, url=broker.url, data=tmp_path / "data")
        shutil.copytree(tiny_models, tmp_path / "data" / "models")
        with running(recipe.command, environment=environment, folder=tmp_path):
            jobs = JobQueue.connect(broker.url)
            told = subprocess.run(["cytosynth", "models"], env=environment, capture_output=True, text=True, check=False)
            assert "web image" in told.stderr
            wait_until(lambda: bool(jobs.admin.workers_alive()), seconds=120)
            subprocess.run(recipe.health, env=environment, cwd=tmp_path, check=True, timeout=60)
            job, _ = jobs.submit(
                kind="generation",
                spec=spec.model_dump(mode="json"),
                model_id=card.id,
                model_sha256=card.sha256,
                digest=spec.digest(model_sha256=card.sha256),
            )
            done = jobs.wait(job.id, timeout_s=240)
            assert (done.status, done.error) == ("succeeded", None)
            jobs.close()
    assert list((tmp_path / "data").rglob("*.stl"))


def install(recipe: Recipe, folder: Path, *, libraries: bool = True) -> Path:
    """Carry out the build stage, instruction by instruction, below a folder; return the interpreter.

    Without ``libraries`` only our own packages are installed: the same steps, in seconds.
    """
    opt, build = folder / "opt", folder / "build"
    opt.mkdir()
    python = opt / "cytosynth" / "bin" / "python"
    environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    if not libraries:
        environment["PIP_NO_DEPS"] = "1"
    for instruction, argument in recipe.stages[0]:
        if instruction == "WORKDIR":
            assert argument == "/build"
            build.mkdir()
        elif instruction == "ENV":
            environment |= dict(word.split("=", 1) for word in shlex.split(argument))
        elif instruction == "ARG":
            name, _, default = argument.partition("=")
            environment.setdefault(name, default.strip('"'))
        elif instruction == "COPY":
            *names, place = argument.split()
            copy(names, build / place)
        elif instruction == "RUN":
            if "--require-hashes" in argument and not libraries:
                continue
            line = argument.replace("/opt/", f"{shlex.quote(str(opt))}/")
            where = build if build.exists() else folder
            subprocess.run(["/bin/sh", "-c", line], cwd=where, env=environment, check=True)
        else:
            assert instruction == "FROM", f"{instruction} is not carried out here"
    return python


def copy(names: list[str], place: Path) -> None:
    """Copy files and folders of the tree; an engine keeps the times of files, and so does this."""
    ignored = shutil.ignore_patterns("__pycache__", "*.nbi", "*.nbc")
    for name in names:
        if (source := ROOT / name).is_dir():
            shutil.copytree(source, place, ignore=ignored)
        else:
            shutil.copy2(source, place)


def installed(python: Path) -> set[str]:
    code = "import importlib.metadata as m; print(*(d.name.lower() for d in m.distributions()))"
    return set(subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True).stdout.split())


def wrong_files(folder: Path) -> set[str]:
    """Return the files of our packages that the image lacks, or whose contents are others there."""
    own = folder / "opt" / "own"
    sources = dict.fromkeys(("app", "worker", "model"), ROOT) | {"cytosynth": ROOT / "client" / "src"}
    left_out = {"__pycache__", "viewer"}  # the latter is what static/viewer.js is built from
    ours = {
        path.relative_to(source).as_posix(): path
        for package, source in sources.items()
        for path in (source / package).rglob("*")
        if path.is_file() and not left_out & set(path.relative_to(source).parts)
    }
    return {
        name
        for name, path in ours.items()
        if not (own / name).is_file() or (own / name).read_bytes() != path.read_bytes()
    }


def surroundings(recipe: Recipe, folder: Path, *, url: str, data: Path) -> dict[str, str]:
    """Return the environment of the container: what the image sets, compose's settings, and nothing of ours."""
    data.mkdir()
    image = {name: value.replace("/opt/", f"{folder}/opt/") for name, value in recipe.environment.items()}
    return image | {
        "PATH": image["PATH"].replace("$PATH", os.defpath),
        "HOME": str(data),
        "CYTOSYNTH_REDIS_URL": url,
        "CYTOSYNTH_DATA_DIR": str(data),
        "CYTOSYNTH_MODEL_DIRS": str(data / "models"),
    }


@contextmanager
def running(command: list[str], *, environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Run a command beside the test; it must end by itself on SIGTERM."""
    program = shutil.which(command[0], path=environment["PATH"])
    assert program, f"{command[0]} is not installed"
    log = folder / "command.log"
    with log.open("wb") as output:
        process = subprocess.Popen([program, *command[1:]], env=environment, cwd=folder, stdout=output, stderr=output)
        try:
            yield
            assert process.poll() is None, log.read_text(encoding="utf-8", errors="replace")
        except BaseException:
            sys.stderr.write(log.read_text(encoding="utf-8", errors="replace"))
            raise
        finally:
            process.terminate()
            try:
                process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                pytest.fail(f"{command} did not end on SIGTERM")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def fetch(url: str) -> bytes | None:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            body: bytes = answer.read()
            return body
    except OSError:
        return None


def wait_until(condition: Any, *, seconds: float = 30.0) -> None:
    """Wait for a condition that may raise until it holds; let the last error out."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
            error: Exception = AssertionError("did not happen in time")
        except Exception as raised:
            error = raised
        if time.monotonic() > deadline:
            raise error
        time.sleep(0.1)


def test_the_workers_health_check_names_what_exists() -> None:
    text = (ROOT / "docker" / "worker.Dockerfile").read_text(encoding="utf-8")
    (command,) = re.findall(r'CMD \["python", "-c", "(.+)"\]', text)
    for module, name in re.findall(r"from ([\w.]+) import (\w+)", command):
        assert hasattr(importlib.import_module(module), name)
    assert "JobQueue.connect(S().redis_url).admin.workers_alive()" in command
    assert callable(JobQueue.connect)
    assert callable(QueueAdmin.workers_alive)
