"""The containers as they are shipped, with a real engine: build, start, generate, kill, scale, stop, start again.

``python -m benchmarks.containers`` copies the tracked files to a temporary folder, builds both images there, brings
up ``docker-compose.yml`` as it is under a project name and a port of its own, and carries out what an operator does and
what goes wrong. Each step prints its time; a step that does not hold ends the run with 1. ``--out`` gets
``summary.json`` and the logs of the containers. Everything made is removed at the end but the images, whose layers the
next run reuses.

The engine is docker or podman, with ``docker compose`` or ``podman-compose``. ``docker/base_images.sh`` makes the two
base images where no registry of images can be reached.
"""

from __future__ import annotations

import argparse
import json
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx

from cytosynth import Client, Job

T = TypeVar("T")

ROOT = Path(__file__).parents[1]
IMAGES = {"cytosynth-web": "docker/app.Dockerfile", "cytosynth-worker": "docker/worker.Dockerfile"}
SMALL = {"seed": 11, "grid": 32, "frames": 3}
LONG = {"seed": 12, "grid": 64, "frames": 150}  # long enough to be hit in the middle
PATIENCE_S = 600.0


class StepError(Exception):
    """A step that did not do what it must."""


class Stack:
    """One compose project: its files in a folder, its services on an engine.

    Parameters
    ----------
    engine
        ``docker`` or ``podman``.
    folder
        Holds docker-compose.yml and ``.env``.
    """

    def __init__(self, engine: str, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        self.project = f"cytosynth-{secrets.token_hex(3)}"
        self._compose = ["docker", "compose"] if engine == "docker" else ["podman-compose"]
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self.port = int(found.getsockname()[1])
        settings = f"REDIS_PASSWORD={secrets.token_hex(16)}\nCYTOSYNTH_PUBLISH=127.0.0.1:{self.port}\n"
        (folder / ".env").write_text(settings, encoding="utf-8")

    def run(self, *command: str, check: bool = True) -> str:
        """Run the engine; return what it printed."""
        return self._run([self.engine, *command], check=check).stdout

    def compose(self, *command: str, check: bool = True) -> str:
        """Run compose on this project; return what it printed."""
        done = self._run([*self._compose, "--project-name", self.project, *command], check=check)
        return done.stdout + done.stderr

    def _run(self, command: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        if check and done.returncode:
            raise StepError(f"{shlex.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
        return done

    def holds(self, *command: str) -> bool:
        """Whether a command of the engine ends with 0."""
        return self._run([self.engine, *command], check=False).returncode == 0

    def containers(self, service: str) -> list[str]:
        """Names of the running containers of a service."""
        names = self.run("ps", "--format", "{{.Names}}", "--filter", f"name={self.project}", check=False).split()
        return sorted(name for name in names if service in name.removeprefix(self.project))

    def remove_left(self) -> None:
        """Remove workers that ``down`` has left: podman-compose removes the first one of a service only."""
        for name in self.containers("worker"):
            self.run("rm", "--force", "--time", "30", name)

    def client(self) -> Client:
        """A client of the published port."""
        return Client(f"http://127.0.0.1:{self.port}")

    def workers(self) -> int:
        """Workers whose sign of life is in the broker."""
        said = httpx.get(f"http://127.0.0.1:{self.port}/readyz", timeout=10).json()
        found = re.search(r"(\d+) alive", str(said.get("checks", {}).get("worker", {})))
        return int(found[1]) if found else 0


def eventually(condition: Callable[[], T], what: str, *, within_s: float = PATIENCE_S) -> T:
    """Wait until a condition gives something; return it. A service that does not answer counts as not yet."""
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except (httpx.HTTPError, OSError, ValueError):
            pass
        time.sleep(0.3)
    raise StepError(f"not within {within_s:.0f} s: {what}")


# ---------------------------------------------------------------------------------------------------------------- steps


def start(stack: Stack) -> str:
    """Bring the stack up and wait until jobs can be carried out."""
    said = stack.compose("up", "--detach", "--no-build")
    if missing := [service for service in ("redis", "web", "worker") if not stack.containers(service)]:
        raise StepError(f"no container of {', '.join(missing)}:\n{said}")  # podman-compose ends with 0 all the same
    eventually(lambda: stack.workers() == 1, "one worker ready")
    return "redis, web, one worker"


def hardened(stack: Stack) -> str:
    """Rights of the containers: user, root file system, network, password of the broker."""
    [web], [worker], [broker] = (stack.containers(service) for service in ("web", "worker", "redis"))
    for name in (web, worker):
        if (user := stack.run("exec", name, "id", "-u").strip()) != "10001":
            raise StepError(f"{name} runs as {user}")
        if stack.run("exec", name, "sh", "-c", "touch /here 2>/dev/null && echo written || true").strip():
            raise StepError(f"the root file system of {name} can be written")
    reach = "import socket; socket.create_connection(('1.1.1.1', 53), 3)"
    reached = f"python -c {shlex.quote(reach)} 2>/dev/null && echo reached || true"
    if stack.run("exec", worker, "sh", "-c", reached).strip():
        raise StepError("a worker reaches the outside")
    said = stack.run("exec", "--env", "REDISCLI_AUTH=", broker, "redis-cli", "ping", check=False)
    if "NOAUTH" not in said:
        raise StepError(f"the broker answers without its password: {said}")
    return "user 10001, read-only root, no way out, broker asks for its password"


def healthy(stack: Stack) -> str:
    """The health checks of the images, run as the engine runs them, and libraries that only some requests load."""
    said = []
    for service in ("web", "worker"):
        for name in stack.containers(service):
            kind = stack.run("inspect", "--format", "{{json .Config.Healthcheck}}", name).strip()
            check = json.loads(kind)["Test"]
            command = check[1:] if check[0] == "CMD" else ["sh", "-c", *check[1:]]
            eventually(lambda n=name, c=command: stack.holds("exec", n, *c), f"{name} healthy", within_s=120)  # type: ignore[misc]
            stack.run("exec", name, "python", "-c", "import h5py, obstore")
            said.append(service)
    return f"{', '.join(said)} healthy, with h5py and obstore"


def generate(stack: Stack) -> str:
    """One generation through the published port, downloaded and verified."""
    with stack.client() as client, tempfile.TemporaryDirectory() as folder:
        job = client.generate("celegans", formats=["stl", "tiff"], **SMALL).wait(timeout_s=PATIENCE_S, progress=False)
        job.download(Path(folder) / "cell")
        verify = [sys.executable, "-m", "model", "verify", str(Path(folder) / "cell")]
        done = subprocess.run(verify, cwd=ROOT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise StepError(f"{shlex.join(verify)}:\n{done.stdout}{done.stderr}")
        return f"{len(job.files)} files, verified"


def kill(stack: Stack) -> str:
    """End every process of the worker's container in the middle of a job; the engine starts it again."""
    with stack.client() as client:
        job = in_the_middle(client)
        [worker] = stack.containers("worker")
        stack.run("exec", worker, "sh", "-c", "kill -9 -1", check=False)
        return ended(job)


def scale(stack: Stack) -> str:
    """Two workers; the one that computes is stopped and gives its job to the other."""
    stack.compose("up", "--detach", "--no-build", "--scale", "worker=2")
    eventually(lambda: stack.workers() == 2, "two workers ready")
    with stack.client() as client:
        job = in_the_middle(client, seed=int(LONG["seed"]) + 2)  # a request of its own: another is answered at once
        busy = str((job.document["lease"] or {}).get("worker"))
        names = stack.containers("worker")
        hosts = {name: stack.run("exec", name, "cat", "/etc/hostname").strip() for name in names}
        name = next((name for name, host in hosts.items() if host and host in busy), names[0])
        begun = time.monotonic()
        stack.run("stop", "--time", "60", name)
        stopped_s = time.monotonic() - begun
        said = ended(job)
    return f"{said}; the computing worker stopped in {stopped_s:.1f} s"


def down_and_up(stack: Stack) -> str:
    """The whole stack is removed in the middle of a job and brought up again: the volumes keep the job."""
    with stack.client() as client:
        before = len(list(client.jobs()))
        job = in_the_middle(client, seed=int(LONG["seed"]) + 1)
    stack.compose("down")
    stack.remove_left()
    stack.compose("up", "--detach", "--no-build")
    eventually(lambda: stack.workers() >= 1, "a worker ready")
    with stack.client() as client:
        known = len(list(client.jobs()))
        if known != before + 1:
            raise StepError(f"{before + 1} jobs before, {known} after")
        return ended(client.job(job.id))


STEPS: tuple[Callable[[Stack], str], ...] = (start, hardened, healthy, generate, kill, scale, down_and_up)


def in_the_middle(client: Client, **members: int) -> Job:
    """Submit a long job; return it when some of its frames are done and most are not."""
    job = client.generate("celegans", formats=["stl"], **{**LONG, **members}, idempotency_key=secrets.token_hex(8))

    def condition() -> bool:
        document = job.refresh().document
        if job.ended:
            raise StepError(f"the job ended before it could be hit: {document}")
        return job.state == "running" and document["progress"]["fraction"] > 0.05

    eventually(condition, "a job in the middle")
    return job


def ended(job: Job) -> str:
    """Wait for a job that something happened to; say how it ended."""
    begun = time.monotonic()

    def condition() -> bool:
        return job.refresh().ended

    eventually(condition, "the end of the job")
    if job.state != "succeeded":
        raise StepError(f"the job ended as {job.state}: {job.document}")
    return f"succeeded, attempt {job.document.get('attempts')}, {time.monotonic() - begun:.1f} s later"


# ------------------------------------------------------------------------------------------------------------------ run


def answers(engine: str) -> bool:
    """Whether an engine is installed and answers."""
    return (
        bool(shutil.which(engine)) and not subprocess.run([engine, "ps"], capture_output=True, check=False).returncode
    )


@contextmanager
def stack_of(engine: str, out: Path) -> Iterator[Stack]:
    """A stack on a copy of the tracked files; removed with its volumes at the end, its logs kept in ``out``."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in filter(None, listed.decode().split("\0")):
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, folder / name)
        stack = Stack(engine, folder)
        try:
            yield stack
        finally:
            for service in ("redis", "web", "worker"):
                for name in stack.containers(service):
                    (out / f"{name}.log").write_text(stack.run("logs", name, check=False), encoding="utf-8")
            stack.remove_left()
            stack.compose("down", "--volumes", check=False)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.containers", description=__doc__)
    parser.add_argument("--engine", choices=("docker", "podman"), help="default: what is installed")
    parser.add_argument("--build-options", default="", help="further options of the engine's build, in one string")
    parser.add_argument("--no-build", action="store_true", help="take the images of an earlier run")
    parser.add_argument("--out", type=Path, default=Path("out/containers"))
    arguments = parser.parse_args()
    engine = arguments.engine or next(filter(answers, ("docker", "podman")), None)
    if engine is None:
        sys.exit("no container engine: neither docker nor podman answers here")
    arguments.out.mkdir(parents=True, exist_ok=True)
    summary: dict[str, dict[str, object]] = {}
    broken = False
    with stack_of(engine, arguments.out) as stack:

        def build(image: str, dockerfile: str) -> str:
            kind = ["--format", "docker"] if engine == "podman" else []  # the other format has no health checks
            options = [*kind, *shlex.split(arguments.build_options)]
            stack.run("build", *options, "--file", dockerfile, "--tag", image, ".")
            size = int(stack.run("image", "inspect", "--format", "{{.Size}}", image))
            return f"{size / 1e6:.0f} MB"

        def steps() -> Iterator[tuple[str, Callable[[], str]]]:
            for image, dockerfile in () if arguments.no_build else IMAGES.items():
                yield f"build {image}", lambda image=image, dockerfile=dockerfile: build(image, dockerfile)
            for step in STEPS:
                yield step.__name__, lambda step=step: step(stack)

        for name, step in steps():
            begun = time.monotonic()
            try:
                said, held = step(), True
            except StepError as error:
                said, held = str(error), False
            took = time.monotonic() - begun
            print(f"{name:24} {took:6.1f} s  {said if held else 'FAILED: ' + said}", flush=True)
            summary[name] = {"seconds": round(took, 1), "holds": held, "said": said}
            if not held:
                broken = True
                break
    (arguments.out / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if broken else 0)


if __name__ == "__main__":
    main()
