"""The Python client beside a real service: requests, refusals, repetitions, jobs."""

from __future__ import annotations

import ast
import hashlib
import inspect
import io
import itertools
import json
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import trimesh
from cutting_proxy import cutting_proxy
from hostile.corpus_files import labels_tiff
from keyed import Keyed

import cytosynth
from app.problems.types import TABLE
from cytosynth import Client
from cytosynth.errors import BY_STATUS
from model.augmentation_spec import AugmentationSpec
from model.card import SHIPPED_MODELS
from model.evaluation_spec import EvaluationSpec
from model.export.imagej_tiff import Hyperstack, HyperstackWriter
from model.reconstruction_spec import ReconstructionSpec
from model.spec import GenerationSpec
from worker.broker.embedded import start_broker

SOURCES = sorted(Path(cytosynth.__file__).parent.glob("*.py"))
LAZY = {"numpy", "tifffile", "trimesh", "zarr"}
SEEDS = itertools.count(10**6)  # a request of its own for each test


@pytest.fixture
def client(house: Any) -> Any:
    with Client(house.url) as made:
        yield made


def ask(client: Client, **members: Any) -> cytosynth.Job:
    return client.generate("round", **({"seed": next(SEEDS), "frames": 2, "grid": 16} | members))


def jobs_of(house: Any) -> set[str]:
    return {job.id for job in house.jobs.list(limit=200).jobs}


# --------------------------------------------------------------------------------------------------------- the package


def test_package_imports_nothing_of_the_service_and_no_numerical_library_at_its_start() -> None:
    known = set(sys.stdlib_module_names) | {"httpx", "cytosynth"} | LAZY
    for path in SOURCES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        named = {a.name.partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
        named |= {(n.module or "").partition(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
        assert named <= known, path
    code = "import cytosynth, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) & (LAZY | {"app", "worker", "model"}) == set()


@pytest.mark.parametrize(
    ("method", "spec"),
    [
        (Client.reconstruct, ReconstructionSpec), (Client.augment, AugmentationSpec), (Client.evaluate, EvaluationSpec),
    ],
)  # fmt: skip
def test_members_of_each_request_are_members_of_its_spec(method: Any, spec: Any) -> None:
    named = set(inspect.signature(method).parameters) - {"self", "idempotency_key", "members"}
    known = {field.alias or name for name, field in spec.model_fields.items()}
    assert named <= known
    filled_in = {"upload_sha256", "job_sha256", "score_grid"}
    assert known - named <= filled_in, "a member that no argument sets"


def test_members_of_generate_are_members_of_the_spec() -> None:
    named = set(inspect.signature(Client.generate).parameters) - {
        "self",
        "idempotency_key",
        "labels",
        "priority",
        "members",
    }
    assert named == set(GenerationSpec.model_fields)


def test_part_of_a_larger_request_and_separate_bodies_are_asked_for_by_name(client: Client) -> None:
    job = ask(client, count=1, first_index=3, formats=["obj"], separate_bodies=True)
    assert (job.spec["first_index"], job.spec["separate_bodies"]) == (3, True)
    assert "first_index" not in ask(client).spec


def test_every_status_of_a_refusal_has_an_error_of_its_own() -> None:
    statuses = {problem.status for problem in TABLE.values() if problem.status < 500} | {503, 507}
    assert statuses <= set(BY_STATUS) | {400}


# ------------------------------------------------------------------------------------------------------------- requests


def test_models_and_estimates_are_as_the_service_says(client: Client) -> None:
    assert client.is_cytosynth()
    assert {card["id"] for card in client.models()} >= {"round", "long"}
    assert client.model("round")["topology"] == "single"
    assert client.estimate("round", frames=2, grid=16)["within_limits"] is True


def test_the_other_requests_send_what_is_given(house: Any, client: Client, tmp_path: Path) -> None:
    (tmp_path / "fitted.tif").write_bytes(labels_tiff(frames=4))
    upload = client.upload(tmp_path / "fitted.tif")["name"]
    fitted = client.reconstruct("round", [upload], frames=5, grid=16, validate=True, labels=[1])
    assert (fitted.document["kind"], fitted.spec["frames"], fitted.spec["validate"]) == ("reconstruction", 5, True)
    varied = client.augment("round", {"kind": "learned", "index": 1}, count=3, mirror=False, frames=1, grid=16)
    assert (varied.document["kind"], varied.spec["count"], varied.spec["mirror"]) == ("augmentation", 3, False)
    evaluated = client.evaluate("round", uploads=[upload], count=5, idempotency_key=f"k{next(SEEDS)}")
    assert (evaluated.document["kind"], evaluated.spec["uploads"], evaluated.spec["draws"]) == (
        "evaluation",
        [upload],
        1000,
    )
    for job in (fitted, varied, evaluated):
        job.cancel()


def test_generate_sends_what_is_given_and_leaves_the_rest_to_the_service(client: Client) -> None:
    seed = next(SEEDS)
    job = client.generate("round", seed=seed, times=[-1.0, 0.5], grid=[16, 17, 18], rotation="random", formats=["ply"])
    spec = job.spec
    assert (spec["seed"], spec["times"], spec["grid"]) == (seed, [-1.0, 0.5], [16, 17, 18])
    assert (spec["rotation"], spec["formats"], spec["exact"]) == ("random", ["ply"], "adaptive")
    assert job.state == "queued"
    assert job.cancel().state == "canceled"


def test_the_same_idempotency_key_gives_the_same_job_and_calls_without_one_do_not(client: Client) -> None:
    first = client.generate("round", frames=2, grid=16, idempotency_key="mine")
    assert client.generate("round", frames=2, grid=16, idempotency_key="mine").id == first.id
    assert client.generate("round", frames=2, grid=16).id != client.generate("round", frames=2, grid=16).id
    with pytest.raises(cytosynth.InvalidRequestError) as caught:
        client.generate("round", frames=3, grid=16, idempotency_key="mine")
    assert "idempotency" in caught.value.code


def test_refusals_are_typed_and_carry_the_problem(client: Client) -> None:
    with pytest.raises(cytosynth.InvalidRequestError) as caught:
        client.generate("round", frames=0, grid=16)
    assert caught.value.status == 422
    assert [error["pointer"] for error in caught.value.errors] == ["/frames"]
    assert "/frames" in str(caught.value)
    assert caught.value.problem["request_id"]
    with pytest.raises(cytosynth.InvalidRequestError) as caught:
        client.generate("nobody")
    assert caught.value.code == "unknown_model"
    with pytest.raises(cytosynth.TooLargeError):
        client.generate("round", frames=1000, grid=256)
    with pytest.raises(cytosynth.NotFoundError):
        client.job("0" * 32)
    job = ask(client)
    with pytest.raises(cytosynth.ConflictError):
        _ = job.manifest
    job.cancel()


def test_findings_that_the_detail_lists_are_shown_once() -> None:
    problem = {
        "code": "bad_dataset",
        "detail": "nothing:\na: error",
        "errors": [{"pointer": "/uploads", "detail": "a: error"}],
    }
    assert str(cytosynth.ProblemError(problem, status=422)) == "nothing:\na: error"
    assert str(cytosynth.ProblemError(problem | {"code": "invalid_spec"}, status=422)).count("a: error") == 2


def test_a_key_gives_access_and_a_wrong_one_is_refused(house: Any, serve: Any, tmp_path: Path) -> None:
    keyed = Keyed.start(house.settings, serve, tmp_path / "data")
    secret, _ = keyed.keys.create("pipeline")
    for key in (None, "wrong"):
        with Client(keyed.url, key=key) as stranger, pytest.raises(cytosynth.AuthenticationError):
            stranger.models()
    with Client(keyed.url, key=secret) as owner:
        job = ask(owner)
        assert [found.id for found in owner.jobs()] == [job.id]
        path = tmp_path / "x.safetensors"
        path.write_bytes((Path(__file__).parents[2] / "model/checkpoints/a549/weights.safetensors").read_bytes())
        sent: list[int] = []
        assert owner.upload(path, on_bytes=sent.append)["name"] == "x.safetensors"
        assert sent[-1] == path.stat().st_size
    keyed.close()


def test_pages_of_jobs_are_read_to_the_end(client: Client) -> None:
    made = [ask(client).id for _ in range(25)]
    assert [job.id for job in itertools.islice(client.jobs(state="queued"), 25)] == made[::-1]
    for job in itertools.islice(client.jobs(state="queued"), 25):
        job.cancel()


# ---------------------------------------------------------------------------------------------------------- repetitions


def test_a_request_whose_answer_is_lost_is_repeated_and_makes_one_job(house: Any) -> None:
    before = jobs_of(house)
    with cutting_proxy(house.url, 0, 40, 0) as proxy, Client(proxy.url) as client:
        job = client.generate("round", frames=2, grid=16)  # no seed: the service draws one, each time another
    assert proxy.connections == 4
    assert jobs_of(house) - before == {job.id}


def test_repetitions_end_and_the_error_says_so(house: Any) -> None:
    with cutting_proxy(house.url, *[0] * 100) as proxy, Client(proxy.url, retry_for_s=0.5) as client:
        with pytest.raises(cytosynth.UnreachableError, match="does not answer"):
            client.models()
        assert proxy.connections > 1
    with cutting_proxy(house.url, *[0] * 100) as proxy, Client(proxy.url, retry_for_s=0) as client:
        assert not client.is_cytosynth()
        assert proxy.connections == 1


def first_refusal(client: Client) -> cytosynth.TooManyRequestsError:
    for _ in range(100):
        try:
            client.models()
        except cytosynth.TooManyRequestsError as error:
            return error
    pytest.fail("no request was refused")


@pytest.mark.slow
def test_a_full_queue_is_waited_for(house: Any, serve: Any, tmp_path: Path) -> None:
    with start_broker(tmp_path / "broker") as broker:
        changes = {"redis_url": broker.url, "data_dir": tmp_path / "data", "max_queue": 1}
        url = serve(house.settings.model_copy(update=changes))
        with Client(url) as client, Client(url, retry_for_s=0) as hasty:
            first = ask(client)
            with pytest.raises(cytosynth.UnavailableError) as caught:
                ask(hasty)
            assert caught.value.retry_after_s
            timer = threading.Timer(0.2, client.job(first.id).cancel)
            timer.start()
            assert ask(client).id != first.id
            timer.join()


def test_too_many_requests_are_repeated_when_retry_after_says(house: Any, serve: Any, tmp_path: Path) -> None:
    keyed = Keyed.start(house.settings, serve, tmp_path / "data", max_rate=1.0, max_burst=3)
    secret, _ = keyed.keys.create("pipeline")
    with Client(keyed.url, key=secret) as client, Client(keyed.url, key=secret, retry_for_s=0) as hasty:
        refusal = first_refusal(hasty)
        assert refusal.retry_after_s
        assert client.models()
    keyed.close()


# ----------------------------------------------------------------------------------------------------------------- jobs


def test_wait_follows_a_job_to_its_end_and_shows_it_on_terminals_only(
    house: Any, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    job = ask(client)
    threading.Timer(0.3, house.carry_out, [job.id]).start()
    assert job.wait().state == "succeeded"
    assert capsys.readouterr().err == ""
    other = ask(client)
    threading.Timer(0.3, house.carry_out, [other.id]).start()
    other.wait(progress=True)
    shown = capsys.readouterr().err
    assert "100 %" in shown
    assert "3 of 3" in shown
    assert shown.endswith("\r")


def test_wait_raises_when_a_job_fails_and_when_time_is_up(client: Client) -> None:
    job = ask(client)
    with pytest.raises(TimeoutError, match=job.id):
        job.wait(timeout_s=0.3)
    assert job.state == "queued"
    threading.Timer(0.2, client.job(job.id).cancel).start()
    with pytest.raises(cytosynth.JobFailedError) as caught:
        job.wait()
    assert caught.value.state == "canceled"
    assert "it was canceled" in str(caught.value)


def test_a_broken_event_stream_is_resumed(house: Any) -> None:
    with cutting_proxy(house.url, 1500, 700, 700) as proxy, Client(proxy.url) as client:
        job = ask(client)
        threading.Timer(1.0, house.carry_out, [job.id]).start()
        assert job.wait().state == "succeeded"
        assert proxy.connections > 1


def test_a_stream_of_seeds_keeps_jobs_ahead_and_cancels_what_nobody_waits_for(house: Any, client: Client) -> None:
    first = next(SEEDS) * 1000
    stream = client.stream("round", seeds=itertools.count(first), ahead=2, frames=2, grid=16)
    threading.Timer(0.5, lambda: house.carry_out(next(j.id for j in client.jobs() if j.spec["seed"] == first))).start()
    assert next(stream).spec["seed"] == first
    queued = {job.spec["seed"]: job for job in client.jobs() if job.spec["seed"] in (first + 1, first + 2)}
    assert set(queued) == {first + 1, first + 2}
    stream.close()  # type: ignore[attr-defined]
    assert {job.refresh().state for job in queued.values()} == {"canceled"}


# ------------------------------------------------------------------------------------------------------------ downloads


def carried_out(house: Any, client: Client, files: dict[str, bytes]) -> cytosynth.Job:
    job = ask(client)
    house.carry_out(job.id, files=files)
    return job.refresh()


def test_a_download_is_resumed_where_the_connection_broke(house: Any, client: Client, tmp_path: Path) -> None:
    content = random.Random(0).randbytes(6_000_000)
    job = carried_out(house, client, {"cell_0000/labels.tif": content, "cell_0000/frame_0000.stl": b"solid"})
    with cutting_proxy(house.url, 2_000_000, 1_500_000, 0, 1000) as proxy, Client(proxy.url) as broken:
        seen: list[tuple[int, int]] = []
        paths = broken.job(job.id).download(tmp_path / "cells", on_bytes=lambda done, total: seen.append((done, total)))
    assert (tmp_path / "cells/cell_0000/labels.tif").read_bytes() == content
    assert {path.relative_to(tmp_path / "cells").as_posix() for path in paths} == {
        "cell_0000/labels.tif", "cell_0000/frame_0000.stl", "manifest.json",
    }  # fmt: skip
    assert proxy.connections >= 5
    assert proxy.forwarded < len(content) + 20_000  # no byte of the file came twice, but for what the cut swallowed
    assert seen[-1] == (6_000_005, 6_000_005)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert list(tmp_path.rglob("*.part")) == []


def test_a_download_is_continued_by_the_next_process_and_what_is_there_is_kept(
    house: Any, client: Client, tmp_path: Path
) -> None:
    content = random.Random(1).randbytes(3_000_000)
    job = carried_out(house, client, {"cell_0000/labels.tif": content})
    with cutting_proxy(house.url, 1_000_000, *[0] * 50) as proxy, Client(proxy.url, retry_for_s=0.3) as broken:
        ticket = broken.job(job.id)
        with pytest.raises(cytosynth.UnreachableError):
            ticket.download(tmp_path)
    part = tmp_path / "cell_0000/labels.tif.part"
    held = part.stat().st_size
    assert 900_000 < held < 1_000_000
    with cutting_proxy(house.url) as proxy, Client(proxy.url) as whole:
        whole.job(job.id).download(tmp_path)
        assert proxy.forwarded < len(content) - held + 20_000
        before = proxy.forwarded
        whole.job(job.id).download(tmp_path)
        assert proxy.forwarded - before < 20_000  # all is there
    assert (tmp_path / "cell_0000/labels.tif").read_bytes() == content
    assert not part.exists()


def test_a_long_upload_continues_after_its_connection_broke(
    house: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cytosynth.client.RESUMED_BYTES", 100_000)
    content = (SHIPPED_MODELS / "a549" / "weights.safetensors").read_bytes()
    path = tmp_path / "weights.safetensors"
    path.write_bytes(content)
    # HEAD and PATCH share a connection: the first is cut in the middle of the file.
    with cutting_proxy(house.url, len(content) // 2, requests=True) as proxy, Client(proxy.url) as client:
        sent: list[int] = []
        upload = client.upload(path, name="resumed.safetensors", on_bytes=sent.append)
        assert (upload["bytes"], upload["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
        assert proxy.connections >= 2
        restarted = [one for one, other in itertools.pairwise(sent) if other < one]
        # Not from the beginning; and not back at all, where all that was sent had arrived when the connection broke.
        assert not restarted or min(sent[sent.index(restarted[0]) + 1 :]) > len(content) // 4
        # What another file of that name left behind is not continued.
        other = tmp_path / "cell.stl"
        other.write_bytes(b"solid " + bytes(200_000))
        with pytest.raises(cytosynth.InvalidRequestError):
            client.upload(other, name="other.stl")
        again = client.upload(path, name="resumed.safetensors")
        assert again["created_at"] == upload["created_at"]
        assert again["sha256"] == upload["sha256"]


def test_what_another_file_left_behind_is_not_continued(house: Any, client: Client, tmp_path: Path) -> None:
    content = random.Random(2).randbytes(100_000)
    job = carried_out(house, client, {"cell_0000/labels.tif": content})
    part = tmp_path / "cell_0000/labels.tif.part"
    part.parent.mkdir()
    for rubbish in (bytes(50_000), bytes(100_000), bytes(200_000)):
        part.write_bytes(rubbish)
        job.download(tmp_path)
        assert (tmp_path / "cell_0000/labels.tif").read_bytes() == content
        (tmp_path / "cell_0000/labels.tif").unlink()


def test_a_file_that_differs_from_the_manifest_is_refused(house: Any, client: Client, tmp_path: Path) -> None:
    job = carried_out(house, client, {"cell_0000/labels.tif": b"II*\0" + bytes(1000)})
    manifest = job._manifest.replace(job.files[0].sha256.encode(), b"0" * 64)
    job.__dict__["_manifest"] = manifest
    with pytest.raises(cytosynth.DamagedFileError, match="SHA-256"):
        job.download(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    for name in ("../escape", "/absolute", "a/../../b", "..\\b"):
        job.__dict__["_manifest"] = manifest.replace(b"cell_0000/labels.tif", name.replace("\\", "\\\\").encode())
        with pytest.raises(cytosynth.DamagedFileError, match="outside"):
            job.download(tmp_path)


def test_label_volumes_and_meshes_come_a_frame_at_a_time(house: Any, client: Client) -> None:
    shape = (3, 5, 6, 7)
    volumes = np.random.default_rng(0).integers(0, 4, shape).astype(np.uint16)
    target = io.BytesIO()
    writer = HyperstackWriter(target.write, Hyperstack(shape=shape, spacing=(1.0, 1.0, 1.0), origin=(0.0, 0.0, 0.0)))
    for volume in volumes:
        writer.write(volume)
    box = trimesh.creation.box()
    files = {f"cell_0000/frame_{n:04d}.stl": box.export(file_type="stl") for n in range(3)}
    job = carried_out(house, client, {"cell_0000/labels.tif": target.getvalue(), **files})
    document = job.manifest | {"cells": [{"frames": [{"minutes": 0.5 * n} for n in range(3)]}]}
    document |= {"units": {"spacing": [1.0, 2.0, 3.0]}}
    job.__dict__["_manifest"] = json.dumps(document).encode()
    found = list(job.labels())
    assert [volume.shape for volume in found] == [(5, 6, 7)] * 3
    assert np.array_equal(found, volumes)
    assert np.array_equal(tifffile.imread(io.BytesIO(job.read("cell_0000/labels.tif"))), volumes)
    assert [mesh.volume for mesh in job.meshes()] == [1.0] * 3
    assert all(mesh.is_watertight for mesh in job.meshes())
    assert job.spacing_um == (3.0, 2.0, 1.0)
    assert job.minutes() == [0.0, 0.5, 1.0]
    with pytest.raises(cytosynth.CytosynthError, match="cell 1"):
        next(job.meshes(cell=1))
    with pytest.raises(KeyError):
        job.read("nothing")
