"""Validation errors in words: where, and what is allowed there; never what the client sent."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_SENTENCES = {
    "missing": "is required",
    "extra_forbidden": "is unknown; remove it (/docs lists the members)",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be greater than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
    "finite_number": "must be a finite number",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "union_tag_invalid": "must have a {discriminator} out of {expected_tags}",
    "union_tag_not_found": "must have a member {discriminator}",
    "string_pattern_mismatch": "must match {pattern}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "too_long": "must have at most {max_length} entries",
    "too_short": "must have at least {min_length} entries",
    "int_type": "must be an integer",
    "int_parsing": "must be an integer",
    "int_from_float": "must be an integer",
    "int_parsing_size": "must be a smaller integer",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "string_type": "must be a string",
    "bool_type": "must be true or false",
    "list_type": "must be an array",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "repeated": "is given more than once; give it once",
    "value_error": "{error}",
}


def issues_of(errors: Sequence[Mapping[str, Any]], body: Any) -> Iterator[dict[str, str]]:
    """Turn pydantic's errors into entries of ``errors``.

    A member with alternatives (such as an integer or a list of three) has one error for each alternative. Errors that
    only name a type are dropped if the error of another alternative is more specific.
    """
    found: dict[str, list[tuple[bool, dict[str, str]]]] = {}
    for error in errors:
        where, *path = error["loc"]
        if where == "body":
            place = {"pointer": _pointer(path, body, missing=error["type"] == "missing")}
        else:
            place = {"parameter": _clip(str(path[0])) if path else "", "in": str(where)}
        detail = _sentence(error)
        vague = error["type"].endswith("_type") or error["type"] == "literal_error"
        found.setdefault(json.dumps(place), []).append((vague, {**place, "detail": detail}))
    inner = {_pointer(error["loc"][1:], body, missing=False).rpartition("/")[0] for error in errors}
    for entries in found.values():
        if entries[0][1].get("pointer") in inner and all(vague for vague, _ in entries) and len(found) > 1:
            continue
        telling = [entry for vague, entry in entries if not vague] or [entry for _, entry in entries]
        seen = list(dict.fromkeys(entry["detail"] for entry in telling))
        yield {**telling[0], "detail": "; or ".join(seen)}


def _pointer(path: Sequence[str | int], body: Any, *, missing: bool) -> str:
    """Return the RFC 6901 pointer of a pydantic location, without the names of alternatives that it contains."""
    parts: list[str] = []
    for step, part in enumerate(path):
        known = part in body if isinstance(body, dict) else isinstance(body, list) and part in range(len(body))
        if known:
            body = body[part]
        elif not (missing and step == len(path) - 1):
            continue
        parts.append(_clip(str(part)).replace("~", "~0").replace("/", "~1"))
    return "".join(f"/{part}" for part in parts)


def _clip(text: str) -> str:
    return text if len(text) <= 100 else text[:100] + "…"


def _sentence(error: Mapping[str, Any]) -> str:
    """Say what is allowed, from the kind of the error and its bounds."""
    template = _SENTENCES.get(error["type"])
    if template is None:
        return "is not allowed"
    return template.format(**{name: str(value) for name, value in error.get("ctx", {}).items()})
