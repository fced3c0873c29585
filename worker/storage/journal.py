"""Accepted requests and their outcomes, from which the records of a broker that lost its data are restored.

Below the data folder, or in the object store::

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
from pathlib import Path
from typing import Any

from worker.job_id import JOB_ID, checked
from worker.storage.records import FolderRecords, Records

log = logging.getLogger(__name__)

REQUESTS, BATCHES, PINS, WEBHOOKS, ALIASES = "requests", "batches", "pins", "webhooks", "aliases"
OUTCOMES = "verdicts"  # a name of the first version, kept for the data folders that exist
FOLDERS = (REQUESTS, OUTCOMES, PINS, WEBHOOKS, BATCHES, ALIASES)
RELEASED = b"released"
ENDS = frozenset({"failed", "canceled", "expired"})  # of jobs without files


class Journal:
    """The records below one data folder, or in one object store.

    Parameters
    ----------
    place
        The service's ``data_dir``, or where else the records are kept.
    """

    def __init__(self, place: Path | Records) -> None:
        self._records: Records = FolderRecords(place) if isinstance(place, Path) else place

    def record_request(self, request: dict[str, Any]) -> dict[str, Any]:
        """Record an accepted request under its ``id``, durably; return it, or the one that exists."""
        return self._record_once(_request(request["id"]), request, _has_id)

    def record_requests(self, requests: Sequence[dict[str, Any]]) -> None:
        """Keep requests under ids that are free, each whole and durable, when this returns."""
        self._records.put_all_once({_request(request["id"]): _bytes(request) for request in requests})

    def record_batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Keep a batch under its ``id``; return it, or the one that is there."""
        return self._record_once(_batch(batch["id"]), batch, is_batch)

    def forget_batch(self, batch_id: str) -> None:
        """Remove the record of a batch, and that of its delivery."""
        for place in (_batch(batch_id), _webhook(batch_id)):
            self._records.delete(place)

    def has_batch(self, batch_id: str) -> bool:
        """Whether a batch is recorded, be it damaged."""
        return self._records.modified(_batch(batch_id)) is not None

    def recorded_batches(self) -> list[str]:
        """Return the ids of the recorded batches, sorted."""
        return self._ids(BATCHES)

    def batches(self) -> Iterator[dict[str, Any]]:
        """Yield the recorded batches; a damaged one is left out, its jobs are not."""
        for batch_id in self.recorded_batches():
            batch = self._read(_batch(batch_id), is_batch)
            if batch is not None and batch["id"] == batch_id:
                yield batch

    def batch_age_s(self, batch_id: str, *, now: float) -> float:
        """Return how many seconds before ``now`` a batch was written; 0 if it is not."""
        written = self._records.modified(_batch(batch_id))
        return 0.0 if written is None else now - written

    def forget_request(self, job_id: str) -> None:
        """Remove a recorded request and its other records, because its job must not be restored any more."""
        for place in (_request(job_id), _outcome(job_id), _pin(job_id), _webhook(job_id)):
            self._records.delete(place)

    def requested(self) -> list[str]:
        """Return the ids of the recorded requests, oldest first; raises ``OSError`` if they cannot be listed."""
        return self._ids(REQUESTS)

    def requests(self, job_ids: Collection[str] | None = None) -> Iterator[dict[str, Any]]:
        """Yield recorded requests, all of them or those of some jobs; one that is removed meanwhile is left out.

        A damaged one is left out too, so that the others are restored.
        """
        for job_id in self.requested() if job_ids is None else job_ids:
            request = self._read(_request(job_id), _has_id)
            if request is not None and request["id"] == job_id:
                yield request

    def has_request(self, job_id: str) -> bool:
        """Whether a request is recorded."""
        return self._records.modified(_request(job_id)) is not None

    def record_alias(self, key: str, alias: dict[str, str]) -> None:
        """Record which job answers an Idempotency-Key, given by its fingerprint; replaces an earlier record."""
        place, content = f"{ALIASES}/{key}.json", json.dumps(alias).encode()
        if self._records.get(place) != content:
            self._records.put_over(place, content)

    def aliases(self) -> Iterator[tuple[str, dict[str, str], float]]:
        """Yield the fingerprint of each key, its record, and when that was written, in seconds since 1970."""
        for name in self._records.names(ALIASES):
            alias = self._read(f"{ALIASES}/{name}", is_alias)
            written = self._records.modified(f"{ALIASES}/{name}")
            if alias is not None and written is not None:
                yield name.removesuffix(".json"), alias, written

    def record_outcome(self, job_id: str, outcome: dict[str, Any]) -> None:
        """Record the outcome of a job without files; replaces an earlier one: a job that succeeded expires later."""
        self._records.put_over(_outcome(job_id), _bytes(outcome))

    def outcome(self, job_id: str) -> dict[str, Any] | None:
        """Return the outcome of a job without files; None if there is no record of it, or a damaged one."""
        return self._read(_outcome(job_id), is_outcome)

    def record_delivery(self, job_id: str, outcome: str) -> None:
        """Record that no message about the end of a job is due any more, and why."""
        self._records.put_over(_webhook(job_id), json.dumps({"outcome": outcome}).encode())

    def delivery(self, job_id: str) -> str | None:
        """Return what :meth:`record_delivery` kept; None if there is nothing, or if it is damaged."""
        record = self._read(_webhook(job_id), is_delivery)
        return None if record is None else str(record["outcome"])

    def pin(self, job_id: str, *, pinned: bool) -> None:
        """Record that a job's files are kept, or that from now on they are not."""
        self._records.put_over(_pin(job_id), b"" if pinned else RELEASED)

    def unpin(self, job_id: str) -> None:
        """Remove the record that a job's files are kept."""
        self._records.delete(_pin(job_id))

    def pinned(self, job_id: str) -> bool:
        """Whether a job's files are to be kept."""
        content = self._records.get(_pin(job_id))
        return content is not None and content != RELEASED

    def released_at(self, job_id: str) -> float:
        """Return when a job's files were unpinned, in seconds since 1970; 0 if never."""
        place = _pin(job_id)
        released = self._records.get(place) == RELEASED
        return (self._records.modified(place) or 0.0) if released else 0.0

    def stored(self) -> list[str]:
        """Return the ids of all jobs with any record here, sorted."""
        found = {job_id for folder in (REQUESTS, OUTCOMES, PINS, WEBHOOKS) for job_id in self._ids(folder)}
        return sorted(found.difference(self.recorded_batches()))  # which have deliveries, too

    def changed_s(self, job_id: str, *, now: float) -> float:
        """Return how many seconds ago the younger of a job's request and outcome was written; infinite if none was."""
        written = (self._records.modified(place) for place in (_request(job_id), _outcome(job_id)))
        return min((now - at for at in written if at is not None), default=math.inf)

    def sweep(self, *, grace_s: float, alias_s: float, now: float) -> int:
        """Remove drafts older than ``grace_s`` and aliases older than ``alias_s``; return how many."""
        removed = self._records.sweep_drafts(FOLDERS, grace_s=grace_s, now=now)
        for name in self._records.names(ALIASES):
            place = f"{ALIASES}/{name}"
            written = self._records.modified(place)
            if written is not None and now - written > alias_s:
                self._records.delete(place)
                removed += 1
        return removed

    def _ids(self, folder: str) -> list[str]:
        names = {name.partition(".")[0] for name in self._records.names(folder)}
        return sorted(name for name in names if JOB_ID.fullmatch(name))

    def _record_once(
        self, place: str, record: dict[str, Any], valid: Callable[[dict[str, Any]], bool]
    ) -> dict[str, Any]:
        """Record a document; return it, or the one that exists."""
        if self._records.put_once(place, _bytes(record)):
            return record
        recorded = self._read(place, valid)
        if recorded is None:  # it was damaged since; this is the same one
            self._records.put_over(place, _bytes(record))
            return record
        return recorded

    def _read(self, place: str, valid: Callable[[dict[str, Any]], bool]) -> dict[str, Any] | None:
        """Read a record; None if there is none, or if it is damaged, which is logged."""
        content = self._records.get(place)
        if content is None:
            return None
        try:
            document = json.loads(content)
        except (ValueError, RecursionError):
            document = None
        if isinstance(document, dict) and valid(document):
            return document
        log.critical("the record %s is damaged and is passed over", place)
        return None


def _bytes(document: dict[str, Any]) -> bytes:
    return json.dumps(document, allow_nan=False).encode()


def _request(job_id: str) -> str:
    return f"{REQUESTS}/{checked(job_id)}.json"


def _batch(batch_id: str) -> str:
    return f"{BATCHES}/{checked(batch_id)}.json"


def _outcome(job_id: str) -> str:
    return f"{OUTCOMES}/{checked(job_id)}.json"


def _webhook(job_id: str) -> str:
    return f"{WEBHOOKS}/{checked(job_id)}.json"


def _pin(job_id: str) -> str:
    return f"{PINS}/{checked(job_id)}"


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
    return record.get("status") in ENDS and times and isinstance(record.get("error"), dict | None)


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
