"""The script for SLURM, run by a real SLURM of one node: of two workers one is canceled and one is requeued."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from workbench import ROOT, eventually, submit

from model.card import SHIPPED_MODELS, load_card
from model.spec import GenerationSpec
from worker.broker.embedded import start_broker
from worker.jobs import Job, JobQueue, JobStatus
from worker.storage.artifacts import Artifacts

SCRIPT = ROOT / "deploy" / "slurm" / "worker.sbatch"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged")
pytestmark = pytest.mark.slow


@dataclass
class Cluster:
    """One SLURM node, its broker, and the queue of jobs."""

    environment: dict[str, str]
    folder: Path
    jobs: JobQueue

    def run(self, *command: str) -> str:
        return subprocess.run(
            command, env=self.environment, cwd=self.folder, capture_output=True, text=True, check=True
        ).stdout

    def tasks(self, state: str) -> list[str]:
        """Tasks of the array in a state, such as ``12_1``."""
        return self.run("squeue", "--noheader", "--array", "--format=%i", f"--states={state}").split()

    def logs(self) -> str:
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("**/*.log")))


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin"))
    if missing := [name for name in PROGRAMS if not shutil.which(name, path=path)]:
        pytest.skip(f"no SLURM on this machine: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("slurmd must be started by the superuser")
    host = socket.gethostname().split(".")[0]
    for name in ("state", "spool", "munge"):
        (tmp_path / name).mkdir()
    key, door = tmp_path / "munge" / "key", tmp_path / "munge" / "socket"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    configuration = tmp_path / "slurm.conf"
    configuration.write_text(f"""
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={door}
SlurmUser=root
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
StateSaveLocation={tmp_path}/state
SlurmdSpoolDir={tmp_path}/spool
SlurmctldPidFile={tmp_path}/slurmctld.pid
SlurmdPidFile={tmp_path}/slurmd.pid
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES State=UP
""")
    with start_broker(tmp_path / "broker") as broker:
        environment = {
            **os.environ,
            "PATH": path,
            "PYTHONPATH": str(ROOT),
            "SLURM_CONF": str(configuration),
            "CYTOSYNTH_PYTHON": sys.executable,
            "CYTOSYNTH_REDIS_URL": broker.url,
            "CYTOSYNTH_DATA_DIR": str(tmp_path / "data"),
            "CYTOSYNTH_THREADS": "1",
            "CYTOSYNTH_SWEEP_SECONDS": "1",
            "CYTOSYNTH_IDLE_EXIT_SECONDS": "8",
        }
        commands = (
            ["munged", "--foreground", f"--socket={door}", f"--key-file={key}", "--force", "--origin=127.0.0.1",
             *(f"--{kind}={tmp_path}/munge/{kind}" for kind in ("pid-file", "log-file", "seed-file"))],
            ["slurmctld", "-D"],
            ["slurmd", "-D"],
        )  # fmt: skip
        jobs = JobQueue.connect(broker.url, artifacts=Artifacts(tmp_path / "data"))
        running: list[subprocess.Popen[bytes]] = []
        try:
            for command in commands:
                with (tmp_path / f"{command[0]}.log").open("wb") as log:
                    running.append(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
                if command[0] == "munged":
                    eventually(door.exists)
            cluster = Cluster(environment, tmp_path, jobs)
            eventually(lambda: "idle" in cluster.run("sinfo", "--noheader", "--format=%T"), within_s=60)
            yield cluster
            cluster.run("scancel", "--user=root")
            eventually(lambda: not cluster.tasks("running,pending,completing"), within_s=60)
        finally:
            jobs.close()
            for process in reversed(running):
                process.terminate()
                process.wait(30)


def test_an_array_of_workers_computes_what_is_asked_through_a_cancellation_and_a_requeue(cluster: Cluster) -> None:
    jobs = cluster.jobs
    asked = [submit_generation(jobs, seed=seed) for seed in range(4)]
    options = ["--array=1-2", "--cpus-per-task=1", "--mem=0", "--parsable"]
    array = cluster.run("sbatch", *options, str(SCRIPT)).strip()
    eventually(lambda: len(jobs.list(status=JobStatus.RUNNING).jobs) == 2, within_s=120)

    # One worker is canceled, the other requeued, both in the middle of a job: the jobs are given back at no cost.
    eventually(lambda: all(job.progress.frame for job in jobs.list(status=JobStatus.RUNNING).jobs), within_s=240)
    cluster.run("scancel", f"{array}_1")
    cluster.run("scontrol", "requeue", f"{array}_2")
    ended = [jobs.wait(job.id, timeout_s=240) for job in asked]
    assert [(job.status, job.lost) for job in ended] == [(JobStatus.SUCCEEDED, 0)] * 4, cluster.logs()
    # Nothing to do any more: the array ends by itself.
    eventually(lambda: not cluster.tasks("running,pending"), within_s=90)
    assert "nothing to do for" in cluster.logs()


def submit_generation(jobs: JobQueue, *, seed: int) -> Job:
    card = load_card(SHIPPED_MODELS / "celegans")
    spec = GenerationSpec(model=card.id, seed=seed, grid=32, frames=120, formats=["stl"])
    return submit(
        jobs, kind="generation", spec=spec.model_dump(mode="json"), model_id=card.id, model_sha256=card.sha256,
        digest=spec.digest(model_sha256=card.sha256),
    )  # fmt: skip
