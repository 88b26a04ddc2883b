"""Pushes of several apps, to either platform, by one route: ``push:apps.toml``.

The file has a table for each app, chosen by the message's ``app`` and ``platform``; ``url`` is one
sink or a list of them::

    [apps.news]
    url = ["apns+https://api.push.apple.com/?key=news.p8&key_id=…&team_id=…&topic=com.example.news",
           "fcm+https://fcm.googleapis.com/?credentials=news.json"]

Files named in it are relative to its own folder. An app that fails keeps its own pushes back, no
other's. Where a platform has one app alone, messages need not name it.
"""

from __future__ import annotations

import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

import structlog

from aggregator.backoff import Backoff
from aggregator.clock import SYSTEM_CLOCK
from aggregator.errors import (
    ConfigurationError,
    SinkBlockedError,
    SinkError,
    SinkUnavailableError,
)
from aggregator.sinks.base import WRITTEN, Fate, Limits, Verdict
from aggregator.sinks.push_batch import addressed
from aggregator.sinks.push_options import read_file
from aggregator.sinks.url_options import fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from urllib.parse import SplitResult

    from aggregator.clock import Clock
    from aggregator.delivery import Item
    from aggregator.metrics import Metrics
    from aggregator.sinks.push_sink import PushSink

_log = structlog.get_logger("aggregator.push")
PLATFORMS = ("apns", "fcm")


def from_url(url: SplitResult) -> AppsSink:
    """Return the sink that ``url`` names. Raises ``ConfigurationError`` for the field ``sink``."""
    if url.netloc or url.query or url.fragment:
        raise fault("push: it is written push:apps.toml, without options")
    if not url.path:
        raise fault("push: a file is needed, like push:apps.toml")
    file = Path(unquote(url.path))
    try:
        content = tomllib.loads(read_file("push", file).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise fault(f"push: {file} is no TOML: {exc}") from None
    return AppsSink(_read(content, file), file)


def _read(content: dict[str, Any], file: Path) -> dict[tuple[str, str], PushSink]:
    apps = content.get("apps")
    if content.keys() - {"apps"} or not isinstance(apps, dict) or not apps:
        raise fault(f"push: {file} has tables [apps.NAME] and nothing else")
    sinks: dict[tuple[str, str], PushSink] = {}
    for name, table in apps.items():
        where = f"push: {file}, apps.{name}"
        urls = table.get("url") if isinstance(table, dict) and table.keys() == {"url"} else None
        urls = [urls] if isinstance(urls, str) else urls
        if not isinstance(urls, list) or not urls or not all(isinstance(url, str) for url in urls):
            raise fault(f'{where}: it has url = "apns+https://…", or a list of them, and nothing else')
        for url in urls:
            platform = url.partition("+")[0]
            if platform not in PLATFORMS or (platform, name) in sinks:
                raise fault(f"{where}: one url for apns+https and one for fcm+https, each at most once")
            try:
                sinks[platform, name] = _sink(platform, url, file.parent, name)
            except ConfigurationError as exc:
                raise fault(f"{where}: {exc.problem}") from None
            except ValueError as exc:  # urlsplit's own words
                raise fault(f"{where}: {exc}") from None
    return sinks


def _sink(platform: str, url: str, base: Path, name: str) -> PushSink:
    parts = urlsplit(url)
    if parts.scheme != f"{platform}+https":
        raise fault(f"unknown scheme {parts.scheme!r}; {platform}+https is needed")
    from importlib import import_module  # noqa: PLC0415

    return cast("PushSink", import_module(f"aggregator.sinks.{platform}").from_url(parts, base, name))


@dataclass(slots=True)
class _App:
    """A sink, and how it fares: it is opened when it is needed, and again after a pause if it fails."""

    sink: PushSink
    backoff: Backoff
    clock: Clock
    opened: bool = False
    failures: int = 0
    rests_until: float = 0.0
    problem: str = ""
    fate: Fate = Fate.RETRY

    def open(self) -> SinkError | None:
        """Open it; return what went wrong."""
        try:
            self.sink.open()
        except SinkError as exc:
            self.failed(exc)
            return exc
        self.opened, self.failures = True, 0
        return None

    def write(self, items: Sequence[Item]) -> Sequence[Verdict]:
        """Push the items; what cannot be pushed now is put off, with the reason."""
        if self.clock.monotonic() < self.rests_until:
            return self._put_off(items)
        try:
            if not self.opened:
                self.sink.open()
                self.opened = True
            verdicts = self.sink.write(items)
        except SinkError as exc:
            self.failed(exc)
            return self._put_off(items)
        if verdicts is None:
            self.failures = 0
            return [WRITTEN] * len(items)
        blocked = next((verdict for verdict in verdicts if verdict.fate is Fate.BLOCKED), None)
        if blocked is None:
            self.failures = 0
            return verdicts
        self.failed(SinkBlockedError(f"{blocked.reason}: {blocked.detail}"))
        return [self._own(verdict) for verdict in verdicts]

    def failed(self, error: SinkError) -> None:
        """Let it rest, for longer with each failure."""
        self.failures += 1
        self.rests_until = self.clock.monotonic() + self.backoff.pause(self.failures)
        self.problem = str(error)
        if self.failures == 1:
            _log.warning("app_fails", sink=self.sink.where(), problem=self.problem)

    def _put_off(self, items: Sequence[Item]) -> list[Verdict]:
        return [Verdict(Fate.RETRY, "app-fails", self.problem)] * len(items)

    def _own(self, verdict: Verdict) -> Verdict:
        """Return a verdict that pauses this app's pushes, not the route."""
        if verdict.fate is not Fate.BLOCKED:
            return verdict
        return Verdict(Fate.RETRY, verdict.reason, verdict.detail, verdict.status)


class AppsSink:
    """Several apps. Pushes of one write go to their gateways side by side."""

    def __init__(
        self,
        sinks: Mapping[tuple[str, str], PushSink],
        file: Path,
        *,
        backoff: Backoff | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._file = file
        self._apps = {key: _App(sink, backoff or Backoff(1.0, 60.0), clock) for key, sink in sinks.items()}
        # a platform with one app serves messages that name none
        for platform in PLATFORMS:
            only = [app for (kind, _), app in self._apps.items() if kind == platform]
            if len(only) == 1:
                self._apps.setdefault((platform, ""), only[0])
        limits = [sink.limits for sink in sinks.values()]
        self.limits = Limits(
            min(limit.items or 1000 for limit in limits),
            min(limit.bytes for limit in limits),
            min(limit.concurrency for limit in limits),
        )
        self._pool: ThreadPoolExecutor | None = None

    def count_in(self, metrics: Metrics) -> None:
        """Count pushes in the process's metrics from now on."""
        for app in self._distinct():
            app.sink.count_in(metrics)

    def open(self) -> None:
        """Open all apps; those that fail are tried again later. Raises a ``SinkError`` if all of them do."""
        faults = [app.open() for app in self._distinct()]
        failed = [fault for fault in faults if fault is not None]
        if len(failed) == len(faults):
            # one that may come back by itself is worth a trial
            raise min(failed, key=lambda fault: isinstance(fault, SinkBlockedError))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(
                self.limits.concurrency * len(faults), thread_name_prefix="push-app"
            )

    def write(self, items: Sequence[Item]) -> Sequence[Verdict] | None:
        """Push all items; see :meth:`aggregator.sinks.base.Sink.write`."""
        pool = self._pool
        if pool is None:
            raise SinkUnavailableError("the sink is not open")
        verdicts: list[Verdict] = [WRITTEN] * len(items)
        shares: dict[tuple[str, str], list[int]] = {}
        for number, item in enumerate(items):
            key = self._key(item)
            if isinstance(key, Verdict):
                verdicts[number] = key
            else:
                shares.setdefault(key, []).append(number)
        work = [(self._apps[key], numbers) for key, numbers in shares.items()]
        futures = [
            (numbers, pool.submit(app.write, [items[number] for number in numbers]))
            for app, numbers in work[1:]
        ]
        done = [(numbers, app.write([items[number] for number in numbers])) for app, numbers in work[:1]]
        for numbers, told in [*done, *((numbers, future.result()) for numbers, future in futures)]:
            for number, verdict in zip(numbers, told, strict=True):
                verdicts[number] = verdict
        return None if all(verdict is WRITTEN for verdict in verdicts) else verdicts

    def close(self) -> None:
        """Close all apps."""
        pool, self._pool = self._pool, None
        if pool:
            pool.shutdown()
        for app in self._distinct():
            app.opened = False
            app.sink.close()

    def where(self) -> str:
        """Return the apps and their gateways."""
        return ", ".join(f"{name or 'any'}: {app.sink.where()}" for (_, name), app in self._named())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._file}>"

    def _key(self, item: Item) -> tuple[str, str] | Verdict:
        address = addressed(item)
        if isinstance(address, Verdict):
            return address
        key = (address.platform, address.app)
        if key in self._apps:
            return key
        known = ", ".join(name for (platform, name), _ in self._named() if platform == address.platform)
        words = f"{self._file} has {known or 'no app'} for {address.platform}"
        return Verdict(Fate.DEAD_LETTER, "unknown-app", words)

    def _named(self) -> list[tuple[tuple[str, str], _App]]:
        return [(key, app) for key, app in self._apps.items() if key[1] or len(self._apps) == 1]

    def _distinct(self) -> list[_App]:
        return [app for _, app in self._named()]
