"""Accepted requests and their outcomes on disk, from which the records of a broker that lost its data are restored.

Below the data folder::

    requests/<job>.json      the accepted request, written before the broker has the job
    verdicts/<job>.json      the outcome of a job without files
    pins/<job>               its files are kept until the client unpins them; afterwards the time of that
    webhooks/<job>.json      how the message about its end was delivered
    batches/<batch>.json     the jobs that one request asked for; without it, none of them was accepted
    aliases/<key>.json       an Idempotency-Key that was answered with the job of another request

Promises: every record is written whole and synced, or not at all. A damaged record is logged and skipped. Only job ids
become names of files.
Does not promise: that a recorded request has a job; a process may die between the two, and cleaning removes it.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from worker.job_id import JOB_ID, checked
from worker.storage.durable_files import DRAFT, age_s, entries, sync_folder, write_all_once, write_once, write_over

log = logging.getLogger(__name__)

RELEASED = b"released"
OUTCOMES = frozenset({"failed", "canceled", "expired"})  # of jobs without files


class Journal:
    """The records below one data folder; ``root`` is the service's ``data_dir``."""

    def __init__(self, root: Path) -> None:
        self._requests = root / "requests"
        self._outcomes = root / "verdicts"  # a name of the first version, kept for the data folders that exist
        self._pins = root / "pins"
        self._aliases = root / "aliases"
        self._webhooks = root / "webhooks"
        self._batches = root / "batches"

    def record_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write an accepted request to disk under its ``id``, synced; return it, or the one that exists."""
        path = self._request_path(request["id"])
        if not path.exists() and write_once(path, json.dumps(request, allow_nan=False).encode()):
            return request
        sync_folder(path.parent)  # the process that wrote it may not have synced it yet
        recorded = _record(path, _has_id)
        if recorded is None:  # it was damaged since; this is the same request
            write_over(path, json.dumps(request, allow_nan=False).encode())
            return request
        return recorded

    def record_requests(self, requests: Sequence[dict[str, Any]]) -> None:
        """Keep requests under ids that are free, each whole and synced, when this returns."""
        write_all_once(
            {self._request_path(request["id"]): json.dumps(request, allow_nan=False).encode() for request in requests}
        )

    def record_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Keep a batch under its ``id``; return it, or the one that is there."""
        path, content = self._batch_path(batch["id"]), json.dumps(batch, allow_nan=False).encode()
        if write_once(path, content):
            return batch
        recorded = _record(path, is_batch)
        if recorded is None:  # damaged since
            write_over(path, content)
            return batch
        return recorded

    def forget_batch(self, batch_id: str) -> None:
        """Remove the record of a batch, and that of its delivery."""
        for path in (self._batch_path(batch_id), self._webhooks / f"{batch_id}.json"):
            path.unlink(missing_ok=True)

    def has_batch(self, batch_id: str) -> bool:
        """Whether a batch is recorded, be it damaged."""
        return self._batch_path(batch_id).exists()

    def recorded_batches(self) -> list[str]:
        """Return the ids of the recorded batches, sorted."""
        names = (path.name.partition(".")[0] for path in entries(self._batches))
        return sorted(name for name in names if JOB_ID.fullmatch(name))

    def batches(self) -> Iterator[dict[str, Any]]:
        """Yield the recorded batches; a damaged one is left out, its jobs are not."""
        for batch_id in self.recorded_batches():
            batch = _record(self._batch_path(batch_id), is_batch)
            if batch is not None and batch["id"] == batch_id:
                yield batch

    def batch_age_s(self, batch_id: str, *, now: float) -> float:
        """Return how many seconds before ``now`` a batch was written; 0 if it is not."""
        return age_s(self._batch_path(batch_id), now=now)

    def forget_request(self, job_id: str) -> None:
        """Remove a recorded request and its other records, because its job must not be restored any more."""
        places = (self._request_path(job_id), self._outcome_path(job_id), self._pins / job_id)
        for path in (*places, self._webhooks / f"{job_id}.json"):
            path.unlink(missing_ok=True)

    def requested(self) -> list[str]:
        """Return the ids of the recorded requests, oldest first."""
        try:
            names = [path.name.partition(".")[0] for path in self._requests.iterdir()]
        except FileNotFoundError:
            return []  # no request was ever recorded; a folder that cannot be read is an error
        return sorted(name for name in names if JOB_ID.fullmatch(name))

    def requests(self, job_ids: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield recorded requests, all of them or those of some jobs; one that is removed meanwhile is left out.

        A damaged one is left out too, so that the others are restored.
        """
        for job_id in self.requested() if job_ids is None else job_ids:
            request = _record(self._request_path(job_id), _has_id)
            if request is not None and request["id"] == job_id:
                yield request

    def has_request(self, job_id: str) -> bool:
        """Whether a request is recorded."""
        return self._request_path(job_id).exists()

    def record_alias(self, key: str, alias: dict[str, str]) -> None:
        """Record which job answers an Idempotency-Key, given by its fingerprint; replaces an earlier record."""
        path, content = self._aliases / f"{key}.json", json.dumps(alias).encode()
        with suppress(FileNotFoundError):
            if path.read_bytes() == content:
                return
        write_over(path, content)

    def aliases(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield the fingerprint of each key, its record, and when that was written, in seconds since 1970."""
        for path in entries(self._aliases):
            if not path.name.startswith(DRAFT):
                alias = _record(path, is_alias)
                if alias is not None:
                    with suppress(FileNotFoundError):
                        yield path.stem, alias, path.stat().st_mtime

    def record_outcome(self, job_id: str, outcome: dict[str, Any]) -> None:
        """Record the outcome of a job without files; replaces an earlier one: a job that succeeded expires later."""
        write_over(self._outcome_path(job_id), json.dumps(outcome, allow_nan=False).encode())

    def outcome(self, job_id: str) -> dict[str, Any] | None:
        """Return the outcome of a job without files; None if there is no record of it, or a damaged one."""
        return _record(self._outcome_path(job_id), is_outcome)

    def record_delivery(self, job_id: str, outcome: str) -> None:
        """Record that no message about the end of a job is due any more, and why."""
        write_over(self._webhooks / f"{checked(job_id)}.json", json.dumps({"outcome": outcome}).encode())

    def delivery(self, job_id: str) -> str | None:
        """Return what :meth:`record_delivery` kept; None if there is nothing, or if it is damaged."""
        record = _record(self._webhooks / f"{checked(job_id)}.json", is_delivery)
        return None if record is None else str(record["outcome"])

    def pin(self, job_id: str, *, pinned: bool) -> None:
        """Record that a job's files are kept, or that from now on they are not."""
        write_over(self._pins / checked(job_id), b"" if pinned else RELEASED)

    def unpin(self, job_id: str) -> None:
        """Remove the record that a job's files are kept."""
        (self._pins / checked(job_id)).unlink(missing_ok=True)

    def pinned(self, job_id: str) -> bool:
        """Whether a job's files are to be kept."""
        try:
            return (self._pins / checked(job_id)).read_bytes() != RELEASED
        except FileNotFoundError:
            return False

    def released_at(self, job_id: str) -> float:
        """Return when a job's files were unpinned, in seconds since 1970; 0 if never."""
        path = self._pins / checked(job_id)
        try:
            return path.stat().st_mtime if path.read_bytes() == RELEASED else 0.0
        except FileNotFoundError:
            return 0.0

    def stored(self) -> list[str]:
        """Return the ids of all jobs with any record here, sorted."""
        folders = (self._requests, self._outcomes, self._pins, self._webhooks)
        names = {path.name.partition(".")[0] for folder in folders for path in entries(folder)}
        names.difference_update(self.recorded_batches())  # which have deliveries, too
        return sorted(name for name in names if JOB_ID.fullmatch(name))

    def changed_s(self, job_id: str, *, now: float) -> float:
        """Return how many seconds ago the younger of a job's request and outcome was written; infinite if none was."""
        places = (self._request_path(job_id), self._outcome_path(job_id))
        return min((age_s(place, now=now) for place in places if place.exists()), default=math.inf)

    def sweep(self, *, grace_s: float, alias_s: float, now: float) -> int:
        """Remove drafts older than ``grace_s`` and aliases older than ``alias_s``; return how many."""
        removed = 0
        for folder in (self._requests, self._outcomes, self._pins, self._webhooks, self._batches, self._aliases):
            for path in entries(folder):
                age = age_s(path, now=now)
                outdated = folder == self._aliases and age > alias_s
                if outdated or (path.name.startswith(DRAFT) and age > grace_s):
                    path.unlink(missing_ok=True)
                    removed += 1
        return removed

    def _request_path(self, job_id: str) -> Path:
        return self._requests / f"{checked(job_id)}.json"

    def _batch_path(self, batch_id: str) -> Path:
        return self._batches / f"{checked(batch_id)}.json"

    def _outcome_path(self, job_id: str) -> Path:
        return self._outcomes / f"{checked(job_id)}.json"


def _record(path: Path, valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
    """Read a record; None if there is none, or if it is damaged, which is logged."""
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError):
        document = None
    if isinstance(document, dict) and valid(document):
        return document
    log.critical("the record %s/%s is damaged and is passed over", path.parent.name, path.name)
    return None


def is_request(record: dict[str, Any]) -> bool:
    """Whether this is a recorded request that can be restored."""
    texts = ("id", "kind", "owner", "model_id", "model_sha256", "digest")
    at = record.get("created_at")
    return (
        all(isinstance(record.get(member), str) for member in texts)
        and isinstance(record.get("spec"), dict)
        and isinstance(at, int | float)
        and math.isfinite(at)
    )


def _has_id(record: dict[str, Any]) -> bool:
    return isinstance(record.get("id"), str)


def is_outcome(record: dict[str, Any]) -> bool:
    """Whether this is the outcome of a job."""
    times = isinstance(record.get("finished_at"), int | float | None)
    return record.get("status") in OUTCOMES and times and isinstance(record.get("error"), dict | None)


def is_delivery(record: dict[str, Any]) -> bool:
    """Whether this says how a message was delivered."""
    return isinstance(record.get("outcome"), str)


def is_batch(record: dict[str, Any]) -> bool:
    """Whether this is a recorded batch that can be restored."""
    jobs = record.get("jobs")
    return (
        all(isinstance(record.get(member), str) for member in ("id", "owner", "request_digest"))
        and isinstance(record.get("created_at"), int | float)
        and isinstance(jobs, list)
        and all(isinstance(job, str) for job in jobs)
    )


def is_alias(record: dict[str, Any]) -> bool:
    """Whether this is an alias of an Idempotency-Key."""
    return isinstance(record.get("job"), str) and isinstance(record.get("digest"), str)
