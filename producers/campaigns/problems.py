"""Faults as ``application/problem+json`` (RFC 9457), whoever found them."""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from aggregator.errors import AggregatorError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

log = structlog.get_logger()
_SHOWN = 200


class ProblemError(AggregatorError):
    """A request that cannot be done. ``word`` names the kind (``conflict``) for programs."""

    def __init__(self, status: int, word: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.word = word
        self.more = more
        self.headers: dict[str, str] = {}


class ProblemResponse(JSONResponse):
    """A fault's body."""

    media_type = "application/problem+json"


def problem(
    status: int, word: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
) -> ProblemResponse:
    """Return the response for a fault; ``more`` are members of the body beside the standard's."""
    body = {
        "type": f"urn:problem:{word}" if word else "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        **more,
    }
    return ProblemResponse(body, status, headers=dict(headers or {}))


def install(app: FastAPI) -> None:
    """Have the app answer all its faults this way."""

    async def ours(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, ProblemError)  # noqa: S101 - registered for nothing else
        return problem(exc.status, exc.word, str(exc), exc.headers, **exc.more)

    async def theirs(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)  # noqa: S101
        return problem(exc.status_code, "", str(exc.detail), exc.headers)

    async def invalid(_request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)  # noqa: S101
        errors = [_fault(error) for error in exc.errors()]
        detail = "; ".join(f"{error['field']}: {error['problem']}" for error in errors)
        return problem(422, "invalid", detail, errors=errors)

    async def unexpected(request: Request, exc: Exception) -> Response:
        log.error("request_failed", path=request.url.path, error=type(exc).__name__, exc_info=exc)
        return problem(500, "", "a fault of the service; its log says more")

    app.add_exception_handler(ProblemError, ours)
    app.add_exception_handler(HTTPException, theirs)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(Exception, unexpected)


def _fault(error: Mapping[str, Any]) -> dict[str, str]:
    where: Sequence[str | int] = [part for part in error["loc"] if part not in {"body", "[key]"}]
    text = str(error["msg"]).removeprefix("Value error, ")
    kind, given = error["type"], error.get("input")
    if kind == "extra_forbidden":
        text = "no such field"
    elif kind == "literal_error":
        text = f"{given!r} is unknown; {error['ctx']['expected']} is needed"
    elif kind == "json_invalid":
        return {"field": "body", "problem": f"no JSON at byte {error['loc'][-1]}: {error['ctx']['error']}"}
    elif isinstance(given, (str, int, float)) and kind not in {"value_error", "missing"}:
        text = f"{str(given)[:_SHOWN]!r}: {text}"
    if not where and text.startswith("notifications.") and ": " in text:
        # found by comparing fields: the text begins with the one that is wrong
        field, _, text = text.partition(": ")
        return {"field": field, "problem": text}
    return {"field": ".".join(map(str, where)) or "body", "problem": text}
