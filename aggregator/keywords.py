"""The options that the Python API takes as keywords, with the types that code gives them.

Names, defaults and meaning are those of docs/configuration.md; a test compares them. What says when
a group is complete is said by ``complete``. ``None`` is the file's ``"none"``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import timedelta
    from pathlib import Path

    from aggregator.aggregation import Function as AggregateFunction
    from aggregator.correlation import Source
    from aggregator.keys import Key

    Seconds = float | str | timedelta
    """Seconds, ``"500ms"``, ``"1h30m"``, or a ``timedelta``."""
    Bytes = int | str
    """Bytes, ``"10MB"``, ``"512KiB"``."""


class RouteKeywords(TypedDict, total=False):
    """What can be told one route, or all of them by the application."""

    vhost: str | None
    broker_ca: str | Path | None
    amqp_input: Literal["batched", "standard"]
    server_hostname: str | None
    workers: int | None
    prefetch: int | None
    max_held: Bytes
    max_message: Bytes
    messages: Literal["plain", "celery"]
    celery_document: str
    celery_eta: Literal["dead-letter", "write"]
    ack_deadline: Seconds
    delivery_limit: int
    isolate_at: int | None
    dead_letter: str | None
    on_refused: Literal["dead-letter", "stop"]
    retry: str | Sequence[str] | None
    retry_reasons: str | Sequence[str]
    quiet: str | Sequence[str] | None
    time_zone: str
    expires: Key | Source | None
    closed_keys: int
    closed_for: Seconds | None
    late: Literal["new", "alone", "dead-letter"]
    keyed_at_shutdown: Literal["give-back", "write"]
    max_groups: int | None
    partitions: int | None
    on_missing_key: str
    id: Key | Source | None
    aggregate: str | AggregateFunction
    merge: Mapping[str, str] | None
    seen: str | None
    results: str | None
    trust_json: bool
    concurrency: int
    adaptive_concurrency: bool
    request_items: int | None
    request_bytes: Bytes
    linger: Seconds | None
    retry_first: Seconds
    retry_max: Seconds
    breaker_share: float
    breaker_window: int


class OwnRouteKeywords(RouteKeywords, total=False):
    """What can be told one route alone."""

    broker: str


class ProcessKeywords(RouteKeywords, total=False):
    """What can be told the process."""

    processes: int
    route_map_exchange: str
    grace: Seconds
    heartbeat: Seconds
    control: bool
    control_namespace: str
    control_broker: str | None
    metrics_port: int | None
    metrics_host: str
    page_token: str | None
    page_details: Literal["auto", "shown", "hidden"]
    page_hosts: str | Sequence[str] | None
    log_format: Literal["auto", "console", "json", "logfmt"]
    summary: Literal["auto", "on", "off"]
    log_level: Literal["debug", "info", "warning", "error"]


class PeriodicKeywords(TypedDict, total=False):
    """What can be said of a message that is published by the clock."""

    crontab: str | None
    interval: Seconds | None
    time_zone: str
    queue: str | None
    exchange: str | None
    routing_key: str
    body: str | Mapping[str, Any] | Sequence[Any] | None
    content_type: str | None
    type: str | None
    correlation_id: str | None
    headers: Mapping[str, bool | float | str] | None
    expiration: Seconds | None
    catch_up: Seconds
