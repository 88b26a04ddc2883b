"""What RabbitMQ's management API tells beyond AMQP: policies, alarms, the broker's clock. It is only read."""

from __future__ import annotations

import base64
import http.client
import re
import ssl
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

import orjson

from aggregator.clock import SYSTEM_CLOCK
from aggregator.doctor.finding import WAIT_SECONDS, clock_finding, error, note, ok, warning
from aggregator.doctor.network import skew

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from aggregator.doctor.finding import Finding

#: Where it listens unless somebody has said otherwise.
PORTS = {"http": 15672, "https": 15671}
#: The share of the broker's files beyond which there is no room for more connections.
FULL_SHARE = 0.8


class Reply(NamedTuple):
    """An answer: its status, its decoded body, and how far its clock is ahead (seconds, exactness)."""

    status: int
    body: Any
    clock: tuple[float, float] | None


class Management:
    """Asks one broker's API with the user of its AMQP URL; ``url`` may name another place and user."""

    def __init__(self, broker: str, url: str | None = None, ca: str | None = None) -> None:
        parts = urlsplit(broker.partition(";")[0])
        place = urlsplit(url) if url else None
        self._tls = (place.scheme if place else parts.scheme) in {"https", "amqps"}
        scheme = "https" if self._tls else "http"
        self._host = (place and place.hostname) or parts.hostname or "localhost"
        self._port = (place and place.port) or PORTS[scheme]
        user, password = (place, place) if place and place.username else (parts, parts)
        words = f"{unquote(user.username or 'guest')}:{unquote(password.password or 'guest')}"
        self._headers = {"authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}
        self._context = ssl.create_default_context(cafile=ca) if self._tls else None
        self.where = f"{scheme}://{self._host}:{self._port}"

    def get(self, path: str) -> Reply:
        """Ask for one thing. Raises ``OSError`` or ``HTTPException`` where nobody answers."""
        if self._context is not None:
            link: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=WAIT_SECONDS, context=self._context
            )
        else:
            link = http.client.HTTPConnection(self._host, self._port, timeout=WAIT_SECONDS)
        with closing(link):
            began = SYSTEM_CLOCK.time()
            link.request("GET", path, headers=self._headers)
            answer = link.getresponse()
            date, body = answer.headers.get("date"), answer.read()
            clock = skew(date, began, SYSTEM_CLOCK.time()) if date else None
        try:
            return Reply(answer.status, orjson.loads(body), clock)
        except orjson.JSONDecodeError:
            return Reply(answer.status, None, clock)

    def queue(self, vhost: str, name: str) -> Mapping[str, Any]:
        """Return what it says of a queue; nothing where it says nothing."""
        where = quote(vhost, safe="")
        reply = self.get(f"/api/queues/{where}/{quote(name, safe='')}")
        if reply.status != http.client.OK or not isinstance(reply.body, dict):
            return {}
        if "effective_policy_definition" in reply.body:
            return reply.body
        # a queue tells that with its first statistics, some seconds after it was made
        policies = self.get(f"/api/policies/{where}").body
        found = effective(policies if isinstance(policies, list) else [], name)
        return {**reply.body, "effective_policy_definition": found}

    def findings(self) -> Iterator[Finding]:
        """Look at clock, alarms and files of all nodes."""
        about = "management API"
        reply = self.get("/api/overview")
        if reply.status != http.client.OK:
            yield unseen(f"{self.where} answers {reply.status}")
            return
        yield ok(about, f"{self.where} answers")
        if reply.clock:
            yield clock_finding("broker's clock", *reply.clock)
        nodes = self.get("/api/nodes")
        for node in nodes.body if isinstance(nodes.body, list) else ():
            yield from _node(node)


def effective(policies: Sequence[Any], name: str) -> Mapping[str, Any]:
    """Return what policies set for a queue: of those that match the one of the highest priority."""
    matching = [
        policy
        for policy in policies
        if policy.get("apply-to") != "exchanges" and re.search(policy.get("pattern", "$^"), name)
    ]
    best: Mapping[str, Any] = max(matching, key=lambda policy: policy.get("priority", 0), default={})
    definition: Mapping[str, Any] = best.get("definition", {})
    return definition


def unseen(why: str) -> Finding:
    """Return the note that the API cannot be asked."""
    then = "policies, alarms and the broker's clock are not seen"
    return note("management API", why, then, "--management http://user:password@HOST:15672, or look there")


def _node(node: Mapping[str, Any]) -> Iterator[Finding]:
    about = f"node {node.get('name', '?')}"
    if node.get("running") is False:
        yield warning(about, "does not run", "queues with their leader or their only copy there are away")
        return
    for alarm, what in (("mem_alarm", "memory"), ("disk_free_alarm", "disk space")):
        if node.get(alarm):
            then = "publishers are blocked: nothing can be dead-lettered, and refused messages pile up here"
            yield error(about, f"its alarm for {what} is on", then, f"free some {what} at the broker")
    used, total = node.get("fd_used"), node.get("fd_total")
    if isinstance(used, int) and isinstance(total, int) and used > total * FULL_SHARE:
        says = f"{used} of {total} file descriptors are used"
        yield warning(about, says, "further connections are refused", "raise the node's LimitNOFILE")
