"""Broker URLs as redis-py and as Celery spell them, and without the password for messages."""

from __future__ import annotations

from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit


def redis_url(url: str) -> str:
    """Return the URL as redis-py spells it: ``redis+socket://`` becomes ``unix://``."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis+socket", "unix"):
        return url
    query = {"virtual_host": "db"}
    return _socket_url("unix", parts.path, {query.get(k, k): v for k, v in parse_qsl(parts.query)})


def celery_url(url: str) -> str:
    """Return the URL as Celery spells it: ``unix://`` becomes ``redis+socket://``."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis+socket", "unix"):
        return url
    query = {"db": "virtual_host"}
    return _socket_url("redis+socket", parts.path, {query.get(k, k): v for k, v in parse_qsl(parts.query)})


def _socket_url(scheme: str, path: str, query: dict[str, str]) -> str:
    tail = f"?{urlencode(query)}" if query else ""
    return f"{scheme}://{quote(unquote(path))}{tail}"


def without_password(url: str) -> str:
    """Return the URL with its password replaced, for logs and messages."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
