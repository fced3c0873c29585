"""The rules of the house that a program can check; ARCHITECTURE.md gives the reasons.

Layering is checked by import-linter and style by ruff, both in `make check`; what is here they cannot see.
"""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("app", "worker", "model")
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])

NUMERICAL = frozenset(
    {"torch", "numpy", "scipy", "skimage", "trimesh", "tifffile", "numba", "matplotlib", "PIL", "safetensors"}
)
KINDS = ROOT / "worker" / "kinds"
RUNNERS = [path for path in KINDS.glob("*.py") if path.name not in ("__init__.py", "base.py", "table.py")]
LIGHT = [
    path
    for path in SOURCES
    if path.is_relative_to(ROOT / "app")
    or (path.is_relative_to(ROOT / "worker") and path not in RUNNERS)
    or path in [ROOT / "model" / name for name in ("__init__.py", "errors.py", "spec.py", "card.py")]
    or path == ROOT / "model" / "output" / "contents.py"
]


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


@cache
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


# ------------------------------------------------------------------------------------------------------------- layering


def test_importing_the_web_application_loads_no_numerical_library() -> None:
    loaded = loaded_after("import app.main, app.cli.commands")
    assert not loaded & NUMERICAL


def test_importing_the_workers_parent_loads_no_numerical_library() -> None:
    # It forks the computing process; a device touched before the fork is broken after it.
    loaded = loaded_after(
        "import worker.celery_app, worker.liveness.housekeeping, worker.jobs, worker.storage.artifacts, "
        "worker.broker.embedded, worker.execution, worker.kinds.table"
    )
    assert not loaded & NUMERICAL


def test_importing_the_light_half_of_the_library_loads_no_numerical_library() -> None:
    assert not loaded_after("import model.errors, model.spec, model.card") & NUMERICAL


def loaded_after(statement: str) -> set[str]:
    """Return the top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


@pytest.mark.parametrize("path", LIGHT, ids=named)
def test_light_files_never_name_a_numerical_library(path: Path) -> None:
    assert not imported_by(path) & NUMERICAL


def imported_by(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.partition(".")[0])
    return found


def test_only_domain_converts_between_indices_and_coordinates() -> None:
    conversion = re.compile(r"linspace\(\s*-\s*1")
    # Phantoms are written in coordinates from the start: they sample τ to check themselves and have no indices. The
    # renderer's pixels lie on a screen, not in Ω.
    others = {
        "model/domain.py",
        "model/rendering/render.py",
        *(named(path) for path in (ROOT / "model/phantoms").glob("*.py")),
    }
    converters = {named(path) for path in SOURCES if conversion.search(path.read_text(encoding="utf-8"))}
    assert converters - others == set()


# ---------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_no_variable_is_called_model(path: Path) -> None:
    # `model` is a package. A member of a record may bear the name, because the API does.
    assert [line for name, line in variables(tree_of(path)) if name == "model"] == []


def variables(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield the names that a file binds, without the annotated members of classes."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    members = {id(member.target) for cls in classes for member in cls.body if isinstance(member, ast.AnnAssign)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and id(node) not in members:
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def test_nothing_is_called_utils() -> None:
    shapeless = {"utils", "util", "helpers", "helper", "common", "misc"}
    offenders = [
        named(path)
        for folder in (*PACKAGES, "tests", "benchmarks")
        for path in (ROOT / folder).rglob("*")
        if path.stem in shapeless
    ]
    assert offenders == []


def test_no_folder_grows_beyond_sight() -> None:
    # About a dozen files a folder; 16 leaves room for work in progress. Two hold one file a format, or one a resource.
    counts = Counter(named(path.parent) for path in SOURCES)
    one_file_each = {"model/export", "app/routes"}
    assert {folder: count for folder, count in counts.items() if count > 16 and folder not in one_file_each} == {}


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_packages_do_not_print(path: Path) -> None:
    calls = (node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call))
    assert [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"] == []


@pytest.mark.parametrize("path", SOURCES, ids=named)
def test_every_module_says_what_it_is_for(path: Path) -> None:
    assert ast.get_docstring(tree_of(path))


# --------------------------------------------------------------------------------------------------------------- errors


def test_every_error_has_its_own_code_and_says_what_it_means() -> None:
    for path in LIGHT:
        if path.name == "errors.py":
            importlib.import_module(module_name(path))
    from model.errors import CytosynthError

    classes = [CytosynthError, *descendants(CytosynthError)]
    codes = Counter(cls.code for cls in classes)
    assert [code for code, count in codes.items() if count > 1] == []
    assert [cls.__name__ for cls in classes if "code" not in vars(cls)] == []
    assert [cls.__name__ for cls in classes if not vars(cls).get("__doc__")] == []
    assert [code for code in codes if not re.fullmatch(r"[a-z]+(_[a-z]+)*", code)] == []


def descendants(cls: type[Any]) -> Iterator[type[Any]]:
    for child in cls.__subclasses__():
        yield child
        yield from descendants(child)


# ------------------------------------------------------------------------------------------------------------- settings


def test_the_example_settings_are_those_that_exist_with_their_defaults() -> None:
    from app.settings import AppSettings
    from worker.settings import WorkerSettings

    listed = example_settings()
    existing = {f"CYTOSYNTH_{name.upper()}" for cls in (AppSettings, WorkerSettings) for name in cls.model_fields}
    of_compose = {"REDIS_PASSWORD", "TORCH_INDEX", "CYTOSYNTH_PUBLISH"}
    assert set(listed) == existing | of_compose

    for cls in (AppSettings, WorkerSettings):
        names = {name: f"CYTOSYNTH_{name.upper()}" for name in cls.model_fields}
        given = {name: listed[variable] for name, variable in names.items() if listed[variable]}
        defaults = cls(_env_file=None)
        assert cls(_env_file=None, **given) == defaults  # type: ignore[arg-type]


def example_settings() -> dict[str, str]:
    """Return the variables of .env.example, commented out or not."""
    text = (ROOT / ".env.example").read_text(encoding="utf-8")
    return dict(re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", text, flags=re.MULTILINE))


def test_settings_that_web_and_worker_share_mean_the_same() -> None:
    from app.settings import AppSettings
    from worker.settings import WorkerSettings

    ours, theirs = AppSettings(_env_file=None), WorkerSettings(_env_file=None)
    shared = set(AppSettings.model_fields) & set(WorkerSettings.model_fields)
    assert {name: getattr(ours, name) for name in shared} == {name: getattr(theirs, name) for name in shared}


def test_only_settings_files_read_the_environment() -> None:
    offenders = [
        f"{named(path)}:{node.lineno}"
        for path in SOURCES
        if path.name != "settings.py"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr in ("environ", "getenv")
    ]
    assert offenders == []


# ------------------------------------------------------------------------------------------------------------ packaging


def test_versions_agree() -> None:
    import model

    assert model.__version__ == project()["project"]["version"] == client_project()["version"]
    text = (ROOT / "client/src/cytosynth/__init__.py").read_text(encoding="utf-8")
    assert f'__version__ = "{model.__version__}"' in text


def test_what_the_client_requires_the_web_image_holds() -> None:
    # The service does not name the client as a requirement: an index may have another package of that name.
    assert set(client_project()["dependencies"]) <= set(project()["project"]["optional-dependencies"]["app"])


def client_project() -> dict[str, Any]:
    declared: dict[str, Any] = tomllib.loads((ROOT / "client/pyproject.toml").read_text(encoding="utf-8"))["project"]
    return declared


def test_every_folder_with_code_is_a_package() -> None:
    # setuptools installs no folder without __init__.py, and nobody notices until the image starts.
    folders = {path.parent for path in SOURCES}
    assert [named(folder) for folder in folders if not (folder / "__init__.py").is_file()] == []


def test_every_requirement_is_pinned() -> None:
    declared = project()["project"]
    required = [line for lines in declared["optional-dependencies"].values() for line in lines]
    required += declared["dependencies"]
    names = {normal(re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0]) for line in required} - {"cytosynth-service"}
    assert names - set(pins()) == set()


def test_pins_are_exact_and_name_no_place() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    loose = [line for line in lines if not re.fullmatch(r"#.*|[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*", line)]
    assert loose == []


def pins() -> dict[str, str]:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return {normal(name): version for name, version in re.findall(r"^([\w.-]+)==(.+)$", text, flags=re.MULTILINE)}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_test_folders_are_no_packages_and_test_files_have_names_of_their_own() -> None:
    files = sorted((ROOT / "tests").rglob("*.py"))
    assert [named(path) for path in files if path.name == "__init__.py"] == []
    counts = Counter(path.name for path in files if path.name != "conftest.py")
    assert [name for name, count in counts.items() if count > 1] == []


# -------------------------------------------------------------------------------------------------------- documentation


def test_the_changelog_has_an_unreleased_section() -> None:
    assert re.search(r"^## \[?Unreleased\]?", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)


def test_files_that_are_run_first_exist() -> None:
    text = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
    assert [name for name in re.findall(r'"(tests/[^"]+)"', text) if not (ROOT / name).is_file()] == []


def test_every_make_verb_is_explained() -> None:
    verbs = set(re.findall(r"^\.PHONY: (.+)$", makefile(), flags=re.MULTILINE))
    explained = set(re.findall(r"^([a-z-]+):.*## ", makefile(), flags=re.MULTILINE))
    assert verbs == explained


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_make_verbs_in_documents_exist(path: Path) -> None:
    verbs = set(re.findall(r"^([a-z-]+):.*## ", makefile(), flags=re.MULTILINE))
    text = path.read_text(encoding="utf-8")
    used = {verb for span in code_of(text) for verb in re.findall(r"\bmake ([a-z][a-z-]*)", span)}
    assert used - verbs == set()


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_links_in_documents_resolve(path: Path) -> None:
    text = re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'src="([^"]+)"', text):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        place = (path.parent / file).resolve() if file else path
        if not place.exists() or (anchor and place.suffix == ".md" and anchor not in anchors(place)):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_files_named_in_documents_exist(path: Path) -> None:
    places = re.compile(r"(?:app|worker|model|tests|benchmarks|docs|docker|\.ci)/[\w./-]*\w")
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL))
    assert [span for span in spans if places.fullmatch(span) and not (ROOT / span).exists()] == []


@pytest.mark.parametrize("path", DOCUMENTS, ids=named)
def test_paths_and_modules_named_anywhere_in_documents_exist(path: Path) -> None:
    """In running text, code and command lines; placeholders in capitals are left out."""
    text = path.read_text(encoding="utf-8")
    places = re.findall(r"(?<![\w./:-])(?:app|worker|model|tests|benchmarks|docs|docker|\.ci)/[\w./-]*\w", text)
    missing = [place for place in places if not re.search("[A-Z]{3,}", place) and not (ROOT / place).exists()]
    missing = [place for place in missing if not list(ROOT.glob(place + ".*"))]  # a module, without its ending
    modules = re.findall(r"python -m ([a-z][\w.]*\w)", text)
    own = [name for name in modules if name.split(".")[0] in {"app", "worker", "model", "benchmarks"}]
    for name in own:
        file = ROOT / name.replace(".", "/")
        if not (file.with_suffix(".py").is_file() or (file / "__main__.py").is_file()):
            missing.append(f"python -m {name}")
    for module, command in re.findall(r"python -m (model) ([a-z][a-z-]+)", text):
        if command not in commands_of_the_library():
            missing.append(f"python -m {module} {command}")
    assert missing == []


def commands_of_the_library() -> set[str]:
    """Names of the commands of ``python -m model``, from the reference page, which a test compares with the code."""
    text = (ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    return set(re.findall(r"^### python -m model ([a-z-]+)", text, flags=re.MULTILINE))


def makefile() -> str:
    return (ROOT / "Makefile").read_text(encoding="utf-8")


def code_of(markdown: str) -> list[str]:
    """Return the fenced blocks and the inline code of a document."""
    blocks = re.findall(r"```.*?```", markdown, flags=re.DOTALL)
    return [*blocks, *re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", markdown, flags=re.DOTALL))]


def anchors(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as hosting sites derive them."""
    headings = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
