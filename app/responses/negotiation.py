"""Content negotiation (RFC 9110 §12): which of several offers a request prefers, by its weights."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

WEIGHT = re.compile(r"0(\.\d{0,3})?|1(\.0{0,3})?", re.ASCII)


def weighted(header: str | None) -> Iterator[tuple[str, float]]:
    """Yield the values of a header such as Accept, in lower case, with their weights: 1 if none is given.

    A value keeps its parameters other than ``q``. A value with a malformed weight has the weight 0.
    """
    for part in (header or "").split(","):
        name, *parameters = (piece.strip().lower() for piece in part.split(";"))
        weight, kept = 1.0, [name]
        for parameter in parameters:
            key, _, number = parameter.partition("=")
            if key.strip() != "q":
                kept.append(parameter)
            else:
                weight = float(number) if WEIGHT.fullmatch(number := number.strip()) else 0.0
        if name:
            yield ";".join(kept), weight


def preferred_type(accept: str | None, offers: Sequence[str]) -> str | None:
    """Return the media type that an Accept header prefers (RFC 9110 §12.5.1).

    Parameters
    ----------
    offers
        Media types without parameters. Among equally preferred types the first is chosen; without the header all are.

    Returns
    -------
    str or None
        None if the header accepts none of the offers.
    """
    ranges = dict(weighted(accept)) or {"*/*": 1.0}

    def weight(offer: str) -> float:
        # The most specific range counts, not the heaviest.
        found = (ranges[name] for name in (offer, offer.partition("/")[0] + "/*", "*/*") if name in ranges)
        return next(found, 0.0)

    best = max(offers, key=weight)  # the first of equals
    return best if weight(best) > 0.0 else None
