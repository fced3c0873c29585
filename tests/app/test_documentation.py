"""The interface is described as it is, the examples run, and the pages need nothing from elsewhere."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import chromium
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate
from workbench import eventually

from app.openapi import PROBLEMS
from app.routes.examples import GENERATIONS
from model.card import SHIPPED_MODELS, find_models, load_card
from model.spec import COUNT_MAX, GenerationSpec

WEB = Path(__file__).parents[2] / "app" / "web"
METHODS = ("get", "head", "post", "put", "delete", "patch")


@pytest.fixture(scope="module")
def document(house: Any) -> dict[str, Any]:
    answer: dict[str, Any] = house.get("/openapi.json").json()
    return answer


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [
        (method, path, operation)
        for path, item in document["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    ]


def test_description_is_valid_openapi(document: dict[str, Any]) -> None:
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert document["info"]["license"] == {"name": "BSD-3-Clause", "identifier": "BSD-3-Clause"}
    assert document["servers"][0]["url"] == "/"


def test_every_example_is_as_its_schema_says(document: dict[str, Any]) -> None:
    components = {"components": document["components"]}
    found = 0
    for _, _, operation in operations(document):
        bodies = [*operation["responses"].values(), *([operation["requestBody"]] if "requestBody" in operation else [])]
        for content in (content for body in bodies for content in body.get("content", {}).values()):
            shown = [example["value"] for example in content.get("examples", {}).values()]
            for value in [*shown, *([content["example"]] if "example" in content else [])]:
                Draft202012Validator(content["schema"] | components).validate(value)
                found += 1
    assert found > 100


def test_events_are_as_their_description_says(document: dict[str, Any], house: Any) -> None:
    content = document["paths"]["/v1/jobs/{id}/events"]["get"]["responses"]["200"]["content"]["text/event-stream"]
    job = house.submit()
    house.carry_out(job["id"])
    sent = house.get(job["links"]["events"], **{"Last-Event-ID": "0"}).text
    members = {"state": {"state", "attempts"}, "progress": {"fraction", "stage", "frame", "frames", "eta_s"}}
    for text in (content["example"], sent):
        blocks = [dict(line.split(": ", 1) for line in block.splitlines()) for block in text.strip().split("\n\n")]
        events = [(block["event"], json.loads(block["data"])) for block in blocks if "event" in block]
        assert {event for event, _ in events} == {"state", "progress"}
        for event, data in events:
            assert set(data) == members[event]
            assert all(f"`{name}`" in content["schema"]["description"] for name in data)
        assert events[-1][1]["state"] == "succeeded"


def test_linters_find_what_they_ask_for(document: dict[str, Any]) -> None:
    assert document["info"]["contact"]["name"]
    assert not [path for method, path, _ in operations(document) if method == "head"]  # HEAD is as GET
    for _, path, operation in operations(document):
        assert [status for status in operation["responses"] if status.startswith("4")], path
    # A bound that a validator of ours hides from the schema would be under its name in Python.
    assert not re.search(r'"(ge|le|gt|lt)":', json.dumps(document["components"]["schemas"]))
    numbers = document["components"]["schemas"]["GenerationSpec"]["properties"]["count"]
    assert (numbers["type"], numbers["minimum"], numbers["maximum"]) == ("integer", 1, COUNT_MAX)


def test_each_error_shows_its_own_body(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for status, answer in operation["responses"].items():
            for code, example in (
                answer.get("content", {}).get("application/problem+json", {}).get("examples", {}).items()
            ):
                assert example["value"]["code"] == code
                assert example["value"]["status"] == int(status)


def test_errors_show_what_the_service_answers(document: dict[str, Any], house: Any) -> None:
    unknown = "0" * 32
    job = house.submit(seed=77)["id"]
    # The service keeps a count of workers for a moment: those of another test.
    eventually(lambda: house.get("/readyz").status_code == 503)
    answers = {
        "getJob": house.get(f"/v1/jobs/{unknown}"),
        "deleteJob": house.client.delete(f"/v1/jobs/{unknown}"),
        "getManifest": house.get(f"/v1/jobs/{job}/manifest"),
        "createGeneration": house.post("no JSON"),
        "createEstimate": house.post({"model": "round", "frames": 0}, path="/v1/estimates"),
        "getModel": house.get("/v1/models/unknown"),
        "getUpload": house.get("/v1/uploads/unknown.tif"),
        "isReady": house.get("/readyz"),
        "getProblem": house.get("/problems/unknown"),
    }
    by_name = {operation["operationId"]: operation for _, _, operation in operations(document)}
    for name, answer in answers.items():
        sent = answer.json()
        shown = by_name[name]["responses"][str(answer.status_code)]["content"]["application/problem+json"]["examples"]
        example = shown[sent["code"]]["value"]
        assert set(example) == set(sent), name
        same = ("type", "title", "status", "code")
        assert [example[member] for member in same] == [sent[member] for member in same], name
        # Identifiers, counts and states differ from one request to the next; the words are the same.
        words = [re.sub(r"[0-9a-f]{32}|\d+|queued|running", "_", text["detail"]) for text in (example, sent)]
        assert words[0] == words[1], name


def test_every_answer_has_words_of_its_own_and_every_json_answer_an_example(document: dict[str, Any]) -> None:
    for _, path, operation in operations(document):
        for status, answer in operation["responses"].items():
            assert answer["description"] != "Successful Response", (path, status)
            content = answer.get("content", {}).get("application/json")
            file = content and content["schema"].get("format") == "binary"
            assert content is None or file or "example" in content, (path, status)


def members(value: Any, *, left_out: frozenset[str] = frozenset({"facts", "quality", "latent", "labels"})) -> Any:
    """Return the names of all members, nested ones as well; those whose members depend on the content are closed."""
    if isinstance(value, dict):
        return {name: members(inner) if name not in left_out else None for name, inner in value.items()}
    inner = members(value[0]) if isinstance(value, list) and value else None
    return None if inner is None else [inner]  # a list of texts may be empty


def test_answers_show_the_members_that_the_service_sends(document: dict[str, Any], house: Any) -> None:
    job = house.submit(seed=78)["id"]
    house.carry_out(job)
    house.jobs.admin.announce(name="example", hostname="h", pid=1, device="cpu")
    weights = (SHIPPED_MODELS / "a549" / "weights.safetensors").read_bytes()
    made = {"upload": "shown.safetensors", "id": "shown"}
    answers = {
        "putUpload": house.client.put("/v1/uploads/shown.safetensors", content=weights),
        "getUpload": house.get("/v1/uploads/shown.safetensors"),
        "listUploads": house.get("/v1/uploads"),
        "createModel": house.post(made, path="/v1/models"),
        "listModels": house.get("/v1/models"),
        "getModel": house.get("/v1/models/celegans"),
        "createEstimate": house.post({"model": "round"}, path="/v1/estimates"),
        "listJobs": house.get("/v1/jobs"),
        "listFiles": house.get(f"/v1/jobs/{job}/files"),
        "isAlive": house.get("/livez"),
        "isReady": house.get("/readyz"),
        "getVersion": house.get("/v1/version"),
        "listProblems": house.get("/problems"),
        "getProblem": house.get("/problems/too-large"),
    }
    house.jobs.admin.retire("example")
    by_name = {operation["operationId"]: operation for _, _, operation in operations(document)}
    for name, answer in answers.items():
        shown = by_name[name]["responses"][str(answer.status_code)]["content"]["application/json"]["example"]
        assert members(shown) == members(answer.json()), name
    assert by_name["getProblem"]["responses"]["200"]["content"]["application/json"]["example"] == (
        answers["getProblem"].json()
    )


def test_the_manifest_shown_is_one_that_the_library_reads(document: dict[str, Any]) -> None:
    from model.output.manifest import Manifest

    shown = document["paths"]["/v1/jobs/{id}/manifest"]["get"]["responses"]["200"]["content"]["application/json"]
    manifest = Manifest.model_validate_json(json.dumps(shown["example"]))
    files = document["paths"]["/v1/jobs/{id}/files"]["get"]["responses"]["200"]["content"]["application/json"]
    listed = [(file["name"], file["bytes"], file["sha256"]) for file in files["example"]["files"]]
    assert listed == [(file.name, file.bytes, file.sha256) for file in manifest.files]


def test_no_error_shows_a_promise_of_its_detail(document: dict[str, Any]) -> None:
    for _, _, operation in operations(document):
        for answer in operation["responses"].values():
            problems = answer.get("content", {}).get("application/problem+json", {}).get("examples", {})
            for code, example in problems.items():
                assert not re.search(r"\bdetail says\b", example["value"]["detail"]), code


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_axe_reports_nothing_with_every_operation_open(house: Any, tmp_path: Path) -> None:
    program = chromium.find()
    if program is None:
        pytest.skip(f"no Chromium is installed; looked for {', '.join(chromium.NAMES)}")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(tmp_path), "axe-core@4.14.1"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip("axe-core cannot be installed here")
    axe = (tmp_path / "node_modules/axe-core/axe.min.js").read_text(encoding="utf-8")
    with chromium.started(program, tmp_path / "profile") as browser, browser.page(f"{house.url}/docs") as page:
        page.until("document.querySelector('.opblock')")
        page.run(axe + "; 0")
        found = "violations.map((one) => [one.id, one.nodes.length, one.nodes[0].html.slice(0, 200)])"
        for dark in (False, True):
            page.picture(tmp_path / "docs.png", width=1200, dark=dark)
            assert page.run("matchMedia('(prefers-color-scheme: dark)').matches") is dark
            for number in range(page.run("document.querySelectorAll('.opblock-tag-section').length")):
                section = f"document.querySelectorAll('.opblock-tag-section')[{number}]"
                controls = f"{section}.querySelectorAll('.opblock-summary-control')"
                page.run(f"{controls}.forEach((button) => button.click())")
                tables = "document.querySelectorAll('.opblock.is-open .responses-table')"
                page.until(f"{tables}.length >= {controls}.length")
                assert page.run(f"axe.run(document).then(({{ violations }}) => {found})") == [], (dark, number)
                page.run(f"{controls}.forEach((button) => button.click())")
                page.until("!document.querySelector('.opblock.is-open')")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_spectral_and_redocly_report_nothing(document: dict[str, Any], tmp_path: Path) -> None:
    if shutil.which("npx") is None:
        pytest.skip("npx is not installed")
    (tmp_path / "openapi.json").write_text(json.dumps(document))
    (tmp_path / ".spectral.yaml").write_text('extends: ["spectral:oas"]\n')
    for package, arguments in (
        ("@stoplight/spectral-cli@6.16.3", ("lint", "openapi.json", "--fail-severity", "hint")),
        ("@redocly/cli@2.77.0", ("lint", "openapi.json", "--max-problems", "20", "--format", "json")),
    ):
        done = subprocess.run(
            ["npx", "--yes", package, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        if "npm error" in done.stderr and "openapi.json" not in done.stdout:
            pytest.skip(f"{package} cannot be installed here")
        assert done.returncode == 0, done.stdout + done.stderr
        if package.startswith("@redocly"):
            assert json.loads(done.stdout)["problems"] == []


def test_every_operation_has_a_name_words_and_a_described_tag(document: dict[str, Any]) -> None:
    described = {tag["name"] for tag in document["tags"] if tag["description"]}
    names = []
    for _, _, operation in operations(document):
        names.append(operation["operationId"])
        assert operation["summary"]
        assert operation["description"]
        assert set(operation["tags"]) <= described
    assert len(set(names)) == len(names)
    assert set(PROBLEMS) <= set(names)


def test_every_error_answer_is_a_problem_document(document: dict[str, Any]) -> None:
    for method, path, operation in operations(document):
        answers = {int(status): answer for status, answer in operation["responses"].items()}
        errors = {status: answer for status, answer in answers.items() if status >= 400}
        assert 500 in errors
        for answer in errors.values():
            assert list(answer["content"]) == ["application/problem+json"], (method, path)
        for status, answer in answers.items():
            assert answer["description"], (method, path, status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_every_parameter_and_schema_is_used_and_described(document: dict[str, Any]) -> None:
    text = str(document)
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in text, name


def test_examples_run_on_a_fresh_install(document: dict[str, Any]) -> None:
    shown = document["paths"]["/v1/generations"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert set(shown) == set(GENERATIONS)
    for example in shown.values():
        spec = GenerationSpec.model_validate(example["value"])
        assert spec.model in ("celegans", "a549")
        assert spec.frame_count <= 12
        assert max(spec.grid_shape) <= 64
        assert spec.seed is not None


@pytest.mark.parametrize("model_id", ["celegans", "a549"])
def test_examples_suit_the_shipped_models(model_id: str) -> None:
    from app.services.budget import check_fits_model

    folder = find_models([SHIPPED_MODELS])[model_id]
    for example in GENERATIONS.values():
        spec = GenerationSpec.model_validate(example["value"])
        if spec.model == model_id:
            check_fits_model(spec, load_card(folder))


@pytest.mark.parametrize("path", ["/", "/docs", "/problems"])
def test_pages_and_all_they_load_come_from_here(house: Any, path: str) -> None:
    page = house.get(path, Accept="text/html")
    assert page.status_code == 200
    loaded = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert loaded
    for address in loaded:
        assert not re.match(r"(?:https?:)?//", address), address
        if address.startswith("/static"):
            assert house.get(address).status_code == 200, address
    assert "<script>" not in page.text  # the policy forbids it


def test_own_scripts_and_styles_name_no_other_host() -> None:
    for path in (*WEB.glob("*.html"), *WEB.glob("static/*.js"), *WEB.glob("static/*.css")):
        if path.name == "viewer.js":
            continue  # three.js names its own pages in messages; it fetches nothing
        assert re.findall(r"https?://[\w.-]+", path.read_text(encoding="utf-8")) == [], path.name


def test_foreign_code_comes_with_its_licence() -> None:
    assert "Apache License" in (WEB / "static/swagger/LICENSE").read_text(encoding="utf-8")
    assert "MIT License" in (WEB / "static/viewer.LICENSE.txt").read_text(encoding="utf-8")
    assert (WEB / "static/viewer.js").stat().st_size < 900_000


def test_form_offers_only_what_a_spec_knows(house: Any) -> None:
    page = house.get("/").text
    known = GenerationSpec.model_json_schema()
    formats = re.findall(r'name="formats" value="([\w-]+)"', page)
    assert formats == known["properties"]["formats"]["items"]["enum"]
    grids = [int(size) for size in re.findall(r'<option value="(\d+)"', page)]
    for grid in grids:
        GenerationSpec.model_validate({"model": "celegans", "grid": grid})
