"""What a trial sends, and by which names it finds it again."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from consumers.publisher import Outgoing, Publisher
from tests.service import channel_of, outgoing, taken

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: A busy machine is slow, and no trial is about who publishes.
CONFIRM_SECONDS = 60.0


class Sending:
    """The part of a trial that publishes; ``confirmed`` are the names of what the broker has taken."""

    broker: Any
    queue: str

    def __init__(self) -> None:
        self.confirmed: set[str] = set()
        self.published = 0
        #: messages have no id: documents are told by their numbers, and two of one are two
        self.nameless = False
        #: dead letters that were taken out of their queue meanwhile
        self._kept: set[str] = set()

    def publish(self, count: int, key: Callable[[int], str] | None = None) -> None:
        """Publish messages that nobody published before, with confirms and mandatory.

        ``key`` gives each the header of that name.
        """
        name = None if self.nameless else ""
        messages = []
        for number in range(self.published, self.published + count):
            more = {"headers": {"key": key(number)}} if key else {}
            messages.append(outgoing(self.queue, number, name=name, **more))
        self._publish(messages)

    def publish_bodies(self, bodies: Sequence[bytes], **properties: Any) -> None:
        """Publish these, with ids of their own."""
        numbered = enumerate(bodies, self.published)
        self._publish([outgoing(self.queue, number, body=body, **properties) for number, body in numbered])

    def publish_bare(self, bodies: Sequence[bytes]) -> None:
        """Publish these with no property at all; the trial has to be ``nameless``."""
        self._publish([Outgoing("", self.queue, body, {}) for body in bodies])

    def control(self, **properties: Any) -> None:
        """Publish a message that becomes no document, whatever becomes of it."""
        self._send([outgoing(self.queue, 0, body=b"{}", name=uuid.uuid4().hex, **properties)])

    def _publish(self, messages: Sequence[Outgoing]) -> None:
        start, self.published = self.published, self.published + len(messages)
        outcomes = enumerate(self._send(messages), start)
        self.confirmed.update(self._name(number) for number, outcome in outcomes if outcome is None)

    def _send(self, messages: Sequence[Outgoing]) -> Sequence[str | None]:
        publisher = Publisher(self.broker.url, confirm_timeout=CONFIRM_SECONDS)
        try:
            return publisher.publish(messages)
        finally:
            publisher.close()

    def _name(self, number: int) -> str:
        return f"{self.queue}-{number}"

    def keep_letters(self) -> None:
        """Take the dead letters out of their queue, and remember them."""
        self._kept |= self._letters()

    def _letters(self) -> set[str]:
        letters = taken(self.broker.url, f"{self.queue}.dead", decode=False)
        return {letter.properties.get("message_id", "") for letter in letters}

    def delete_exchange(self, name: str) -> None:
        """Delete an exchange; it is no error if there is none."""
        with channel_of(self.broker.url) as channel:
            channel.exchange_delete(name)

    def _names(self) -> set[str]:
        return {self._name(number) for number in range(self.published)}

    def _written(self, documents: Mapping[str, Any]) -> set[str]:
        """Return the names of the messages that documents were made of."""
        if not self.nameless:
            return set(documents)
        return {self._name(document["number"]) for document in documents.values()}
