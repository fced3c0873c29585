"""The object store for a process that forks: another program uses it, and is asked through pipes.

The parent of a worker forks its computing process, again and again, and obstore does not survive a fork
(:mod:`worker.storage.objects`). The program ends when its input ends, so with the process that started it.

While it is being started, forks wait: a child that is forked in that moment would keep the pipes open by which the
parent hears that the program has begun, or has ended, and the parent would wait as long as that child lives.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, cast

from worker.errors import StoreUnavailableError
from worker.storage.objects import ObjectInfo, Objects, ObjectStore

_starting = threading.Lock()
os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_starting.release)


class ObjectProcess:
    """An :class:`~worker.storage.objects.ObjectStore` in another program, which the first request starts.

    Threads may share it; they are served one after another. A program that died is started again.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._program: subprocess.Popen[bytes] | None = None

    def close(self) -> None:
        """End the program."""
        with self._lock:
            self._end()

    def put_once(self, key: str, content: bytes) -> bool:
        """As :meth:`worker.storage.objects.ObjectStore.put_once`."""
        return bool(self._ask("put_once", key, content=content)[0])

    def put_over(self, key: str, content: bytes) -> None:
        """As :meth:`worker.storage.objects.ObjectStore.put_over`."""
        self._ask("put_over", key, content=content)

    def put_file(self, key: str, path: Path, *, name: str = "", media_type: str = "") -> None:
        """As :meth:`worker.storage.objects.ObjectStore.put_file`."""
        self._ask("put_file", key, str(path), name, media_type)

    def copy(self, source: str, target: str) -> None:
        """As :meth:`worker.storage.objects.ObjectStore.copy`."""
        self._ask("copy", source, target)

    def get(self, key: str) -> bytes | None:
        """As :meth:`worker.storage.objects.ObjectStore.get`."""
        found, content = self._ask("get", key)
        return content if found else None

    def head(self, key: str) -> ObjectInfo | None:
        """As :meth:`worker.storage.objects.ObjectStore.head`."""
        found = self._ask("head", key)[0]
        return ObjectInfo(**found) if found else None

    def read(self, key: str, first: int, stop: int) -> bytes:
        """As :meth:`worker.storage.objects.ObjectStore.read`."""
        return self._ask("read", key, first, stop)[1]

    def below(self, prefix: str) -> list[ObjectInfo]:
        """As :meth:`worker.storage.objects.ObjectStore.below`."""
        return [ObjectInfo(**info) for info in self._ask("below", prefix)[0]]

    def folders(self, prefix: str) -> list[str]:
        """As :meth:`worker.storage.objects.ObjectStore.folders`."""
        return list(self._ask("folders", prefix)[0])

    def delete(self, keys: Iterable[str]) -> None:
        """As :meth:`worker.storage.objects.ObjectStore.delete`."""
        self._ask("delete", list(keys))

    def url(self, key: str, *, seconds: float) -> str:
        """As :meth:`worker.storage.objects.ObjectStore.url`."""
        return str(self._ask("url", key, seconds)[0])

    def _ask(self, method: str, *args: Any, content: bytes = b"") -> tuple[Any, bytes]:
        """Return what a method returns, apart from bytes, and the bytes that it returns."""
        with self._lock:
            try:
                program = self._running()
                send(cast(BinaryIO, program.stdin), [method, *args], content)
                (state, value), answered = receive(cast(BinaryIO, program.stdout))
            except (OSError, EOFError, ValueError) as broken:
                self._end()
                raise StoreUnavailableError("the program that asks the object store has ended") from broken
        if state == "missing":
            raise FileNotFoundError(value)
        if state == "failed":
            raise StoreUnavailableError(value)
        return value, answered

    def _running(self) -> subprocess.Popen[bytes]:
        if self._program is None or self._program.poll() is not None:
            self._end()
            with _starting:
                self._program = subprocess.Popen(
                    [sys.executable, "-m", "worker.storage.object_process", self._url],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    start_new_session=True,  # a signal to the worker's group must not end it before the worker
                )
        return self._program

    def _end(self) -> None:
        if self._program is not None:
            for pipe in (self._program.stdin, self._program.stdout):
                if pipe is not None:
                    pipe.close()
            try:
                self._program.wait(2.0)
            except subprocess.TimeoutExpired:
                self._program.kill()
                self._program.wait()
            self._program = None


def send(pipe: BinaryIO, document: Any, content: bytes) -> None:
    """Write a JSON document, and bytes after it."""
    pipe.write(json.dumps([len(content), document]).encode() + b"\n" + content)
    pipe.flush()


def receive(pipe: BinaryIO) -> tuple[Any, bytes]:
    """Read what :func:`send` wrote; raises ``EOFError`` at the end."""
    line = pipe.readline()
    if not line:
        raise EOFError
    length, document = json.loads(line)
    content = pipe.read(length)
    if len(content) < length:
        raise EOFError
    return document, content


def serve(store: ObjectStore, requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until they end."""
    while True:
        try:
            (method, *args), content = receive(requests)
        except EOFError:
            return
        try:
            value, answered = _carry_out(store, method, args, content)
            send(answers, ["done", value], answered)
        except FileNotFoundError as error:
            send(answers, ["missing", str(error)], b"")
        except Exception as error:  # noqa: BLE001 - the asker raises it
            send(answers, ["failed", str(error)], b"")


def _carry_out(store: ObjectStore, method: str, args: list[Any], content: bytes) -> tuple[Any, bytes]:
    match method:
        case "put_once" | "put_over":
            return getattr(store, method)(*args, content), b""
        case "put_file":
            key, path, name, media_type = args
            store.put_file(key, Path(path), name=name, media_type=media_type)
            return None, b""
        case "get":
            found = store.get(*args)
            return found is not None, found or b""
        case "head":
            info = store.head(*args)
            return info and asdict(info), b""
        case "read":
            return None, store.read(*args)
        case "below":
            return [asdict(info) for info in store.below(*args)], b""
        case "url":
            key, seconds = args
            return store.url(key, seconds=seconds), b""
        case "copy" | "folders" | "delete":
            return getattr(store, method)(*args), b""
    raise ValueError(method)


if __name__ == "__main__":
    serve(Objects(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
