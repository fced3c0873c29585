"""The reference pages that are made from the code: settings and command lines.

``python tests/reference_pages.py`` writes them; :mod:`test_reference_pages` compares.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import typer

ROOT = Path(__file__).parents[1]
SETTINGS = ROOT / "docs" / "reference" / "settings.md"
COMMANDS = ROOT / "docs" / "reference" / "command-line.md"

SETTINGS_HEAD = """# Settings

Settings are environment variables; a file `.env` in the working folder is read too, and the environment takes
precedence. An empty variable means unset. `.env.example` lists the same with comments. Settings that web and worker
share must have the same value for both; `cytosynth serve` sees to that.

| Variable | Default | Read by | Meaning |
|---|---|---|---|
"""

COMMANDS_HEAD = """# Command line

Two commands: `cytosynth` runs and uses a service, `python -m model` trains and uses models without one. `--help` of
each command shows the same as this page.

Exit codes of `cytosynth`: 0 success, 1 the job failed, 2 the request is wrong, 3 no service answers. Exit codes of
`python -m model`: 0 success, 1 a problem was found, 2 arguments are wrong or a file cannot be read.
"""


def settings_page() -> str:
    """Return the page of all settings."""
    from app.settings import AppSettings
    from worker.settings import WorkerSettings

    rows: dict[str, tuple[str, str, str]] = {}
    for reader, settings in (("web", AppSettings), ("worker", WorkerSettings)):
        for name, field in settings.model_fields.items():
            default = (
                "unset" if field.default is None else "" if field.default_factory else f"`{_shown(field.default)}`"
            )
            known = rows.get(name)
            readers = f"{known[1]}, {reader}" if known else reader
            rows[name] = (default, readers, known[2] if known else str(field.description))
    lines = (f"| `CYTOSYNTH_{name.upper()}` | {d} | {r} | {text} |" for name, (d, r, text) in sorted(rows.items()))
    return SETTINGS_HEAD + "\n".join(lines) + "\n"


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def command_line_page() -> str:
    """Return the page of all commands and their options."""
    from app.cli.commands import cli as cytosynth
    from model.__main__ import cli as model

    text = COMMANDS_HEAD
    for name, program in (("cytosynth", cytosynth), ("python -m model", model)):
        text += f"\n## {name}\n"
        for title, command in _commands(name, typer.main.get_command(program)):
            text += f"\n### {title}\n\n{_sentence(command.help)}\n{_parameters(command)}"
    return text


def _commands(name: str, command: Any) -> Iterator[tuple[str, Any]]:
    for word, sub in command.commands.items():
        title = f"{name} {word}"
        if hasattr(sub, "commands"):
            yield from _commands(title, sub)
        else:
            yield title, sub


def _parameters(command: Any) -> str:
    rows = []
    for parameter in command.params:
        if parameter.name == "help" or getattr(parameter, "hidden", False):
            continue
        words = [f"`{parameter.name}`"]
        if parameter.param_type_name == "option":
            words = [f"`{word}`" for word in (*parameter.opts, *parameter.secondary_opts)]
        default = parameter.default
        plain = isinstance(default, str | int | float) and not isinstance(default, bool) and default != ""
        given = f" Default: `{default}`." if plain else ""
        rows.append(f"| {', '.join(words)} | {_sentence(getattr(parameter, 'help', '') or '')}{given} |")
    return "\n| | |\n|---|---|\n" + "\n".join(rows) + "\n" if rows else ""


def _sentence(text: str | None) -> str:
    plain = re.sub(r"\s+", " ", click.unstyle(text or "")).strip().replace("|", "\\|").replace(str(Path.home()), "~")
    return plain if not plain or plain.endswith((".", "!", "…")) else plain + "."


def main() -> None:
    """Write both pages."""
    sys.path.insert(0, str(ROOT))
    SETTINGS.write_text(settings_page(), encoding="utf-8")
    COMMANDS.write_text(command_line_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
