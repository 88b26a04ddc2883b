"""Sinks for pushes under the contract: a document is a payload, its id is the device."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from aggregator.push import Address, Notification
from aggregator.sinks import from_url
from aggregator.testing.gateways import Apns, Fcm
from tests.contract.sink_contract import SinkContract
from tests.pushes import PushItem

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from aggregator.sinks.base import Sink

pytestmark = pytest.mark.integration


class Addressed:
    """A sink whose items get an address made of their id, as a route for pushes would give them."""

    def __init__(self, sink: Any, platform: str, names: dict[str, str]) -> None:
        self._sink = sink
        self._platform = platform
        self._names = names
        # what the largest payloads may have together
        self.limits = replace(sink.limits, bytes=8 * 4000)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sink, name)

    def write(self, items: Any) -> Any:
        return self._sink.write([self._push(item) for item in items])

    def _push(self, item: Any) -> PushItem:
        token = sha256(item.id.encode("utf-8", "surrogatepass")).hexdigest()
        self._names[token] = item.id
        notification = Notification(payload=self._payload(item.document), campaign="c1")
        device = item.id.encode("utf-8", "replace").decode()
        return PushItem(Address(token, device, self._platform, "", 0.0, 0, notification))

    def _payload(self, document: bytes) -> bytes:
        if self._platform == "fcm":  # texts alone
            return orjson.dumps({"data": {"document": document.decode()}})
        return b'{"aps":{},"document":%b}' % document


class PushContract(SinkContract):
    knows_ids = False
    platform: str
    gateway_class: Any
    options: dict[str, str] = {}  # noqa: RUF012 - constant

    @pytest.fixture
    def gateway(self) -> Iterator[Any]:
        with self.gateway_class() as gateway:
            yield gateway

    @pytest.fixture
    def names(self) -> dict[str, str]:
        return {}

    @pytest.fixture
    def sink_factory(self, gateway: Any, names: dict[str, str]) -> Callable[[], Sink]:
        # thousands of pushes to a simulator in Python on a busy machine: nobody may be given up
        options = {"timeout": "60s", **self.options}
        return lambda: Addressed(from_url(gateway.sink_url(**options)), self.platform, names)

    @pytest.fixture
    def read_back(self, gateway: Any, names: dict[str, str]) -> Callable[[], list[tuple[Any, Any]]]:
        def read() -> list[tuple[Any, Any]]:
            delivered = [entry for entry in gateway.journal if entry.delivered]
            return [(names[entry.token], self.document(entry.document)) for entry in delivered]

        return read

    def document(self, sent: Any) -> Any:
        return sent["document"]


class TestApns(PushContract):
    platform = "apns"
    gateway_class = Apns


class TestAioapns(TestApns):
    options = {"engine": "aioapns"}  # noqa: RUF012 - constant


class TestFcm(PushContract):
    platform = "fcm"
    gateway_class = Fcm

    def document(self, sent: Any) -> Any:
        return orjson.loads(sent["message"]["data"]["document"])
