"""The start page in a real browser, against a real service."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import chromium
import pytest
from workbench import eventually

from app.main import create_app
from app.server import BoundedServer, server_config

SEED = 2**64 - 1


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    program = chromium.find()
    if program is None:
        pytest.skip(f"no Chromium is installed; looked for {', '.join(chromium.NAMES)}")
    with chromium.started(program, tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def page(browser: chromium.Browser, house: Any) -> Iterator[chromium.Page]:
    with browser.page(f"{house.url}/") as opened:
        opened.until("document.getElementById('model').options.length")
        yield opened


def job_of(page: chromium.Page) -> str:
    page.until("new URLSearchParams(location.search).has('job')")
    return str(page.run("new URLSearchParams(location.search).get('job')"))


def sent_spec(house: Any, page: chromium.Page) -> dict[str, Any]:
    spec: dict[str, Any] = house.get(f"/v1/jobs/{job_of(page)}").json()["spec"]
    return spec


def surface(size: float) -> bytes:
    """Return a tetrahedron as binary STL."""
    corners = [(0.0, 0.0, 0.0), (size, 0.0, 0.0), (0.0, size, 0.0), (0.0, 0.0, size)]
    faces = [(0, 2, 1), (0, 1, 3), (1, 2, 3), (0, 3, 2)]
    records = [struct.pack("<12fH", 0, 0, 0, *(x for k in face for x in corners[k]), 0) for face in faces]
    return bytes(80) + struct.pack("<I", len(faces)) + b"".join(records)


class Served:
    """The same data at a port that can be closed and opened again."""

    def __init__(self, house: Any, port: int = 0) -> None:
        listener = socket.create_server(("127.0.0.1", port))
        self.port = listener.getsockname()[1]
        self._server = BoundedServer(server_config(create_app(house.settings), grace_s=1))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [listener]}, daemon=True)
        self._thread.start()
        eventually(lambda: self._server.started)

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)


def test_hidden_fields_do_not_block_the_form(house: Any, page: chromium.Page) -> None:
    page.fill(model="round", latent="learned", index="4")
    page.fill(model="long")
    assert page.run("document.getElementById('index').value") == "0"  # the model has learned one cell
    page.fill(index="98", latent="sampled")
    page.click("#send")
    spec = sent_spec(house, page)
    assert (spec["model"], spec["latent"]["kind"]) == ("long", "sampled")
    assert spec["grid"] <= 32  # a grid that this model allows
    hidden = "[...document.querySelectorAll('#make [hidden] input')]"
    assert page.run(f"{hidden}.length > 0 && {hidden}.every((input) => input.disabled)")
    assert page.complaints() == []


def test_seeds_keep_all_their_digits(house: Any, page: chromium.Page) -> None:
    page.fill(seed=str(SEED), model="round", count="3")
    page.click("#send")
    assert sent_spec(house, page)["seed"] == SEED
    page.until("document.querySelector('#rows tr').innerText.includes('12 × 3 cells')")  # the latest job is the first
    assert str(SEED) in page.text("#rows tr")
    assert str(SEED) in page.run("document.getElementById('curl').textContent")


def test_a_job_has_an_address(house: Any, page: chromium.Page) -> None:
    page.fill(model="round", frames="3", seed="77", latent="learned", index="2")
    page.click("input[value=tiff]")
    page.click("#send")
    job_id = job_of(page)
    page.until("document.getElementById('state').innerText.includes('Waiting')")
    page.reload()
    page.until("document.getElementById('state').innerText.includes('Waiting')")
    page.until("document.getElementById('curl').textContent.includes('\"seed\":77')")
    entered = json.loads(page.run("document.getElementById('curl').textContent").partition("-d '")[2][:-1])
    assert entered["latent"] == {"kind": "learned", "index": 2}
    assert (entered["frames"], entered["formats"]) == (3, ["stl", "tiff"])
    cells = {f"cell_000{cell}/frame_0000.stl": surface(cell + 1.0) for cell in range(3)}
    house.carry_out(job_id, files=cells)  # the page that was loaded again follows the same job
    page.until("document.getElementById('state').innerText === 'Done'")
    page.until("document.getElementById('cell').options.length === 3")
    page.run("(() => { const cell = document.getElementById('cell'); cell.selectedIndex = 2; cell.onchange?.(); })()")
    page.until("location.search.includes('cell=2')")
    page.click("#manifest")
    page.until("location.pathname.endsWith('/manifest')")
    page.run("void history.back()")
    page.until("document.getElementById('cell')?.selectedIndex === 2")
    assert job_of(page) == job_id
    page.run("void history.back()")
    page.until("location.search === '' && document.getElementById('progress')?.hidden")
    page.run("void history.forward()")
    page.until("document.getElementById('state')?.innerText === 'Done'")
    assert page.complaints() == []


def test_an_address_without_a_job_says_so(house: Any, page: chromium.Page) -> None:
    page.go(f"{house.url}/?job={'0' * 32}")
    page.until("document.getElementById('stage-note').innerText.toLowerCase().includes('job')")
    page.until("document.getElementById('cancel').hidden")


def test_errors_stand_beside_their_field(page: chromium.Page) -> None:
    page.fill(frames="0", seed="-1")
    page.click("input[value=stl]")
    page.click("#send")
    assert page.text("#frames-fault") == "Frames must be a whole number from 1 to 1000."
    assert str(SEED) in page.text("#seed-fault")
    assert page.text("#formats-fault") == "Choose at least one file format."
    field = "document.activeElement"
    assert page.run(f"{field}.id") == "frames"
    assert page.run(f"[{field}.getAttribute('aria-invalid'), {field}.getAttribute('aria-describedby')]") == [
        "true", "frames-fault",
    ]  # fmt: skip
    box = f"{field}.getBoundingClientRect()"
    assert page.run(f"{box}.top >= 0 && {box}.bottom <= innerHeight")
    page.fill(frames="2", seed="5")
    page.click("input[value=stl]")
    page.until("document.querySelectorAll('.fault, [aria-invalid]').length === 0")


def test_refusals_of_the_service_stand_beside_their_field(house: Any, page: chromium.Page) -> None:
    page.fill(model="round", latent="learned", index="1")
    page.run("document.getElementById('index').max = 99")  # the card that the page has read is out of date
    page.fill(index="7")
    page.click("#send")
    page.until("document.getElementById('index-fault')")
    assert page.text("#index-fault").startswith("Learned cell must be at most 4")
    assert page.run("document.activeElement.id") == "index"
    assert "/" not in page.text("#make .fault") + page.text("#refusal")
    page.fill(index="3")
    page.until("document.querySelectorAll('.fault').length === 0")


def test_estimates_are_given_with_their_spread(page: chromium.Page) -> None:
    page.until("document.getElementById('estimate').innerText.includes('of computing')")
    said = page.text("#estimate")
    assert "about" in said
    assert " to " in said
    assert "at most" not in said


def test_a_cancelled_job_has_no_cell(house: Any, page: chromium.Page) -> None:
    page.fill(model="round")
    page.click("#send")
    job_id = job_of(page)
    page.until("!document.getElementById('cancel').hidden")
    page.click("#cancel")
    page.until("document.getElementById('stage-note').innerText.includes('cancelled')")
    assert house.get(f"/v1/jobs/{job_id}").json()["state"] == "canceled"
    assert page.complaints() == []


def test_a_service_that_stops_and_comes_back(house: Any, browser: chromium.Browser) -> None:
    job_id = house.submit()["id"]
    service = Served(house)
    with browser.page(f"http://127.0.0.1:{service.port}/?job={job_id}") as page:
        page.until("document.getElementById('state').innerText.includes('Waiting')")
        service.stop()
        page.until("document.getElementById('state').innerText.includes('does not answer')")
        page.click("#cancel")
        page.until("document.getElementById('state').innerText.includes('not cancelled')")
        page.click("#send")
        page.until("document.getElementById('refusal').innerText.includes('does not answer')")
        service = Served(house, service.port)
        page.until("document.getElementById('state').innerText.includes('Waiting')")
        house.carry_out(job_id)
        page.until("document.getElementById('state').innerText === 'Done'")
        assert [text for text in page.complaints() if "ERR_CONNECTION" not in text and "net::" not in text] == []
    service.stop()


def test_the_page_says_what_the_models_learned_from(page: chromium.Page) -> None:
    assert "phantoms" in page.text(".intro")
