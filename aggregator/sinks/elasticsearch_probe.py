"""Proof that a write could work now: the server, the credentials, the blocks, the index.

A check that the credentials may not make is passed over: a key that may only write is a good key.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import orjson

from aggregator.errors import SinkBlockedError, SinkError, SinkUnavailableError
from aggregator.sinks.elasticsearch_answer import request_fault

if TYPE_CHECKING:
    from aggregator.sinks.elasticsearch_client import BulkConnection, Reply
    from aggregator.sinks.elasticsearch_options import Settings

_UNKNOWN_THERE = (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.GONE)
_UNASKABLE = (HTTPStatus.BAD_REQUEST, HTTPStatus.FORBIDDEN, *_UNKNOWN_THERE)
_BLOCKS = ("read_only", "read_only_allow_delete", "write")
_INDEX_PARTS = ",".join(
    f"*.{part}" for part in ("aliases", "settings.index.blocks", "settings.index.verified_before_close")
)


def probe(connection: BulkConnection, settings: Settings) -> None:
    """Raise ``SinkUnavailableError`` or ``SinkBlockedError`` if a write could not work now."""
    check_server(connection)
    if settings.user or settings.api_key:
        check_privileges(connection, settings)
    check_cluster(connection)
    for name in settings.names:
        check_index(connection, name, must_be_alias=settings.options.require_alias)
    if settings.options.pipeline:
        check_pipeline(connection, settings.options.pipeline)


def _fault(reply: Reply) -> SinkError:
    fault = request_fault(reply.status, reply.body)
    return fault if isinstance(fault, SinkUnavailableError) else SinkBlockedError(str(fault))


def _object(reply: Reply) -> dict[str, Any] | None:
    """Return what was answered; None if the question is not allowed, or not known there."""
    if reply.status in _UNASKABLE:
        return None
    if reply.status != HTTPStatus.OK:
        raise _fault(reply)
    if not isinstance(reply.body, dict):
        raise SinkUnavailableError("the answer is no JSON object")
    return reply.body


def check_server(connection: BulkConnection) -> None:
    """Raise ``SinkBlockedError`` if what answers is another product, or too old."""
    reply = connection.get("/")
    if reply.status == HTTPStatus.BAD_REQUEST:
        raise SinkBlockedError(
            f"the client is newer than the server, perhaps: {request_fault(reply.status, reply.body)}"
        )
    if reply.status in _UNKNOWN_THERE:
        raise _fault(reply)
    body = _object(reply)
    version = body.get("version") if body else None
    number = version.get("number") if isinstance(version, dict) else None
    product = str(version.get("distribution", "elasticsearch")) if isinstance(version, dict) else None
    if product and product.lower() != connection.product.lower():
        raise SinkBlockedError(f"what answers is not {connection.product}")
    if (
        isinstance(number, str)
        and number.partition(".")[0].isdecimal()
        and int(number.partition(".")[0]) < connection.oldest
    ):
        words = f"{connection.product} {number} is too old; {connection.oldest} or newer is needed"
        raise SinkBlockedError(words)


def check_privileges(connection: BulkConnection, settings: Settings) -> None:
    """Raise ``SinkBlockedError`` if the credentials may not write to the known indices."""
    if not settings.names:
        return
    wanted = "create_doc" if settings.op == "create" else "index"
    question = {"index": [{"names": list(settings.names), "privileges": [wanted]}]}
    answer = _object(connection.post("/_security/user/_has_privileges", orjson.dumps(question)))
    if answer and answer.get("has_all_requested") is False:
        raise SinkBlockedError(f"the credentials lack the privilege {wanted} for {', '.join(settings.names)}")


def check_cluster(connection: BulkConnection) -> None:
    """Raise ``SinkBlockedError`` if the cluster is blocked as a whole."""
    answer = _object(connection.get("/_cluster/settings", {"filter_path": "*.cluster.blocks"})) or {}
    for kind in ("persistent", "transient"):
        if found := _blocks(answer.get(kind), "cluster"):
            raise SinkBlockedError(f"the cluster is blocked: {found}")


def check_index(connection: BulkConnection, name: str, *, must_be_alias: bool) -> None:
    """Raise ``SinkBlockedError`` if an index takes no writes, or is no alias where it has to be."""
    reply = connection.get(f"/{quote(name, safe='')}", {"filter_path": f"{_INDEX_PARTS},error"})
    if reply.status == HTTPStatus.NOT_FOUND:
        if must_be_alias:
            raise SinkBlockedError(f"there is no alias {name}, and require_alias is set")
        return  # it is made by the first write
    indices = _object(reply)
    if not indices:
        return
    if must_be_alias and name in indices:
        raise SinkBlockedError(f"{name} is an index, no alias, and require_alias is set")
    # an alias or a data stream writes to one of its indices; the older ones may well be read-only
    targets = [index for index in indices.values() if _is_write_index(index, name)] or list(indices.values())
    found = [_index_block(index) for index in targets]
    if all(found):
        raise SinkBlockedError(f"the index {name} is blocked: {found[0]}")


def _is_write_index(index: Any, alias: str) -> bool:
    aliases = index.get("aliases") if isinstance(index, dict) else None
    entry = aliases.get(alias) if isinstance(aliases, dict) else None
    return isinstance(entry, dict) and entry.get("is_write_index") is True


def _index_block(index: Any) -> str:
    settings = index.get("settings") if isinstance(index, dict) else None
    inner = settings.get("index") if isinstance(settings, dict) else None
    if isinstance(inner, dict) and inner.get("verified_before_close") == "true":
        return "it is closed"
    return _blocks(settings, "index")


def _blocks(settings: Any, scope: str) -> str:
    inner = settings.get(scope) if isinstance(settings, dict) else None
    blocks = inner.get("blocks") if isinstance(inner, dict) else None
    if not isinstance(blocks, dict):
        return ""
    return ", ".join(f"{scope}.blocks.{name}" for name in _BLOCKS if blocks.get(name) == "true")


def check_pipeline(connection: BulkConnection, name: str) -> None:
    """Raise ``SinkBlockedError`` if the ingest pipeline is not there."""
    reply = connection.get(f"/_ingest/pipeline/{quote(name, safe='')}", {"summary": "true"})
    if reply.status == HTTPStatus.NOT_FOUND:
        raise SinkBlockedError(f"there is no ingest pipeline {name}")
