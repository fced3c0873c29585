"""Clients that are slow, silent, too many or gone: over real sockets, against the real server with short bounds."""

from __future__ import annotations

import contextlib
import json
import resource
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psutil
import pytest
from served import START_S, VERIFY, environment
from workbench import ROOT, eventually

from app.middleware.request_logs import LineLimit
from app.server import HEAD_BYTES, Bounds
from app.settings import AppSettings
from worker.broker.embedded import Broker

HEAD_S, GRACE_S, WRITE_S = 0.6, 0.8, 1.0
SHORT = {"header_seconds": HEAD_S, "body_grace_seconds": GRACE_S, "min_body_rate": 1000.0, "write_seconds": WRITE_S}
LATE_S = 8.0  # on a busy machine; without bounds it would be for ever
FILES = 256
LIMITED = Bounds.of(AppSettings(_env_file=None), files=FILES)  # type: ignore[call-arg]


@dataclass
class Place:
    """Where a service listens."""

    url: str

    def line(self) -> socket.socket:
        place = urlsplit(self.url)
        assert place.hostname
        assert place.port
        return socket.create_connection((place.hostname, place.port), timeout=LATE_S)

    def figure(self, name: str) -> float:
        lines = httpx.get(f"{self.url}/metrics", timeout=30).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def short(house: Any, serve: Callable[[AppSettings], str]) -> Place:
    return Place(serve(house.settings.model_copy(update=SHORT)))


def rest(line: socket.socket) -> bytes:
    """Read until the server ends the connection; fail if it does not."""
    got = bytearray()
    with contextlib.suppress(ConnectionResetError):
        while part := line.recv(65536):
            got += part
    return bytes(got)


def problem(answer: bytes) -> tuple[int, str]:
    """Check that an answer is a whole problem document with the headers of all answers; return status and code."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    document = json.loads(body)
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert int(headers["content-length"]) == len(body)
    assert {"x-content-type-options", "content-security-policy", "referrer-policy", "x-request-id", "date"} <= set(
        headers
    )
    assert set(document) == {"type", "title", "status", "detail", "code", "request_id"}
    assert document["type"] == "/problems/" + document["code"].replace("_", "-")
    assert document["request_id"] == headers["x-request-id"]
    assert lines[0].startswith(f"HTTP/1.1 {document['status']} ")
    return document["status"], document["code"]


# --------------------------------------------------------------------------------------------------------------- slow


@pytest.mark.parametrize("sent", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Ha"], ids=["silent", "half a head"])
def test_a_head_that_does_not_come_is_not_waited_for(short: Place, sent: bytes) -> None:
    with short.line() as line:
        line.sendall(sent)
        answer = rest(line)
    assert (problem(answer) if sent else answer) == ((408, "too_slow") if sent else b"")


def test_a_head_that_trickles_gets_no_more_time_than_one_that_stops(short: Place) -> None:
    with short.line() as line:
        line.sendall(b"GET /livez HTTP/1.1\r\nX-Slow: ")
        until, line_ended = time.monotonic() + LATE_S, False
        while time.monotonic() < until and not line_ended:
            try:
                line.sendall(b"a")
            except OSError:
                line_ended = True
            time.sleep(0.05)
    assert line_ended


BODY = b"Content-Type: application/json\r\nContent-Length: 50000\r\n\r\n"


@pytest.mark.parametrize(
    "head",
    [b"POST /v1/generations HTTP/1.1\r\nHost: localhost\r\n" + BODY,
     b"PUT /v1/uploads/x.stl HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n"],
    ids=["json", "upload"],
)  # fmt: skip
@pytest.mark.parametrize("trickle", [False, True], ids=["stops", "trickles"])
def test_a_body_slower_than_the_least_rate_is_answered_408(short: Place, head: bytes, trickle: bool) -> None:
    before = short.figure('cytosynth_connections_ended_total{reason="body_too_slow"}')
    refused = short.figure('cytosynth_refusals_total{code="too_slow"}')
    with short.line() as line:
        line.sendall(head + b"{")
        ended = threading.Event()

        def send() -> None:
            with contextlib.suppress(OSError):
                while trickle and not ended.wait(0.1):
                    line.sendall(b" ")

        sender = threading.Thread(target=send)
        sender.start()
        answer = rest(line)
        ended.set()
        sender.join()
    assert problem(answer) == (408, "too_slow")
    assert short.figure('cytosynth_connections_ended_total{reason="body_too_slow"}') == before + 1
    assert short.figure('cytosynth_refusals_total{code="too_slow"}') == refused + 1
    assert short.figure('cytosynth_refusals_total{code="internal"}') == 0


def test_a_slow_body_above_the_least_rate_is_heard_to_its_end(short: Place) -> None:
    body = b'{"model": "round", "frames": 1, "grid": 16}'.ljust(6000)
    with short.line() as line:
        line.sendall(b"POST /v1/generations HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
        line.sendall(b"Content-Type: application/json\r\nContent-Length: 6000\r\n\r\n")
        for start in range(0, 6000, 600):  # twice the least rate, and longer than the grace
            line.sendall(body[start : start + 600])
            time.sleep(0.2)
        assert rest(line).startswith(b"HTTP/1.1 202 ")


def test_a_body_that_goes_on_after_its_answer_is_not_waited_for(short: Place) -> None:
    with short.line() as line:
        line.sendall(b"POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000\r\n\r\n")
        until, ended = time.monotonic() + LATE_S, False
        while time.monotonic() < until and not ended:
            try:
                line.sendall(b"a")
            except OSError:
                ended = True
            time.sleep(0.1)
    assert ended


def test_a_client_that_stops_reading_loses_its_connection(short: Place, house: Any) -> None:
    job = house.submit(seed=41)
    house.carry_out(job["id"], files={"cell_0000/large.stl": bytes(24 * 2**20)})
    before = short.figure('cytosynth_connections_ended_total{reason="reader_too_slow"}')
    with contextlib.ExitStack() as stack:
        for path in ("files/cell_0000/large.stl", "archive"):
            line = stack.enter_context(short.line())
            line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            line.sendall(f"GET /v1/jobs/{job['id']}/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        ended = 'cytosynth_connections_ended_total{reason="reader_too_slow"}'
        eventually(lambda: short.figure(ended) == before + 2, within_s=LATE_S)


def test_events_stay_open_longer_than_every_bound(short: Place, house: Any) -> None:
    job = house.submit(seed=42)
    with httpx.stream("GET", f"{short.url}/v1/jobs/{job['id']}/events", timeout=30) as stream:
        lines = stream.iter_lines()
        next(lines)
        time.sleep(2.5 * max(HEAD_S, GRACE_S, WRITE_S))
        house.carry_out(job["id"])
        assert any('"succeeded"' in line for line in lines)


def test_a_connection_is_kept_for_the_next_request(short: Place) -> None:
    with httpx.Client(base_url=short.url, timeout=30) as client:
        for _ in range(3):
            assert client.get("/livez").extensions["network_stream"].get_extra_info("server_addr")
            first = client.get("/livez").extensions["network_stream"].get_extra_info("client_addr")
            time.sleep(HEAD_S / 3)
            assert client.get("/livez").extensions["network_stream"].get_extra_info("client_addr") == first


# ------------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"\x16\x03\x01 hello\r\n\r\n", (400, "bad_request")),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", (400, "bad_request")),
        (b"GET /livez HTTP/1.1\r\n\r\n", (400, "bad_request")),  # without Host
        (b"GET /" + b"a" * 4 * HEAD_BYTES, (414, "address_too_long")),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 4 * HEAD_BYTES, (431, "head_too_long")),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX-Long: " + b"a" * 2 * HEAD_BYTES + b"\r\n\r\n", (431, "head_too_long")),
        (b"GET /" + b"a" * 2 * HEAD_BYTES + b" HTTP/1.1\r\nHost: a\r\n\r\n", (414, "address_too_long")),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", (400, "bad_request")),
    ],
)
def test_what_the_server_refuses_by_itself_is_a_problem_document(
    short: Place, sent: bytes, expected: tuple[int, str]
) -> None:
    with short.line() as line:
        line.sendall(sent)
        assert problem(rest(line)) == expected


# ---------------------------------------------------------------------------------------------------------------- gone


@pytest.mark.parametrize("path", ["POST /v1/generations", "PUT /v1/uploads/gone.stl", "POST /v1/estimates"])
@pytest.mark.parametrize("reset", [False, True])
def test_a_client_that_leaves_amid_its_body_is_no_fault_of_the_service(
    short: Place, path: str, reset: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    gone = 'cytosynth_refusals_total{code="client_gone"}'
    before = short.figure(gone)
    with short.line() as line:
        if reset:
            line.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        line.sendall(path.encode() + b" HTTP/1.1\r\nHost: localhost\r\n" + BODY + b"{")
        time.sleep(0.1)
    eventually(lambda: short.figure(gone) == before + 1, within_s=LATE_S)
    assert short.figure('cytosynth_refusals_total{code="internal"}') == 0
    status = path.replace(" /", '",route="/').partition('"')[0]
    assert short.figure(f'cytosynth_http_request_seconds_count{{method="{status}"') >= 1
    text = httpx.get(f"{short.url}/metrics", timeout=30).text
    assert 'status="499"' in text
    assert 'status="500"' not in text
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("path", ["files/cell_0000/large.stl", "archive", "events"])
def test_a_client_that_leaves_amid_its_answer_is_no_fault_of_the_service(
    short: Place, house: Any, path: str, capfd: pytest.CaptureFixture[str]
) -> None:
    job = house.submit(seed=430 + len(path))
    if path != "events":
        house.carry_out(job["id"], files={"cell_0000/large.stl": bytes(24 * 2**20)})
    ended = 'cytosynth_connections_ended_total{reason="client_gone"}'
    before = short.figure(ended)
    with short.line() as line:
        line.sendall(f"GET /v1/jobs/{job['id']}/{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert line.recv(1000).startswith(b"HTTP/1.1 200")
    eventually(lambda: short.figure(ended) == before + 1, within_s=LATE_S)
    assert short.figure('cytosynth_refusals_total{code="internal"}') == 0
    assert "Traceback" not in capfd.readouterr().err


# ------------------------------------------------------------------------------------------------------------ too many


@pytest.fixture(scope="module")
def crowded(house: Any, broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Any, Path]]:
    """The web of the containers as a process that may open few files."""
    folder = tmp_path_factory.mktemp("crowded")
    log = folder / "web.log"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "web", "--port", str(port)], cwd=ROOT, stdout=out, stderr=out,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
            env=environment(
                CYTOSYNTH_REDIS_URL=broker.url, CYTOSYNTH_DATA_DIR=str(house.settings.data_dir),
                CYTOSYNTH_LOG_JSON="true", CYTOSYNTH_BODY_GRACE_SECONDS="2",
                CYTOSYNTH_MODEL_DIRS=json.dumps([str(house.models)]),
            ),
        )  # fmt: skip
    place = Place(f"http://127.0.0.1:{port}")
    try:
        eventually(lambda: process.poll() is not None or healthy(place), within_s=START_S)
        yield place, psutil.Process(process.pid), log
    finally:
        process.terminate()
        process.wait(20)


def healthy(place: Place) -> bool:
    try:
        return httpx.get(f"{place.url}/livez", timeout=5, verify=VERIFY).status_code == 200
    except httpx.TransportError:
        return False


def test_more_connections_than_files_leave_the_service_alive(crowded: tuple[Place, Any, Path]) -> None:
    place, process, log = crowded
    resting = process.num_fds()
    with contextlib.ExitStack() as stack:
        for number in range(3 * FILES):
            line = stack.enter_context(place.line())
            line.sendall(b"GET /livez HTTP/1.1\r\nHo" if number % 2 else b"")
        for _ in range(5):
            assert healthy(place)
            assert httpx.get(f"{place.url}/v1/models", timeout=5).status_code == 200
        assert process.num_fds() <= resting + LIMITED.connections + 1
        assert place.figure('cytosynth_connections_ended_total{reason="made_room"}') >= 3 * FILES - LIMITED.connections
    eventually(lambda: process.num_fds() <= resting + 2, within_s=LATE_S)
    text = log.read_text()
    assert "Too many open files" not in text
    assert "Traceback" not in text
    assert text.count('"connection ended"') <= 100  # of some seven hundred
    eventually(lambda: healthy(place) and '"lines suppressed"' in log.read_text(), within_s=3 * LATE_S)


def test_more_requests_than_may_be_under_way_get_503_and_health_is_answered(crowded: tuple[Place, Any, Path]) -> None:
    place, process, _ = crowded
    resting = process.num_fds()
    with contextlib.ExitStack() as stack:
        for _ in range(LIMITED.requests):
            line = stack.enter_context(place.line())
            line.sendall(b"POST /v1/generations HTTP/1.1\r\nHost: localhost\r\n" + BODY + b"{")
        eventually(lambda: httpx.get(f"{place.url}/v1/models", timeout=5).status_code == 503, within_s=LATE_S)
        refused = httpx.post(f"{place.url}/v1/estimates", json={"model": "round"}, timeout=5)
        assert (refused.status_code, refused.json()["code"]) == (503, "too_many_connections")
        assert int(refused.headers["retry-after"]) > 0
        assert healthy(place)
        assert httpx.get(f"{place.url}/readyz", timeout=5).json()["checks"]["broker"]["ok"]
        eventually(lambda: httpx.get(f"{place.url}/v1/models", timeout=5).status_code == 200, within_s=3 * LATE_S)
    eventually(lambda: process.num_fds() <= resting + 2, within_s=LATE_S)


@pytest.mark.parametrize("files", [64, 256, 1024, 4096, 20_000, 1_048_576])
def test_bounds_leave_descriptors_for_everything_else(files: int) -> None:
    bounds = Bounds.of(AppSettings(_env_file=None), files=files)  # type: ignore[call-arg]
    assert 1 <= bounds.requests < bounds.connections
    if files >= 256:
        assert bounds.connections + bounds.requests + 100 <= files
    asked = AppSettings(_env_file=None, max_connections=20)  # type: ignore[call-arg]
    assert Bounds.of(asked, files=1024).connections == 20


def test_lines_of_one_kind_are_limited_and_those_left_out_are_counted() -> None:
    limit = LineLimit(lines=3, interval_s=0.05)
    assert [limit.passes("a") for _ in range(5)] == [True, True, True, False, False]
    assert limit.passes("b")
    time.sleep(0.06)
    assert limit.suppressed() == {"a": 2}
    assert limit.suppressed() == {}
    assert limit.passes("a")
