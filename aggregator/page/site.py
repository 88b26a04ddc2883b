"""Answers requests for the live page: a WSGI application beside /metrics.

``GET`` shows, and changes nothing. ``POST`` does something, for whoever has the token.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

import structlog

from aggregator.page import html
from aggregator.page.access import SESSION_SECONDS, cookie_name, is_own
from aggregator.page.joined import without_details
from aggregator.page.markup import el
from aggregator.page.pieces import Visitor
from aggregator.page.refusals import dead_letters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from aggregator.page.access import Access, Environ, Session
    from aggregator.page.joined import Status, Watching

    Row = dict[str, Any]

log = structlog.get_logger()

HEADERS = {
    # everything comes from here, nothing is inline, nobody frames it
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    # forms of ours say where they come from; nobody else learns of this address
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
#: Commands of aggregator.commands that can be given here.
COMMANDS = frozenset({"flush", "pause", "resume"})
#: Bytes of a request's body, and of a query; fields of either.
LONGEST_BODY, LONGEST_QUERY, MOST_FIELDS = 16_384, 8_192, 8
_FILES = {
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
_HTML, _JSON, _TEXT = "text/html; charset=utf-8", "application/json", "text/plain; charset=utf-8"


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    body: bytes
    kind: str = _HTML
    status: HTTPStatus = HTTPStatus.OK
    headers: tuple[tuple[str, str], ...] = ()


class Site:
    """The pages. ``details``: who sees keys of groups and details of refusals.

    ``shown``: everybody who may look; ``hidden``: nobody; ``private``: who has the token.
    """

    def __init__(self, watching: Watching, status: Status, access: Access, *, details: str) -> None:
        self._watching = watching
        self._status = status
        self._access = access
        self._details = details
        self._pages: dict[str, Callable[[Environ], Answer]] = {
            "/": self._overview,
            "/status.json": self._json,
            "/dead-letters": self._dead_letters,
        }
        self._deeds: dict[str, Callable[[Environ], Answer]] = {"/actions": self._act}
        if access.guarded:
            self._pages["/sign-in"] = lambda environ: self._form(environ, "", HTTPStatus.OK)
            self._deeds |= {"/sign-in": self._sign_in, "/sign-out": self._sign_out}

    def __call__(self, environ: Environ, start_response: Any) -> Iterable[bytes]:
        """Answer a request."""
        try:
            answer = self._answer(environ)
        except TimeoutError:  # the body did not come
            answer = _refusal(HTTPStatus.REQUEST_TIMEOUT, "the request took too long")
        except Exception:
            # a fault of ours; its words may hold anything
            log.exception("page_failed")
            answer = _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "an internal error; see the log")
        headers = {**HEADERS, "Content-Type": answer.kind, "Content-Length": str(len(answer.body))}
        status = f"{answer.status.value} {answer.status.phrase}"
        start_response(status, [*headers.items(), *answer.headers])
        return [] if environ.get("REQUEST_METHOD") == "HEAD" else [answer.body]

    def _answer(self, environ: Environ) -> Answer:
        method, path = environ.get("REQUEST_METHOD", ""), environ.get("PATH_INFO", "")
        host = environ.get("HTTP_HOST", "")
        if not self._access.knows(host):
            words = f"{host[:100]!r} is no name of this service; page_hosts may name it"
            return _refusal(HTTPStatus.MISDIRECTED_REQUEST, words)
        static = path.removeprefix("/page/") if path.startswith("/page/") else None
        allowed = (path in self._pages or static in _FILES) * ["GET", "HEAD"] + (path in self._deeds) * [
            "POST"
        ]
        if not allowed:
            return _refusal(HTTPStatus.NOT_FOUND, "/, /status.json, /metrics, /healthz and /readyz are here")
        if method not in allowed:
            words = ", ".join(allowed)
            return _refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{words} is taken here", ("Allow", words))
        if method == "POST":
            return self._judged(environ, self._deeds[path])
        if len(environ.get("QUERY_STRING", "")) > LONGEST_QUERY:
            return _refusal(HTTPStatus.REQUEST_URI_TOO_LONG, "the query is too long")
        return _static(static) if static is not None else self._pages[path](environ)

    # ── looking ──

    def _overview(self, environ: Environ) -> Answer:
        session = self._access.session(environ)
        visitor = self._visitor(environ, session)
        if session is not None:
            session.said = ""
        status = self._seen(visitor)
        stopped = [route["route"] for route in status["routes"] if route["state"] != "running"]
        title = f"{len(stopped)} not running" if stopped else ""
        return Answer(html.document(title, html.overview(status, visitor), visitor=visitor, live=True))

    def _json(self, environ: Environ) -> Answer:
        visitor = self._visitor(environ, self._access.session(environ))
        return Answer(json.dumps(self._seen(visitor)).encode(), _JSON)

    def _dead_letters(self, environ: Environ) -> Answer:
        given = _parsed(environ.get("QUERY_STRING", ""))
        name, reason = given.get("route", ""), given.get("reason", "")
        visitor = self._visitor(environ, self._access.session(environ))
        route = next((each for each in self._seen(visitor)["routes"] if each["route"] == name), None)
        known = route is not None and (
            reason in route["totals"]["dead_letters"]
            or any(each["reason"] == reason for each in route["refusals"])
        )
        if route is None or not known:
            words = html.document(
                "No such dead letters",
                el("h1", "No such dead letters"),
                el("p", "No message of this route was refused for this reason since the start. "),
                el("p", el("a", "All routes", href="/")),
                visitor=visitor,
                live=False,
            )
            return Answer(words, status=HTTPStatus.NOT_FOUND)
        main = dead_letters(route, reason)
        return Answer(html.document(reason, main, visitor=visitor, live=True))

    def _seen(self, visitor: Visitor) -> Row:
        status = self._status.now()
        return status if visitor.details else without_details(status)

    def _visitor(self, environ: Environ, session: Session | None) -> Visitor:
        access = self._access
        signed_in = session is not None or access.bearer(environ) is True
        return Visitor(
            guarded=access.guarded,
            signed_in=session is not None,
            details=self._details == "shown" or (self._details == "private" and signed_in),
            said=session.said if session is not None else "",
        )

    # ── doing ──

    def _judged(self, environ: Environ, deed: Callable[[Environ], Answer]) -> Answer:
        """Do what is asked for if a page of ours, or nobody's page, asks for it."""
        own = is_own(environ)
        if own is False or (own is None and self._access.session(environ) is not None):
            return _refusal(HTTPStatus.FORBIDDEN, "this does not come from a page of this service")
        length = environ.get("CONTENT_LENGTH") or ""
        if not (length.isascii() and length.isdigit()):
            return _refusal(HTTPStatus.LENGTH_REQUIRED, "a body with its length is needed")
        if int(length) > LONGEST_BODY:
            return _refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"at most {LONGEST_BODY} bytes are taken")
        return deed(environ)

    def _act(self, environ: Environ) -> Answer:
        access = self._access
        session, bearer = access.session(environ), access.bearer(environ)
        if not access.guarded:
            return _refusal(HTTPStatus.FORBIDDEN, "this page only shows: no page_token is set")
        if session is None and not bearer:
            words = (
                "the token is wrong" if bearer is False else "sign in, or send Authorization: Bearer TOKEN"
            )
            return _refusal(HTTPStatus.FORBIDDEN, words, ("WWW-Authenticate", "Bearer"))
        try:
            command, arguments = _order(environ)
        except ValueError as exc:
            return _refusal(HTTPStatus.BAD_REQUEST, str(exc))
        answers = self._watching.command(command, arguments)
        self._status.forget()
        log.info("page_command", command=command, client=environ.get("REMOTE_ADDR", ""))
        if bearer or environ.get("HTTP_ACCEPT", "") == _JSON:
            return _told(command, answers)
        if session is not None:
            session.said = said_of(command, answers)
        return Answer(b"", _TEXT, HTTPStatus.SEE_OTHER, (("Location", "/"),))

    def _sign_in(self, environ: Environ) -> Answer:
        token = _fields(environ).get("token", "")
        if not self._access.fits(token):
            log.warning("page_token_wrong", client=environ.get("REMOTE_ADDR", ""))
            return self._form(environ, "This is not the token.", HTTPStatus.FORBIDDEN)
        word, name = self._access.sign_in(), cookie_name(environ)
        cookie = f"{name}={word}; Path=/; Max-Age={SESSION_SECONDS}; HttpOnly; SameSite=Strict"
        return Answer(b"", _TEXT, HTTPStatus.SEE_OTHER, (("Location", "/"), ("Set-Cookie", cookie)))

    def _sign_out(self, environ: Environ) -> Answer:
        self._access.sign_out(environ)
        cookie = f"{cookie_name(environ)}=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict"
        return Answer(b"", _TEXT, HTTPStatus.SEE_OTHER, (("Location", "/"), ("Set-Cookie", cookie)))

    def _form(self, environ: Environ, problem: str, status: HTTPStatus) -> Answer:
        visitor = self._visitor(environ, self._access.session(environ))
        page = html.document("Sign in", html.sign_in(problem), visitor=visitor, live=False)
        return Answer(page, status=status)


def said_of(command: str, answers: Mapping[int, Row]) -> str:
    """Return what became of a command, for people."""
    if not answers:
        return "Nobody has answered; nothing may have been done."
    refused = list(dict.fromkeys(answer["refused"] for answer in answers.values() if "refused" in answer))
    rows = [row for answer in answers.values() for row in answer.get("ok", ())]
    names = ", ".join(dict.fromkeys(row["route"] for row in rows))
    if refused:
        return f"Refused: {'; '.join(refused)}"
    if command == "flush":
        groups = sum(row["groups"] for row in rows)
        return f"{names}: {groups} {'group' if groups == 1 else 'groups'} completed."
    return f"{names}: {', '.join(dict.fromkeys(row['state'] for row in rows))}."


def _told(command: str, answers: Mapping[int, Row]) -> Answer:
    right = bool(answers) and all("ok" in answer for answer in answers.values())
    body = {
        "said": said_of(command, answers),
        "answers": [{"process": number, **answer} for number, answer in sorted(answers.items())],
    }
    return Answer(json.dumps(body).encode(), _JSON, HTTPStatus.OK if right else HTTPStatus.CONFLICT)


def _order(environ: Environ) -> tuple[str, Row]:
    """Return the command that a request gives. Raises ``ValueError``."""
    if environ.get("CONTENT_TYPE", "").partition(";")[0].strip().lower() == _JSON:
        try:
            given = json.loads(_read(environ))
        except ValueError:
            raise ValueError("the body is no JSON") from None
        if not isinstance(given, dict):
            raise ValueError("the body is no object")
        command, arguments = given.pop("command", None), given
    else:
        fields = {name: unquote(value, errors="surrogatepass") for name, value in _fields(environ).items()}
        command = fields.get("command")
        arguments = {name: [fields["key"]] if name == "keys" else fields[name] for name in _given(fields)}
    if not isinstance(command, str) or command not in COMMANDS:
        raise ValueError(f"command: {', '.join(sorted(COMMANDS))} can be given here")
    return command, arguments


def _given(fields: Mapping[str, str]) -> list[str]:
    return ["route"] * ("route" in fields) + ["keys"] * ("key" in fields)


def _fields(environ: Environ) -> dict[str, str]:
    return _parsed(_read(environ).decode("utf-8", "replace"))


def _parsed(text: str) -> dict[str, str]:
    """Return the fields of a form, or of a query; nothing where there are too many."""
    try:
        found = parse_qs(text, keep_blank_values=True, max_num_fields=MOST_FIELDS)
    except ValueError:
        return {}
    return {name: values[0] for name, values in found.items()}


def _read(environ: Environ) -> bytes:
    """Return the body; its length has been looked at."""
    body: bytes = environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))
    return body


def _refusal(status: HTTPStatus, words: str, *headers: tuple[str, str]) -> Answer:
    return Answer(f"{words}\n".encode("utf-8", "replace"), _TEXT, status, headers)


@cache
def _file(name: str) -> bytes:
    return files("aggregator.page").joinpath("files", name).read_bytes()


def _static(name: str) -> Answer:
    # never a path: one of three names
    return Answer(_file(name), _FILES[name])
