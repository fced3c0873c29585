"""The service does what its description says, for requests that nobody thought of."""

from __future__ import annotations

import re
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis import Case
from schemathesis.checks import load_all_checks
from schemathesis.generation.feedback import FeedbackSources
from schemathesis.pytest._test_builder import build_operation_test
from schemathesis.specs.openapi.checks import negative_data_rejection, positive_data_acceptance
from schemathesis.transport.requests import ManagedCookiesSession

from app.main import create_app
from app.settings import AppSettings

# The check positive_data_acceptance knows status codes only. In its place: a request that the schema allows is refused
# for the state of the service only (what exists, what a key was used for, what a file holds), by operation …
LEFT_OUT = [positive_data_acceptance]
UNKNOWN_HEADER = "x-schemathesis-unknown-property"
JOB, UPLOAD, NOWHERE = frozenset({"job_not_found"}), frozenset({"upload_not_found"}), frozenset({"not_found"})
FITTING = frozenset({"unknown_model", "upload_not_found", "too_large", "body_too_long"})
REFUSALS = {
    "createGeneration": frozenset({"unknown_model", "idempotency_mismatch"}),
    "createEstimate": frozenset({"unknown_model"}),
    # The operator's limits: a list of a thousand uploads may be longer than a body, a thousand variations too large.
    "createReconstruction": FITTING | {"idempotency_mismatch"},
    "createReconstructionEstimate": FITTING,
    # A size of voxels that no cell can have is found in the example.
    "createTraining": frozenset(
        {"upload_not_found", "too_large", "body_too_long", "idempotency_mismatch", "bad_dataset"}
    ),
    "createTrainingEstimate": frozenset({"upload_not_found", "too_large", "body_too_long"}),
    "createAugmentation": FITTING | {"idempotency_mismatch", "job_not_found"},
    "createEvaluation": FITTING | {"idempotency_mismatch", "job_not_found"},
    "createEvaluationEstimate": FITTING | {"job_not_found"},
    "createAugmentationEstimate": FITTING | {"job_not_found"},
    **dict.fromkeys(("getJob", "followJob", "cancelJob", "deleteJob", "pinJob", "unpinJob"), JOB),
    **dict.fromkeys(("getManifest", "listFiles", "getArchive"), JOB),
    "getFile": JOB | NOWHERE,  # no route matches a name with a line break
    "createLink": JOB,
    "createBatch": FITTING | {"idempotency_mismatch", "job_not_found"},
    **dict.fromkeys(("getBatch", "followBatch", "cancelBatch", "deleteBatch"), frozenset({"batch_not_found"})),
    **dict.fromkeys(("getLinkedFile", "getLinkedArchive"), NOWHERE | {"link_invalid"}),
    "createModel": UPLOAD,
    "getModel": NOWHERE,
    "deleteModel": NOWHERE | {"model_not_yours"},
    "putUpload": frozenset({"bad_upload", "digest_mismatch", "unsupported_media_type"}),
    "putUploadFile": frozenset({"bad_upload", "digest_mismatch", "unsupported_media_type"}) | NOWHERE,
    "appendUpload": frozenset({"bad_upload", "digest_mismatch", "unsupported_media_type", "upload_offset"}),
    **dict.fromkeys(("getUpload", "deleteUpload"), UPLOAD),
    "getProblem": NOWHERE,
}
# … or for a rule that JSON Schema cannot state.
SPECS = frozenset(name for name in REFUSALS if name.startswith("create")) - {"createModel", "createLink"}
BEYOND_SCHEMA = re.compile(
    "give frames or times, not both|times must increase strictly"
    r"|a rotation quaternion \[w, x, y, z\] must not be zero; it is normalised for you"
    "|format stl-series needs stl: ask for it too"
    "|separate_bodies changes only obj or ply: ask for one of them, or leave it out"
    "|uploads must be all label volumes, all surfaces, all distances or all archives: leave the others out"
    "|voxel and interval belong to uploads: name uploads too, or leave them out"
    "|every frame would be left out: .*"
    "|all cells take frames, grid and refine: leave labels, times, place and validate out"
    # The examples name an upload that is there.
    "|the uploads are not those of this spec: leave upload_sha256 out, or upload the same files again"
    "|given_times holds [0-9]+ times, the uploads hold 8 frames: give one for each"
    "|the model of this spec is called [a-z0-9_-]+: leave model out"
    "|uploads must not repeat|give the smallest factor first"
    r"|\d+ requests are trainings; a batch may hold 20: send several batches"
    # Of the upload that examples name, which exists.
    "|the uploads are not those of this spec: leave upload_sha256 out, or upload the same files again"
    "|upload_sha256 belongs to uploads: leave it out"
    r"|given_times holds \d+ times, the uploads hold \d+ frames: give one for each"
    # What a grid may be depends on the formats and the fragments that are asked for.
    r"|the format [a-z-]+ goes up to \d+ x \d+ x \d+ samples\. .*|fragments can be kept up to \d+ samples a side: .*"
    "|names of labels must not repeat|webhook must be an https address|the port of webhook must be at most 65535"
    "|must be at most 18446744073709551615"  # 2^64 as a floating point number is not above it
)


def check_answer(case: Case, house: Any, session: ManagedCookiesSession) -> None:
    # No worker computes here: a request that asks to wait for the end would wait in vain, a minute each.
    for values in (case.headers, case.query):
        for name in [name for name in values or {} if name.lower() in ("prefer", "wait")]:
            del values[name]
    answer = case.call(base_url=house.url, session=session, timeout=30)
    # A list of more entries than allowed may be in a body that is too long, an unknown parameter in an address that is:
    # 413 and 414, which this check does not know. An unknown header violates the schema for schemathesis; in HTTP it is
    # ignored.
    too_long = answer.status_code in (413, 414) and answer.json()["code"] in ("body_too_long", "address_too_long")
    ignored = too_long or UNKNOWN_HEADER in (case.headers or {})
    left_out = [*LEFT_OUT, negative_data_rejection] if ignored else LEFT_OUT
    case.validate_response(answer, excluded_checks=left_out)
    if case.meta is not None and case.meta.generation.mode.is_positive and 400 <= answer.status_code < 500:
        problem, operation = answer.json(), case.operation.definition.raw["operationId"]
        if problem["code"] == "invalid_spec":
            assert operation in SPECS, problem
            assert all(BEYOND_SCHEMA.fullmatch(issue["detail"]) for issue in problem["errors"]), problem
        elif problem["code"] != "address_too_long":
            assert problem["code"] in REFUSALS.get(operation, ()), problem


# Their bodies are those of other operations, where the edges of the schema are visited; theirs among the slow tests.
SAME_BODIES = {"createBatch"} | {name for name in REFUSALS if name.endswith("Estimate")}


@pytest.mark.timeout(1800)  # some thousand requests: on a busy machine it came near the limit of all tests
@pytest.mark.parametrize("rest", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_answers_are_as_described(house: Any, subtests: pytest.Subtests, *, rest: bool) -> None:
    """Every operation: its examples, requests at random, valid and not, and in one of the two the edges of its schema.

    The decorator of schemathesis makes these cases, which takes as long as to send them, when tests are collected; that
    is in each process of a parallel run. Here the process that sends them makes them.
    """
    document = create_app(AppSettings(_env_file=None)).openapi()  # type: ignore[call-arg]
    schema = schemathesis.openapi.from_dict(document)
    operations = [found.ok() for found in schema.get_all_operations()]
    assert len(operations) == sum(len(methods) for methods in document["paths"].values()) > 40
    load_all_checks()

    @settings(max_examples=15 if rest else 8, deadline=None, suppress_health_check=list(HealthCheck))
    def check(case: Case, house: Any, session: ManagedCookiesSession) -> None:
        check_answer(case, house, session)

    with ManagedCookiesSession() as session:  # one connection for most requests
        session.trust_env = False
        for operation in operations:
            house.jobs.admin.announce(name="contract", hostname="h", pid=1, device="cpu")  # else not ready
            name = operation.definition.raw["operationId"]
            schema.config.phases.coverage.enabled = (name in SAME_BODIES) == rest
            with subtests.test(operation=operation.label):
                build_operation_test(
                    config=schema.config, operation=operation, test_func=check, given_kwargs={},
                    feedback=FeedbackSources(),
                )(house=house, session=session)  # fmt: skip
    house.jobs.admin.retire("contract")
