"""The live page before routes in memory: what its tests look at, and a client of it without sockets."""

from __future__ import annotations

import io
import json
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aggregator.commands import Commands, Controlled
from aggregator.page.access import Access
from aggregator.page.joined import Status
from aggregator.page.site import Site
from aggregator.page.view import Viewer

if TYPE_CHECKING:
    from aggregator.testing import Harness

TOKEN = "a-token-that-nobody-knows"
STATES = ("connecting", "consuming", "waiting")


class Watched:
    """A route of a harness, as the page sees it."""

    failure = ""
    problem = ""

    def __init__(self, harness: Harness) -> None:
        self.harness = harness
        self.queue_states: dict[str, int] = {}

    @property
    def pipeline(self):
        return self.harness._process.pipeline

    def count_workers(self, state):
        return 2 if state == ("consuming" if self.pipeline.taking else "waiting") else 0


class Stage:
    """Routes in memory, their status, and the page over them. ``Stage(orders=Harness(…))``."""

    def __init__(
        self,
        *,
        token: str | None = None,
        hosts: tuple[str, ...] = (),
        details: str = "shown",
        **harnesses: Harness,
    ) -> None:
        self.harnesses = harnesses
        first = next(iter(harnesses.values()))
        self.clock = first.clock
        settings = {name: each.route.model_copy(update={"name": name}) for name, each in harnesses.items()}
        self.routes = {name: Watched(each) for name, each in harnesses.items()}
        self.viewer = Viewer(
            {name: (settings[name], self.routes[name]) for name in settings}, STATES, self.clock
        )
        self.commands = Commands(
            {name: Controlled(settings[name], self.routes[name].pipeline) for name in settings},
            totals=dict,
            clock=self.clock,
            process=7,
        )
        self.status = Status(self, self.clock)
        self.said: list[tuple[str, Any]] = []
        self.wrong: list[str] = []
        self.site = Site(self, self.status, Access(token, hosts, self.clock), details=details)

    # ── what the page asks ──

    def views(self):
        return {0: {**self.viewer.view(), "faults": [], "notes": self.wrong}}

    def counters(self):
        for name, harness in self.harnesses.items():
            for metric in harness._metrics.counters():
                for sample in metric.samples:
                    sample.labels["route"] = name
                yield metric

    def command(self, name, arguments):
        self.said.append((name, arguments))
        answer = self.commands.answer(name, arguments)
        for harness in self.harnesses.values():
            harness.advance(0)
        return {0: answer}

    # ── what tests ask ──

    def now(self):
        """Return the status of this moment."""
        self.status.forget()
        return self.status.now()

    def route(self, name="orders"):
        return next(each for each in self.now()["routes"] if each["route"] == name)

    def ask(self, path="/", method="GET", *, query="", form=None, body=None, cookie="", **headers):
        """Send a request; return what came back."""
        self.status.forget()
        data = urlencode(form).encode() if form is not None else body or b""
        environ = {
            "REQUEST_METHOD": method,
            "PATH_INFO": path,
            "QUERY_STRING": urlencode(query) if isinstance(query, dict) else query,
            "HTTP_HOST": "localhost:9464",
            "SERVER_PORT": "9464",
            "REMOTE_ADDR": "127.0.0.1",
            "wsgi.input": io.BytesIO(data),
            "CONTENT_LENGTH": str(len(data)) if method == "POST" else "",
            **({"HTTP_COOKIE": cookie} if cookie else {}),
            **headers,
        }
        return Reply(self.site, {name: value for name, value in environ.items() if value is not None})


class Reply:
    """An answer of the page."""

    def __init__(self, site, environ):
        def start(status, headers):
            self.status, self.headers = int(status[:3]), dict(headers)

        self.body = b"".join(site(environ, start))
        self.text = self.body.decode()

    @property
    def cookie(self):
        """The cookie as a browser sends it back."""
        found = SimpleCookie(self.headers["Set-Cookie"])
        return "; ".join(f"{name}={morsel.value}" for name, morsel in found.items())

    @property
    def json(self):
        return json.loads(self.body)
