"""Progress for many who watch: one question a second for each campaign, however many they are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fastapi.sse import KEEPALIVE_COMMENT, format_sse_event

from producers.campaigns.answers import ENDED
from producers.campaigns.problems import ProblemError, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from producers.campaigns.answers import Progress
    from producers.campaigns.service import CampaignService

_SILENCE = 15.0


class _Watch:
    """One campaign's latest event, and who waits for the next. A slow reader misses some, never the last."""

    def __init__(self) -> None:
        self.number = 0
        self.event = b""
        self.last = False
        self.watchers = 0
        self.changed = asyncio.Condition()
        self.task: asyncio.Task[None] | None = None


class Watching:
    """``interval``: seconds between two questions; ``most``: watchers of all campaigns together."""

    def __init__(self, service: CampaignService, interval: float, most: int) -> None:
        self._service = service
        self._interval = interval
        self._most = most
        self._watches: dict[str, _Watch] = {}
        self._watchers = 0
        self._ending = False

    async def events(self, name: str) -> AsyncIterator[bytes]:
        """Check that there is such a campaign and a place left; return its progress as server-sent events.

        It ends with the event ``end`` once the campaign is over.
        """
        if self._watchers >= self._most:
            error = ProblemError(503, "watchers", f"{self._watchers} watch already; try again later")
            error.headers["retry-after"] = "10"
            raise error
        await self._service.progress(name)
        return self._stream(name)

    async def _stream(self, name: str) -> AsyncIterator[bytes]:
        watch = self._watches.setdefault(name, _Watch())
        watch.watchers += 1
        self._watchers += 1
        if watch.task is None:
            watch.task = asyncio.create_task(self._poll(name, watch))
        seen = 0
        try:
            while not self._ending:
                try:
                    async with asyncio.timeout(_SILENCE), watch.changed:
                        await watch.changed.wait_for(lambda: watch.number > seen or self._ending)  # noqa: B023
                except TimeoutError:
                    yield KEEPALIVE_COMMENT
                    continue
                seen, last = watch.number, watch.last
                yield watch.event
                if last:
                    break
        finally:
            watch.watchers -= 1
            self._watchers -= 1
            if not watch.watchers:
                self._watches.pop(name, None)
                if watch.task is not None:
                    watch.task.cancel()

    async def _poll(self, name: str, watch: _Watch) -> None:
        while not watch.last:
            try:
                progress = await self._service.progress(name)
            except ProblemError as exc:
                body = problem(exc.status, exc.word, str(exc)).body
                await self._tell(
                    watch, format_sse_event(event="problem", data_str=bytes(body).decode()), last=False
                )
            else:
                await self._tell(
                    watch, _event(progress), last=progress.state in ENDED and not _left(progress)
                )
            await asyncio.sleep(self._interval)

    @staticmethod
    async def _tell(watch: _Watch, event: bytes, *, last: bool) -> None:
        async with watch.changed:
            watch.number += 1
            watch.last = last
            watch.event = event + format_sse_event(event="end", data_str="{}") if last else event
            watch.changed.notify_all()

    async def close(self) -> None:
        """End all streams."""
        self._ending = True
        for watch in list(self._watches.values()):
            async with watch.changed:
                watch.changed.notify_all()


def _event(progress: Progress) -> bytes:
    return format_sse_event(event="progress", data_str=progress.model_dump_json())


def _left(progress: Progress) -> bool:
    return any(each.in_flight or each.waiting for each in progress.platforms)
