"""A generation as a worker carries it out: a real checkpoint (of random weights), a real synthesis, the same bytes."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from damage import flip
from workbench import Service, eventually, submit

from model.card import ModelCard, TrainingFacts
from model.network.checkpoint import load_checkpoint
from model.output.verify import verify_result
from model.spec import GenerationSpec, LearnedLatent
from model.synthesis import synthesize
from worker.jobs import Job, JobShards, JobStatus

Worker = subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def worker(service: Service) -> Worker:
    # As in production: libraries before the first lease, and a lease that outlasts a busy machine. Without reuse: the
    # same content is computed again.
    return service.start_worker(CYTOSYNTH_PRELOAD="1", CYTOSYNTH_LEASE_SECONDS="60", CYTOSYNTH_REUSE="false")


@pytest.fixture(scope="module")
def tiny_model(service: Service) -> ModelCard:
    """A model of random weights, the same in every run, in a folder that the worker looks into."""
    import torch

    from model.network.autodecoder import AutoDecoder, NetworkConfig
    from model.network.checkpoint import save_checkpoint
    from model.network.latent import fit_prior

    words = dict.fromkeys(("data", "held_out_frames", "device", "recipe"), "none")
    numbers = dict.fromkeys(("sequences", "frames", "steps", "points", "minutes", "seed"), 1)
    facts = TrainingFacts.model_validate(words | numbers)
    codes = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    config = NetworkConfig(latent_size=8, width=16, depth=2, conditioning_width=16)
    decoder = AutoDecoder(config, generator=torch.Generator().manual_seed(23))  # not all random weights are implausible
    card = {
        "id": "tiny", "title": "t", "description": "d", "cell_type": "c", "licence": "l", "created": "2025-01-01",
        "micrometres": 1.0, "minutes": 1.0, "lipschitz": 2.0, "topology": "division",
        "training": facts,
    }  # fmt: skip
    folder = service.data_dir / "models" / "tiny"
    return save_checkpoint(folder, decoder=decoder, prior=fit_prior(codes), card=card).card


def test_a_worker_is_ready_once_it_has_compiled(service: Service) -> None:
    """Until then it is alive, but claims nothing; :func:`worker.kinds.warm_up.warm_up` logs when it is done."""
    log = service.data_dir / "worker.log"
    before = log.read_text().count("warmed up in") if log.exists() else 0
    late = service.start_worker(CYTOSYNTH_PRELOAD="1", CYTOSYNTH_LEASE_SECONDS="60")

    def ready() -> bool:
        return next(beat.ready for beat in service.jobs.admin.workers_alive() if beat.pid == late.pid)

    eventually(ready, within_s=120)
    assert service.log().count("warmed up in") > before
    service.stop_worker(late)


def test_same_spec_gives_the_same_bytes_from_a_real_checkpoint(
    service: Service, worker: Worker, tiny_model: ModelCard
) -> None:
    latent = LearnedLatent(kind="learned", index=1)
    spec = GenerationSpec(model="tiny", seed=3, frames=3, grid=16, formats=["stl", "tiff"], latent=latent)
    sums = []
    for _ in range(2):
        job, created = service.jobs.submit(
            kind="generation",
            spec=spec.model_dump(mode="json"),
            model_id="tiny",
            model_sha256=tiny_model.sha256,
            digest=spec.digest(model_sha256=tiny_model.sha256),
        )
        assert created
        done = service.ended(job)
        assert done.status is JobStatus.SUCCEEDED, done.error
        names = ["manifest.json", *(entry["name"] for entry in service.artifacts.manifest(job.id)["files"])]
        assert "cell_0000/labels.tif" in names
        sums.append({n: hashlib.sha256(service.artifacts.path(job.id, n).read_bytes()).hexdigest() for n in names})
        service.jobs.delete(job.id)  # the second is computed, not answered with the first one's files
    assert sums[0] == sums[1]
    # The first job of a process compiles the kernels, so estimates learn from the second on.
    timing = service.jobs.timings.expect(
        kind="generation", model_id="tiny", formats=spec.formats, estimated_s=spec.cost().seconds
    )
    assert timing.jobs == 1
    assert 0.0 < timing.expected < 60.0

    def loaded(pid: int) -> bool:
        return "libtorch" in Path(f"/proc/{pid}/maps").read_text()

    if sys.platform == "linux":
        assert loaded(service.computing_process(worker).pid)
        assert not loaded(worker.pid)  # the parent forks before any device is touched


def submitted(service: Service, model: ModelCard, spec: GenerationSpec) -> Job:
    job, created = service.jobs.submit(
        kind="generation", spec=spec.model_dump(mode="json"), model_id="tiny", model_sha256=model.sha256,
        digest=spec.digest(model_sha256=model.sha256), shards=spec.shards(),
    )  # fmt: skip
    assert created
    return job


def test_a_divided_request_gives_the_bytes_of_one_piece_whoever_dies(
    service: Service, worker: Worker, tiny_model: ModelCard, tmp_path: Path
) -> None:
    """Two workers share it; one is killed within a shard, and the broker loses its data while a shard is done."""
    latent = LearnedLatent(kind="learned", index=1)
    spec = GenerationSpec(
        model="tiny", seed=3, count=70, frames=2, grid=32, formats=["stl", "tiff"], latent=latent, rotation="random"
    ).completed()
    assert spec.shards() == 3
    synthesize(spec, load_checkpoint(service.data_dir / "models" / "tiny"), tmp_path)
    other = service.start_worker(CYTOSYNTH_PRELOAD="1")
    job = submitted(service, tiny_model, spec)

    def shards() -> JobShards:
        now = service.jobs.get(job.id).shards
        assert now is not None
        return now

    eventually(lambda: shards().running == 2, within_s=300)
    service.stop_worker(other, how=signal.SIGKILL)
    eventually(lambda: shards().done >= 1, within_s=300)
    parts = [part for number in range(3) if (part := service.artifacts.shard(job.id, number))]
    made = {
        path.relative_to(part).as_posix(): path.stat().st_mtime_ns for part in parts for path in part.rglob("*.stl")
    }
    assert made
    service.jobs._redis.flushall()
    done = service.ended(job, within_s=120)
    assert done.status is JobStatus.SUCCEEDED, done.error
    for name, written_at in made.items():  # what was finished is not computed again
        assert service.artifacts.path(job.id, name).stat().st_mtime_ns == written_at
    sealed = service.artifacts.manifest(job.id)
    names = ["manifest.json", *(entry["name"] for entry in sealed["files"])]
    for name in names:
        assert service.artifacts.path(job.id, name).read_bytes() == (tmp_path / name).read_bytes()
    eventually(lambda: service.jobs.admin.clean() >= 0 and service.artifacts.divided() == [])
    assert list(verify_result(service.artifacts.path(job.id, "manifest.json").parent)) == []


def test_job_of_a_model_that_was_replaced_fails(service: Service, worker: Worker, tiny_model: ModelCard) -> None:
    spec = GenerationSpec(model="tiny", seed=3, frames=1, grid=8).model_dump(mode="json")
    job = submit(service.jobs, kind="generation", spec=spec, model_id="tiny", model_sha256="f" * 64)
    done = service.ended(job)
    assert done.error is not None
    assert (done.error.code, "replaced" in done.error.message) == ("bad_checkpoint", True)


def test_damaged_files_are_never_given_to_another_job(service: Service, worker: Worker, tiny_model: ModelCard) -> None:
    def made(owner: str, *formats: str) -> tuple[Job, dict[str, str]]:
        learned = LearnedLatent(kind="learned", index=1)  # random weights give no plausible cell to be drawn
        spec = GenerationSpec(model="tiny", seed=8, frames=2, grid=16, formats=list(formats), latent=learned)
        job, created = service.jobs.submit(
            kind="generation", spec=spec.model_dump(mode="json"), model_id="tiny", model_sha256=tiny_model.sha256,
            digest=spec.digest(model_sha256=tiny_model.sha256), owner=owner,
        )  # fmt: skip
        assert created
        done = service.ended(job)
        assert done.status is JobStatus.SUCCEEDED, done.error
        names = [entry["name"] for entry in service.artifacts.manifest(job.id)["files"]]
        files = {name: service.artifacts.path(job.id, name) for name in names}
        return job, {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}

    def damaged() -> int:
        return service.jobs.admin.failure_counts().get("contents_damaged", 0)

    name = "cell_0000/frame_0001.stl"
    first, sums = made("ada", "stl")
    flip(service.artifacts.path(first.id, name), at=200)
    before = damaged()
    # The same by another owner, with one more format, again by the first owner, and after all of them are removed.
    again = [made("bob", "stl"), made("bob", "stl", "obj"), made("ada", "stl")]
    assert damaged() > before
    for job, _ in again:
        service.jobs.delete(job.id)
    service.jobs.delete(first.id)
    again.append(made("ada", "stl"))
    for _, found in again:
        assert {name: found[name] for name in sums} == sums


def test_a_job_whose_draws_are_all_rejected_warns_or_fails_as_asked(
    service: Service, worker: Worker, tiny_model: ModelCard
) -> None:
    """These random weights begin with several bodies, where the card says one that divides."""
    words = {"code": "implausible_cell"}
    for choice, status in (("warn", JobStatus.SUCCEEDED), ("fail", JobStatus.FAILED)):
        spec = GenerationSpec.model_validate(
            {"model": "tiny", "seed": 5, "frames": 1, "grid": 8, "formats": ["stl"], "on_implausible": choice}
        )
        sha256 = tiny_model.sha256
        job = submit(
            service.jobs, kind="generation", spec=spec.model_dump(mode="json"), model_id="tiny", model_sha256=sha256,
            digest=spec.digest(model_sha256=sha256),
        )  # fmt: skip
        done = service.ended(job)
        assert done.status is status, done.error
        told = done.warnings[0] if choice == "warn" else done.error
        assert told is not None
        assert (told.code, "temperature" in told.message) == (words["code"], True)
        if choice == "warn":
            assert service.artifacts.manifest(job.id)["warnings"][0]["message"] == told.message
