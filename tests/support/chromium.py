"""A headless Chromium, driven by the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import itertools
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench import eventually

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

# Chromium reads commands from descriptor 3 and writes answers to descriptor 4.
_LAUNCH = """
import os, sys
commands, answers = (os.dup(int(number)) for number in sys.argv[1:3])
high = [os.dup(commands) for _ in range(4)][-1], [os.dup(answers) for _ in range(4)][-1]
os.dup2(high[0], 3)
os.dup2(high[1], 4)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find() -> str | None:
    """Return the path of an installed Chromium."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class ProtocolError(Exception):
    """A command that the browser could not carry out."""


class Browser:
    """The connection; commands are answered in order of their ids, events are kept for each page."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = os.fdopen(commands, "wb", buffering=0)
        self._answers = os.fdopen(answers, "rb", buffering=0)
        self._ids = itertools.count(1)
        self._waiting: dict[int, queue.Queue[dict[str, Any]]] = {}
        self.events: dict[str, list[dict[str, Any]]] = {}
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        rest = b""
        while chunk := self._answers.read(1 << 16):
            *messages, rest = (rest + chunk).split(b"\0")
            for message in map(json.loads, messages):
                if "id" in message:
                    self._waiting.pop(message["id"]).put(message)
                else:
                    self.events.setdefault(message.get("sessionId", ""), []).append(message)

    def close(self) -> None:
        """Close the connection, once the browser has ended."""
        self._reader.join(10)
        self._commands.close()
        self._answers.close()

    def send(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        number = next(self._ids)
        answer = self._waiting[number] = queue.Queue()
        message = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        self._commands.write(json.dumps(message).encode() + b"\0")
        received = answer.get(timeout=30)
        if "error" in received:
            raise ProtocolError(method, received["error"])
        result: dict[str, Any] = received["result"]
        return result

    @contextmanager
    def page(self, address: str) -> Iterator[Page]:
        """Open a page with storage of its own."""
        context = self.send("Target.createBrowserContext")["browserContextId"]
        target = self.send("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable", session)
        page.go(address)
        yield page
        self.send("Target.disposeBrowserContext", browserContextId=context)


class Page:
    """One page."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.browser = browser
        self.session = session

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **params)

    def go(self, address: str) -> None:
        self.send("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """Evaluate an expression; a promise is awaited."""
        answer = self.send(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until an expression is true; while a document is replaced or incomplete, it is not."""
        script = f"(() => {{ try {{ return Boolean({condition}); }} catch {{ return false; }} }})()"

        def holds() -> bool:
            try:
                return bool(self.run(script))
            except ProtocolError:
                return False

        eventually(holds, within_s=15)

    def reload(self) -> None:
        self.run("window.isOld = true")
        self.send("Page.reload")
        self.until("!window.isOld && document.readyState === 'complete'")

    def text(self, selector: str) -> str:
        return str(self.run(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''"))

    def fill(self, **values: str) -> None:
        """Enter values into fields as a person does: each with an event."""
        for name, value in values.items():
            self.run(
                f"(() => {{ const field = document.getElementById({json.dumps(name)}); "
                f"field.value = {json.dumps(value)}; "
                "field.dispatchEvent(new Event('input', {bubbles: true})); })()"
            )

    def click(self, selector: str) -> None:
        self.run(f"document.querySelector({json.dumps(selector)}).click()")

    def complaints(self) -> list[str]:
        """Return what the console shows as errors, exceptions included."""
        found = []
        for event in self.browser.events.get(self.session, []):
            params = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(params["exceptionDetails"]))
            elif event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
                found.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        return found

    def picture(self, path: Path, *, width: int, height: int = 900, dark: bool = False, whole: bool = False) -> None:
        """Write a screenshot."""
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self.run("new Promise((done) => setTimeout(done, 300))")
        data = self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def started(program: str, profile: Path) -> Iterator[Browser]:
    """Run a browser with a profile of its own."""
    commands, write = os.pipe()
    read, answers = os.pipe()
    options = [
        "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={profile}", "--no-sandbox", "--no-first-run",
        "--disable-dev-shm-usage", "--disable-background-networking", "--use-angle=swiftshader",
        "--enable-unsafe-swiftshader", "--window-size=1280,900",
    ]  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", _LAUNCH, str(commands), str(answers), program, *options],
        pass_fds=(commands, answers), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(commands)
    os.close(answers)
    browser = Browser(write, read)
    try:
        yield browser
    finally:
        process.kill()
        process.wait()
        browser.close()
