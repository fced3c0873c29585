"""How the interface holds up while many clients ask at once: ``python -m benchmarks.load --clients 500``.

Every client asks for a small job, sleeps for as long as the answer says if it is refused, else for a second on average,
and asks again. Beside them one client looks at ``/livez`` and ``/readyz`` twenty times a second. Without ``--server``
a service is started for the duration, and its worker is given more to do than it can.

``--connections 20000`` sends clients of another kind instead: each opens a connection, sends nothing or half a head,
and holds it until the server ends it. Only loopback addresses are allowed for these.

Prints a table and writes ``out/load/summary.json``. It speaks HTTP over plain sockets, because what is measured shares
the machine with what measures.
"""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import json
import random
import resource
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from app.cli.private_service import private_service
from app.settings import AppSettings, child_environment

SUMMARY = Path("out/load/summary.json")
THINK_S = 1.0  # on average, between two requests of one client
PROBE_S = 0.05
IDLE_S = 4.0  # servers hang up on connections that are idle for longer
QUIET = frozenset({429, 503})  # the only refusals that overload may cause


@dataclass
class Seen:
    """What came back."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    statuses: Counter[int] = field(default_factory=Counter)
    without_time: int = 0  # refusals that do not say when to come again
    broken: int = 0  # connections that ended before the answer


@dataclass(frozen=True)
class Answer:
    """Status and headers; bodies are read and forgotten."""

    status: int
    headers: dict[str, str]


class Line:
    """One connection, kept open."""

    def __init__(self, host: str, port: int, *, key: str | None) -> None:
        self._place, self._key, self._used = (host, port), key, 0.0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, method: str, path: str, body: bytes = b"") -> Answer:
        """Send a request and read the whole answer."""
        if time.monotonic() - self._used > IDLE_S:
            self.close()
        self._used = time.monotonic()
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(*self._place)
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._place[0]}:{self._place[1]}\r\n"
        head += f"Authorization: Bearer {self._key}\r\n" if self._key else ""
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n" if body else "\r\n"
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        await self._reader.readexactly(int(headers.get("content-length", "0")))
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(lines[0].split(" ")[1]), headers)

    def close(self) -> None:
        """Hang up."""
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


async def client(line: Line, seen: Seen, *, until: float, spec: dict[str, object], rng: random.Random) -> None:
    """Ask again and again, as a well-behaved pipeline does."""
    await asyncio.sleep(rng.uniform(0.0, 2.0 * THINK_S))
    while time.monotonic() < until:
        body = json.dumps({**spec, "seed": rng.getrandbits(53)}).encode()
        begun = time.monotonic()
        try:
            answer = await line.ask("POST", "/v1/generations", body)
        except (OSError, asyncio.IncompleteReadError):
            seen.broken += 1
            line.close()
            await asyncio.sleep(1.0)
            continue
        seen.seconds["POST"].append(time.monotonic() - begun)
        seen.statuses[answer.status] += 1
        pause = rng.uniform(0.0, 2.0 * THINK_S)
        if answer.status in QUIET:
            seen.without_time += "retry-after" not in answer.headers
            pause = float(answer.headers.get("retry-after", "1"))
        await asyncio.sleep(min(pause, max(0.0, until - time.monotonic())))
    line.close()


async def probe(line: Line, seen: Seen, *, until: float) -> None:
    """Look at the health of the service all the while."""
    while time.monotonic() < until:
        for path in ("/livez", "/readyz"):
            begun = time.monotonic()
            await line.ask("GET", path)
            seen.seconds[path].append(time.monotonic() - begun)
        await asyncio.sleep(PROBE_S)
    line.close()


async def saturate(line: Line, *, jobs: int) -> None:
    """Give the workers work for the whole run."""
    spec = {"model": "celegans", "frames": 200, "grid": 64, "formats": ["stl"]}
    for seed in range(jobs):
        answer = await line.ask("POST", "/v1/generations", json.dumps({**spec, "seed": seed}).encode())
        if answer.status not in (200, 202):
            raise SystemExit(f"the service does not take work: {answer.status}")
    line.close()


def percentile(values: list[float], share: float) -> float:
    """Return a percentile in milliseconds."""
    ordered = sorted(values)
    return round(1000.0 * ordered[min(len(ordered) - 1, int(share * len(ordered)))], 1) if ordered else float("nan")


async def run(address: str, *, clients: int, seconds: float, key: str | None) -> Seen:
    """Send the crowd."""
    place = urlsplit(address)
    host, port = place.hostname or "127.0.0.1", place.port or 80
    seen = Seen()
    await saturate(Line(host, port, key=key), jobs=4)
    await asyncio.sleep(5.0)  # the worker has begun
    until = time.monotonic() + seconds
    spec: dict[str, object] = {"model": "celegans", "frames": 1, "grid": 16, "formats": ["stl"]}
    crowd = [
        client(Line(host, port, key=key), seen, until=until, spec=spec, rng=random.Random(number))
        for number in range(clients)
    ]
    await asyncio.gather(probe(Line(host, port, key=None), seen, until=until), *crowd)
    return seen


async def hold(host: str, port: int, *, number: int, until: float, ended: Counter[str]) -> None:
    """Open one connection, send nothing or half a head, and wait for the server to end it."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
    except OSError:
        ended["refused"] += 1
        return
    try:
        if number % 2:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Ha")
        async with asyncio.timeout(max(0.0, until - time.monotonic())):
            answer = await reader.read()
        ended["answered" if answer else "closed"] += 1
    except TimeoutError:
        ended["held to the end"] += 1
    except OSError:
        ended["reset"] += 1
    finally:
        writer.transport.abort()


async def probe_anew(line: Line, seen: Seen, *, until: float) -> None:
    """Look at the health of the service, each time by a new connection, as health checks do."""
    while time.monotonic() < until:
        for path in ("/livez", "/readyz"):
            begun = time.monotonic()
            try:
                async with asyncio.timeout(10.0):
                    await line.ask("GET", path)
            except (OSError, asyncio.IncompleteReadError):  # TimeoutError is an OSError
                seen.broken += 1
            else:
                seen.seconds[path].append(time.monotonic() - begun)
            line.close()
        await asyncio.sleep(PROBE_S)


async def flood(address: str, *, connections: int, seconds: float) -> tuple[Seen, Counter[str]]:
    """Open ``connections`` in the first half of the run, and hold them."""
    place = urlsplit(address)
    host, port = place.hostname or "127.0.0.1", place.port or 80
    if not ipaddress.ip_address(host).is_loopback:
        raise SystemExit("--connections is for a service on this machine: use a loopback address")
    seen, ended = Seen(), Counter[str]()
    until = time.monotonic() + seconds
    holders = []
    watch = asyncio.create_task(probe_anew(Line(host, port, key=None), seen, until=until))
    for number in range(connections):
        holders.append(asyncio.create_task(hold(host, port, number=number, until=until, ended=ended)))
        if number % 50 == 0:
            await asyncio.sleep(50 * seconds / 2 / connections)
    await asyncio.gather(watch, *holders)
    return seen, ended


def report_flood(address: str, arguments: argparse.Namespace) -> None:
    """Flood, and print what became of the connections and of the health checks."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    seen, ended = asyncio.run(flood(address, connections=arguments.connections, seconds=arguments.seconds))
    print(f"{arguments.connections} connections, {arguments.seconds:g} s: {dict(ended)}")
    for what, values in seen.seconds.items():
        p50, p99, most = (percentile(values, share) for share in (0.5, 0.99, 1.0))
        print(f"{what:8} {len(values):6} answers   p50 {p50:7} ms   p99 {p99:7} ms   max {most:7} ms")
    print(f"health checks without an answer: {seen.broken}")


def summary(seen: Seen, *, clients: int, seconds: float) -> dict[str, object]:
    """Put what was seen into figures."""
    latency = {
        what: {"count": len(values), "p50_ms": percentile(values, 0.5), "p99_ms": percentile(values, 0.99)}
        for what, values in sorted(seen.seconds.items())
    }
    odd = {status: count for status, count in seen.statuses.items() if status >= 400 and status not in QUIET}
    return {
        "clients": clients,
        "seconds": seconds,
        "latency": latency,
        "statuses": {str(status): count for status, count in sorted(seen.statuses.items())},
        "refusals_without_retry_after": seen.without_time,
        "other_errors": sum(odd.values()),
        "broken_connections": seen.broken,
    }


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--connections", type=int, choices=range(1, 50_001), metavar="N", help="hold N, send nothing")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--server", help="address of a running service; one is started if absent")
    parser.add_argument("--key", help="its key")
    parser.add_argument("--out", type=Path, default=SUMMARY)
    arguments = parser.parse_args()
    with ExitStack() as stack:
        address = arguments.server or stack.enter_context(private_service(child_environment(AppSettings())))
        if arguments.connections:
            report_flood(address, arguments)
            return
        seen = asyncio.run(run(address, clients=arguments.clients, seconds=arguments.seconds, key=arguments.key))
    figures = summary(seen, clients=arguments.clients, seconds=arguments.seconds)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    print(f"{arguments.clients} clients, {arguments.seconds:g} s")
    for what, values in seen.seconds.items():
        p50, p99, most = (percentile(values, share) for share in (0.5, 0.99, 1.0))
        print(f"{what:8} {len(values):6} answers   p50 {p50:7} ms   p99 {p99:7} ms   max {most:7} ms")
    print("answers by status:", dict(sorted(seen.statuses.items())), f"broken connections: {seen.broken}")
    print(f"refusals without Retry-After: {seen.without_time}; written to {arguments.out}")


if __name__ == "__main__":
    main()
