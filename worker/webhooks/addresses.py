"""Which addresses a webhook may have: https, and no host of a private network.

Promises: :func:`resolve` returns one checked address, to which the connection is made; the name is not resolved again.
Does not promise: that a public address belongs to the caller.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlsplit

from worker.errors import SpecError

URL_MAX = 2000
# A host name or an IPv4 address; the rest is printable ASCII. No user, no fragment.
URL_PATTERN = r'^https?://[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?(:[1-9][0-9]{0,4})?(/[!"$-~]*)?$'
PORTS = {"https": 443, "http": 80}
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
Resolver = Callable[..., Sequence[tuple[Any, ...]]]
"""As ``socket.getaddrinfo``."""


class AddressRefusedError(OSError):
    """The host of a webhook has no address, or one that is not allowed."""


def check_url(url: str, *, allow_http: bool) -> str:
    """Return the address of a webhook, if it may be one.

    Raises
    ------
    SpecError
        If it is not https (or http, where that is allowed), or is no address at all.
    """
    if not re.fullmatch(URL_PATTERN, url) or len(url) > URL_MAX:
        raise SpecError("webhook must be an https address with a host name, without user and fragment")
    parts = urlsplit(url)
    if parts.scheme != "https" and not allow_http:
        raise SpecError("webhook must be an https address")
    if int(url.partition("://")[2].partition("/")[0].partition(":")[2] or 0) > 65535:
        raise SpecError("the port of webhook must be at most 65535")
    return url


def resolve(host: str, port: int, *, allow_private: bool, resolver: Resolver = socket.getaddrinfo) -> tuple[str, int]:
    """Return the address and port to connect to.

    Raises
    ------
    AddressRefusedError
        If the name has no address, or if any of its addresses is not a public one.
    """
    try:
        found = resolver(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        raise AddressRefusedError(f"{host} has no address: {error}") from error
    addresses = [str(sockaddr[0]) for *_, sockaddr in found]
    if not addresses:
        raise AddressRefusedError(f"{host} has no address")
    if not allow_private and not all(is_public(address) for address in addresses):
        raise AddressRefusedError(f"{host} is not a public address")
    return addresses[0], port


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet, also where an IPv6 address stands for an IPv4 one."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved
