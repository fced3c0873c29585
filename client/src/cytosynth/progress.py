"""A progress bar of one line for terminals, without further libraries."""

from __future__ import annotations

from typing import Any, TextIO

WIDTH = 30  # characters of the bar


class ProgressBar:
    """Shows how far a job is.

    Parameters
    ----------
    stream
        A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._shown = stream, 0

    def show(self, event: str, data: dict[str, Any]) -> None:
        """Show an event of a job."""
        if event == "state":
            self._write(data["state"])
        elif event == "progress":
            done = round(WIDTH * data["fraction"])
            parts = [f"[{'#' * done}{'.' * (WIDTH - done)}] {100 * data['fraction']:3.0f} %", data["stage"]]
            if data.get("frames"):
                parts.append(f"{data['frame']} of {data['frames']}")
            parts += [f"{name} {data[name]:.4f}" for name in ("loss", "dice") if data.get(name) is not None]
            if data.get("eta_s"):
                parts.append(f"{data['eta_s']:.0f} s left")
            self._write("  ".join(parts))

    def clear(self) -> None:
        """Remove the line."""
        self._write("")
        self._stream.write("\r")
        self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write("\r" + text.ljust(self._shown))
        self._stream.flush()
        self._shown = len(text)
