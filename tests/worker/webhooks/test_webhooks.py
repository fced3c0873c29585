"""Webhooks reach a real receiver, signed, at least once, whatever is restarted; and never a private address."""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.server
import json
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from claims import claim_job
from workbench import Service, eventually, submit

from worker.errors import SpecError
from worker.jobs import Job, JobOptions, JobQueue
from worker.jobs.outbox import ATTEMPTS
from worker.webhooks.addresses import AddressRefusedError, check_url, is_public, resolve
from worker.webhooks.delivery import WebhookDelivery
from worker.webhooks.sender import post
from worker.webhooks.signing import secret_of, secret_text, signed_headers

MASTER = "a secret of the operator, 32 characters"
MakeJobs = Callable[..., JobQueue]


class Receiver:
    """A real HTTP server that keeps what it gets, and answers what it is told to, then 204."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.answers: list[int] = []
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                status = receiver.answers.pop(0) if receiver.answers else 204
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", receiver.url("/elsewhere"))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context is not None:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    def url(self, path: str = "/hook?x=1", *, scheme: str = "http", host: str = "127.0.0.1") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    server = Receiver()
    yield server
    server.close()


def verified(message: tuple[dict[str, str], bytes], owner: str = "") -> dict[str, Any]:
    """Verify a message as a receiver does, with what the specification says and none of our code."""
    headers, body = message
    secret = base64.b64decode(secret_text(secret_of(MASTER, owner)).removeprefix("whsec_"))
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == expected
    assert headers["content-type"] == "application/json"
    document: dict[str, Any] = json.loads(body)
    return document


def with_webhook(jobs: JobQueue, receiver: Receiver, **changes: Any) -> Job:
    return submit(jobs, options=JobOptions(webhook=receiver.url(), labels={"run": "7"}), **changes)


def deliveries(jobs: JobQueue, **options: Any) -> WebhookDelivery:
    return WebhookDelivery(jobs, secret=MASTER, allow_private=True, **{"retries_s": (0.0,), **options})


# ------------------------------------------------------------------------------------------------------------- messages


def test_signatures_are_those_of_the_specification() -> None:
    """The example of the Standard Webhooks reference libraries."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers(
        secret, message_id="msg_p5jXN8AQM9LWM0D4loKWxJek", timestamp=1614265330, body=b'{"test": 2432232314}'
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_each_owner_has_a_secret_of_its_own() -> None:
    secrets = {secret_of(master, owner) for master in (MASTER, MASTER + "x") for owner in ("", "ada", "bob")}
    assert len(secrets) == 6
    assert {len(secret) for secret in secrets} == {32}


def test_the_end_of_a_job_is_told_once(jobs: JobQueue, receiver: Receiver) -> None:
    delivery = deliveries(jobs)
    job, plain = with_webhook(jobs, receiver, owner="ada"), submit(jobs)
    assert not delivery.deliver_one()  # nothing has ended
    jobs.cancel(job.id)
    jobs.cancel(plain.id)
    assert delivery.deliver_one()
    assert not delivery.deliver_one()
    (message,) = receiver.got
    assert verified(message, "ada") == {
        "type": "job.canceled",
        "timestamp": verified(message, "ada")["timestamp"],
        "data": {
            "id": job.id, "kind": "probe", "state": "canceled", "labels": {"run": "7"}, "error": None,
            "links": {"self": f"/v1/jobs/{job.id}"},
        },
    }  # fmt: skip
    assert message[0]["webhook-id"] == f"msg_{job.id}"
    webhook = jobs.get(job.id).webhook
    assert webhook is not None
    assert (webhook.state, webhook.attempts) == ("delivered", 1)


def test_a_failure_says_why(jobs: JobQueue, receiver: Receiver) -> None:
    job = with_webhook(jobs, receiver)
    lease = claim_job(jobs, job.id, worker="w")
    assert lease is not None
    jobs.leases.fail(lease, code="empty_surface", message="no membrane in Ω")
    deliveries(jobs).deliver_one()
    document = verified(receiver.got[0])
    assert document["type"] == "job.failed"
    assert document["data"]["error"] == {"code": "empty_surface", "message": "no membrane in Ω"}


@pytest.mark.parametrize("status", [500, 404, 302])
def test_what_is_not_taken_is_sent_again_under_the_same_id(jobs: JobQueue, receiver: Receiver, status: int) -> None:
    job, delivery = with_webhook(jobs, receiver), deliveries(jobs)
    jobs.cancel(job.id)
    receiver.answers = [status, status]
    assert [delivery.deliver_one() for _ in range(4)] == [True, True, True, False]
    assert {message[0]["webhook-id"] for message in receiver.got} == {f"msg_{job.id}"}
    assert len(receiver.got) == 3  # no redirect was followed


def test_attempts_are_bounded(jobs: JobQueue) -> None:
    job = submit(jobs, options=JobOptions(webhook="http://127.0.0.1:1/"))
    delivery = deliveries(jobs)
    jobs.cancel(job.id)
    assert [delivery.deliver_one() for _ in range(ATTEMPTS + 1)] == [True] * ATTEMPTS + [False]
    webhook = jobs.get(job.id).webhook
    assert webhook is not None
    assert (webhook.state, webhook.attempts) == ("gave_up", ATTEMPTS)


def test_a_receiver_that_is_gone_is_left_alone(jobs: JobQueue, receiver: Receiver) -> None:
    job, delivery = with_webhook(jobs, receiver), deliveries(jobs)
    jobs.cancel(job.id)
    receiver.answers = [410]
    assert [delivery.deliver_one() for _ in range(2)] == [True, False]
    webhook = jobs.get(job.id).webhook
    assert webhook is not None
    assert webhook.state == "refused"


def test_attempts_wait_longer_and_longer(jobs: JobQueue, receiver: Receiver) -> None:
    job = with_webhook(jobs, receiver)
    jobs.cancel(job.id)
    receiver.answers = [500]
    assert deliveries(jobs, retries_s=(100.0,)).deliver_one()
    due_at = jobs._redis.zscore(f"{jobs._prefix}webhooks", job.id)
    assert 75 < due_at - time.time() < 125
    assert not deliveries(jobs).deliver_one()


def test_a_message_under_way_belongs_to_one_worker(jobs: JobQueue, receiver: Receiver) -> None:
    job = with_webhook(jobs, receiver)
    jobs.cancel(job.id)
    assert jobs.outbox.take() is not None
    assert jobs.outbox.take() is None
    jobs._redis.zadd(f"{jobs._prefix}webhooks", {job.id: time.time()})  # a minute later; the first has died
    second = jobs.outbox.take()
    assert second is not None
    assert second.attempt == 2


def test_a_lost_broker_tells_what_was_not_told_and_nothing_twice(jobs: JobQueue, receiver: Receiver) -> None:
    told, untold, active = (with_webhook(jobs, receiver) for _ in range(3))
    delivery = deliveries(jobs)
    jobs.cancel(told.id)
    assert delivery.deliver_one()
    jobs.cancel(untold.id)
    for key in jobs._redis.scan_iter(f"{jobs._prefix}*"):
        jobs._redis.delete(key)
    assert jobs.admin.rebuild() == 3
    assert [delivery.deliver_one() for _ in range(2)] == [True, False]
    assert [message[0]["webhook-id"] for message in receiver.got] == [f"msg_{told.id}", f"msg_{untold.id}"]
    webhook = jobs.get(told.id).webhook
    assert webhook is not None
    assert webhook.state == "delivered"
    jobs.cancel(active.id)
    assert delivery.deliver_one()


def test_a_removed_job_tells_nobody(jobs: JobQueue, receiver: Receiver, tmp_path: Path) -> None:
    job, other = with_webhook(jobs, receiver), with_webhook(jobs, receiver)
    jobs.cancel(job.id)
    jobs.delete(job.id)
    assert not deliveries(jobs).deliver_one()
    jobs.cancel(other.id)
    assert deliveries(jobs).deliver_one()
    assert [path.stem for path in (tmp_path / "webhooks").iterdir()] == [other.id]
    jobs.delete(other.id)
    assert list((tmp_path / "webhooks").iterdir()) == []


# ------------------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "0.0.0.0", "100.64.0.1",
        "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "fe80::1", "fe80::1%eth0",
        "fc00::1", "fd12::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "2002:a00:1::",
        "64:ff9b::7f00:1", "64:ff9b::a00:1", "2001:db8::1",
    ],
)  # fmt: skip
def test_what_is_not_public_is_refused_after_resolution(address: str) -> None:
    assert not is_public(address)
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]
    with pytest.raises(AddressRefusedError):
        resolve("inside.example", 443, allow_private=False, resolver=lambda *_, **__: found)
    assert resolve("inside.example", 443, allow_private=True, resolver=lambda *_, **__: found) == (address, 443)


def test_one_private_address_among_public_ones_is_enough_to_refuse() -> None:
    found = [(0, 0, 0, "", (address, 443)) for address in ("93.184.215.14", "10.0.0.1")]
    with pytest.raises(AddressRefusedError):
        resolve("both.example", 443, allow_private=False, resolver=lambda *_, **__: found)
    for address in ("93.184.215.14", "2606:2800:220:1:248:1893:25c8:1946"):
        assert is_public(address)


def test_nothing_is_sent_to_a_private_address(jobs: JobQueue, receiver: Receiver) -> None:
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1"):  # the last two are 127.0.0.1 for some resolvers
        with pytest.raises(AddressRefusedError):
            post(receiver.url(host=host), b"{}", {})
    job = with_webhook(jobs, receiver)
    jobs.cancel(job.id)
    assert WebhookDelivery(jobs, secret=MASTER, retries_s=(0.0,)).deliver_one()
    assert receiver.got == []


def test_a_name_is_resolved_once_and_the_connection_goes_there(receiver: Receiver) -> None:
    """A name server that answers differently the second time (DNS rebinding) is not asked a second time."""
    asked = []

    def resolver(host: str, port: int, **_: object) -> list[tuple[Any, ...]]:
        asked.append(host)
        return [(0, 0, 0, "", ("127.0.0.1" if len(asked) == 1 else "192.0.2.1", port))]

    status = post(receiver.url(host="rebinds.example"), b"{}", {}, allow_private=True, resolver=resolver)
    assert (status, asked) == (204, ["rebinds.example"])
    assert receiver.got[0][0]["host"] == f"rebinds.example:{receiver.port}"


@pytest.mark.parametrize(
    "url",
    [
        "", "https://", "ftp://a.example/", "https://user@a.example/", "https://user:x@a.example/", "https://a.example/#x",
        "https://[::1]/", "https://a.example:99999/", "https://a.example:0/", "https://a.example/a b", "https://ä.example/",
        "https://a.example\\@b.example/", "https://" + "a" * 3000 + "/", "http://a.example/", "https://-a.example/",
    ],
)  # fmt: skip
def test_unfit_addresses_are_refused(url: str) -> None:
    with pytest.raises(SpecError):
        check_url(url, allow_http=False)


def test_addresses_may_be_https_and_http_where_that_is_allowed() -> None:
    for url in ("https://a.example", "https://a.example:8443/x?y=z&s=1", "https://1.2.3.4/"):
        assert check_url(url, allow_http=False) == url
    assert check_url("http://a.example/", allow_http=True)


def test_tls_checks_the_name_that_was_asked_for(tmp_path: Path) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    subprocess.run(
        [
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=hooks.example",
            "-addext", "subjectAltName=DNS:hooks.example", "-keyout", "key.pem", "-out", "cert.pem",
        ],
        cwd=tmp_path, check=True, capture_output=True,
    )  # fmt: skip
    serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    serving.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    receiver = Receiver(serving)

    def send(host: str, context: ssl.SSLContext | None) -> int:
        here = [(0, 0, 0, "", ("127.0.0.1", receiver.port))]
        url = receiver.url(scheme="https", host=host)
        return post(url, b"{}", {}, allow_private=True, context=context, resolver=lambda *_, **__: here)

    try:
        assert send("hooks.example", trusting) == 204
        for host, context in (("other.example", trusting), ("hooks.example", None)):
            with pytest.raises(ssl.SSLCertVerificationError):
                send(host, context)
        assert len(receiver.got) == 1
    finally:
        receiver.close()


# -------------------------------------------------------------------------------------------------------- real workers


@pytest.mark.slow
def test_a_worker_tells_and_another_tells_on_after_it_was_killed(service: Service, receiver: Receiver) -> None:
    enabled = {"CYTOSYNTH_WEBHOOK_SECRET": MASTER, "CYTOSYNTH_WEBHOOK_PRIVATE": "true", "CYTOSYNTH_WEBHOOK_HTTP": "1"}
    for worker in list(service.workers):
        service.stop_worker(worker)
    worker = service.start_worker(**enabled)
    receiver.answers = [503]
    job = service.jobs.submit(
        kind="probe", spec={"frames": 2}, model_id="m", model_sha256="0" * 64, digest="told",
        options=JobOptions(webhook=receiver.url()),
    )[0]  # fmt: skip
    service.ended(job)
    eventually(lambda: len(receiver.got) == 1)
    service.stop_worker(worker, how=signal.SIGKILL)
    service.start_worker(**enabled)
    eventually(lambda: len(receiver.got) == 2, within_s=90)  # 5 s after the first attempt, or a minute if it was lost
    assert verified(receiver.got[1])["type"] == "job.succeeded"
    assert receiver.got[0][0]["webhook-id"] == receiver.got[1][0]["webhook-id"]
