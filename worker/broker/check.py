"""The check that a configured Redis server keeps what it is given: append-only file, no eviction, no replica."""

from __future__ import annotations

import contextlib
from typing import Any

import redis

from worker.broker.urls import redis_url, without_password
from worker.errors import BrokerAwayError, BrokerError


def check_server(url: str) -> None:
    """Refuse a server that may lose jobs.

    Raises
    ------
    BrokerAwayError
        If it does not answer.
    BrokerError
        If it keeps no append-only file, may evict keys or is a read-only replica.
    """
    try:
        with contextlib.closing(
            redis.Redis.from_url(redis_url(url), socket_timeout=5.0, decode_responses=True)
        ) as client:
            # INFO rather than CONFIG GET, which managed servers forbid.
            facts: dict[str, Any] = {
                **client.info("persistence"),
                **client.info("memory"),
                **client.info("replication"),
            }
    except (redis.RedisError, OSError, ValueError) as error:
        raise BrokerAwayError(f"the broker at {without_password(url)} does not answer: {error}") from error
    policy = facts.get("maxmemory_policy", "noeviction")
    if not facts.get("aof_enabled"):
        raise BrokerError("the broker keeps its data in memory only and may lose jobs; start it with `appendonly yes`")
    if policy != "noeviction":
        raise BrokerError(f"the broker may evict jobs (maxmemory-policy {policy}); set `maxmemory-policy noeviction`")
    if facts.get("role", "master") not in ("master", "primary"):
        raise BrokerError("the broker is a read-only replica; CYTOSYNTH_REDIS_URL must name the primary")
