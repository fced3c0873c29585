"""Pages for browsers: the start page, the API documentation and the kinds of problems."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi import Path as PathParameter
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from app.middleware.strict_bodies import StrictRoute
from app.problems.handlers import ProblemError
from app.problems.types import NOT_FOUND, PROBLEM_TYPES, ProblemType
from app.responses.negotiation import preferred_type
from app.schemas import ProblemTypeList, ProblemTypeView
from model.formats import FORMATS

router = APIRouter(route_class=StrictRoute)

SHOWN = "stl"  # the format that the start page asks for at first: its viewer shows it
WEB = Path(__file__).parent.parent / "web"
Accept = Annotated[str | None, Header(include_in_schema=False, max_length=1000)]


@router.get("/", include_in_schema=False)
@router.head("/", include_in_schema=False)
def start_page() -> Response:
    """Serve the start page, which offers every format of the table."""
    text = (WEB / "index.html").read_text(encoding="utf-8")
    boxes = "\n        ".join(
        f'<label><input type="checkbox" name="formats" value="{row.name}"{" checked" if row.name == SHOWN else ""}> '
        f"{html.escape(row.title)}</label>"
        for row in FORMATS.values()
    )
    return HTMLResponse(text.replace("{{formats}}", boxes), headers={"Cache-Control": "no-cache"})


@router.get("/docs", include_in_schema=False)
@router.head("/docs", include_in_schema=False)
def documentation() -> Response:
    """Serve Swagger UI; all its files come from this service."""
    return FileResponse(WEB / "docs.html", headers={"Cache-Control": "no-cache"})


@router.get("/favicon.ico", include_in_schema=False)
def icon() -> Response:
    """Serve the icon that browsers request by themselves."""
    return FileResponse(WEB / "static" / "icon.svg", media_type="image/svg+xml")


@router.get(
    "/problems",
    operation_id="listProblems",
    response_description="The kinds of problem, ordered by status and code.",
    summary="List the kinds of problem",
    tags=["problems"],
    response_model=ProblemTypeList,
)
def list_problems(accept: Accept = None) -> Response:
    """Return the documentation of all kinds of problem: a page for browsers, JSON for programs."""
    kinds = sorted(PROBLEM_TYPES.values(), key=lambda kind: (kind.status, kind.code))
    if _wants_page(accept):
        return _page("Problems", "".join(_section(kind, linked=True) for kind in kinds))
    return _json(ProblemTypeList(problems=[_view(kind) for kind in kinds]))


@router.get(
    "/problems/{slug}",
    operation_id="getProblem",
    response_description="The kind of problem.",
    summary="Show one kind of problem",
    tags=["problems"],
    response_model=ProblemTypeView,
)
def get_problem(
    slug: Annotated[str, PathParameter(max_length=64, examples=["too-large"])], accept: Accept = None
) -> Response:
    """Return what one kind of problem means and what to do about it."""
    kind = PROBLEM_TYPES.get(slug.replace("_", "-"))
    if kind is None:
        raise ProblemError(NOT_FOUND, "there is no problem of this kind; GET /problems lists all kinds")
    return _page(kind.title, _section(kind, linked=False)) if _wants_page(accept) else _json(_view(kind))


def _wants_page(accept: str | None) -> bool:
    return preferred_type(accept, ("application/json", "text/html")) == "text/html"


def _view(kind: ProblemType) -> ProblemTypeView:
    return ProblemTypeView(**kind.document())


def _json(view: ProblemTypeView | ProblemTypeList) -> Response:
    return JSONResponse(view.model_dump(mode="json"), headers={"Vary": "Accept"})


def _section(kind: ProblemType, *, linked: bool) -> str:
    title = html.escape(kind.title)
    head = f'<h2><a href="{kind.uri}">{title}</a></h2>' if linked else f"<h1>{title}</h1>"
    codes = f"<p class='codes'>HTTP {kind.status} · <code>{kind.code}</code> · <code>{kind.uri}</code></p>"
    return f"<section>{head}{codes}<p>{html.escape(kind.help)}</p></section>"


def _page(title: str, content: str) -> Response:
    heading = "<h1>Problems</h1>" if title == "Problems" else ""
    text = (WEB / "problems.html").read_text(encoding="utf-8")
    text = text.replace("{{title}}", html.escape(title)).replace("{{content}}", heading + content)
    return HTMLResponse(text, headers={"Vary": "Accept"})
